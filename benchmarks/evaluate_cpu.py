"""Clips scored by Cnn14 on a CPU, against PANNs' evaluation loop on the same clips.

    PYTHONPATH=PLACE_OF_TORCHLIBROSA python benchmarks/evaluate_cpu.py [--rounds 7] [--clips 64] [--threads 2]

Both read int16 clips from a file and score them in float32, in batches of one size. The peer is `forward` of PANNs'
evaluator with their Cnn14, see `panns_loop.py`. Each side is a process of its own, with the same weights; before
anything is measured, the scores of both are compared.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import panns_loop
import record
import torch
from numpy.typing import NDArray
from read_loader import PannsDataset, as_arrays
from read_random import write_as_panns

from epanns.data.batches.dataset import PackDataset
from epanns.data.datasets.synthetic import SyntheticSettings, make_synthetic
from epanns.data.manifests.manifest import write_manifest
from epanns.data.packing.packer import pack_manifest
from epanns.data.packs.pack_format import PackSettings
from epanns.evaluation.predict import predict
from epanns.models.zoo import build_model


def main() -> None:
    """Make the same clips in both layouts, score them in turn, and save the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", choices=("ours", "peer"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--clips", type=int, default=64, help="in a round")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5.0)
    asked = parser.parse_args()
    if asked.side:
        torch.set_num_threads(asked.threads)
        scorer = Scorer(asked.folder, asked.batch)
        score = scorer.ours if asked.side == "ours" else scorer.peer
        record.serve(lambda: len(score()))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = SyntheticSettings(clips=asked.clips, seconds=asked.seconds, sample_rate=panns_loop.SAMPLE_RATE)
        write_manifest(make_synthetic(folder / "set", settings), folder / "set.csv")
        pack_manifest(folder / "set.csv", folder / "pack", PackSettings(seconds=asked.seconds))
        write_as_panns(folder / "panns.h5", PackDataset([folder / "pack"]).sources[0])
        both = Scorer(folder, asked.batch)
        difference = float(np.abs(both.ours() - both.peer()).max())
        if difference > 1e-5:
            raise SystemExit(f"the scores differ by {difference:g}")
        sizes = [f"--folder={folder}", f"--threads={asked.threads}", f"--batch={asked.batch}"]
        sides = [record.Side(f"--side={side}", *sizes, threads=asked.threads) for side in ("ours", "peer")]
        for side in sides:
            side()
        result = record.rates_in_turn(*sides, asked.rounds)
        for side in sides:
            side.end()
    ratio = result["ratio"]
    speed = max(result["ours_per_second"])
    result["largest_difference"] = difference
    result["headline"] = (
        f"{record.ratio_text(ratio)}, {speed:.1f} clips/s, both float32; scores differ by at most {difference:.0e}"
    )
    record.save(
        "evaluate_cpu",
        what=f"{asked.clips} clips of {asked.seconds:g} s scored by Cnn14 in batches of {asked.batch}, {asked.threads} "
        "threads, read from the pack",
        against="PANNs' evaluation loop, torchlibrosa, the same clips in their layout",
        target=">= 1.5 x",
        met=ratio["median"] >= 1.5,
        result=result,
    )


class Scorer:
    """The same network and clips on both sides."""

    def __init__(self, folder: Path, batch_size: int) -> None:
        torch.manual_seed(0)
        self.dataset, self.panns, self.batch_size = PackDataset([folder / "pack"]), folder / "panns.h5", batch_size
        self.theirs = panns_loop.PannsCnn14(len(self.dataset.labels))
        with torch.no_grad():  # untrained scores are too much alike to be compared
            self.theirs.fc_audioset.weight *= 10
        self.model = build_model("Cnn14", labels=self.dataset.labels)
        self.model.load_state_dict(self.theirs.state_dict())

    def ours(self) -> NDArray[np.float64]:
        """Return the scores, as `epanns evaluate` makes them."""
        return predict(self.model, self.dataset, batch_size=self.batch_size).scores

    def peer(self) -> NDArray[np.float64]:
        """Return the scores, as PANNs' evaluator collects them."""
        reader = PannsDataset()
        metas = [{"hdf5_path": str(self.panns), "index_in_hdf5": row} for row in range(len(self.dataset))]
        batches = (
            as_arrays([reader[meta] for meta in metas[first : first + self.batch_size]])
            for first in range(0, len(metas), self.batch_size)
        )
        return panns_loop.forward(self.theirs, batches)["clipwise_output"]


if __name__ == "__main__":
    main()
