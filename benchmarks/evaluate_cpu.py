"""Rate of scoring clips with Cnn14 on a CPU, compared with PANNs' evaluation loop on the same clips.

    PYTHONPATH=PLACE_OF_TORCHLIBROSA python benchmarks/evaluate_cpu.py [--rounds 7] [--clips 64] [--threads 2]

Both sides read int16 clips from a file and score them in float32, with the same batch size and the same weights. The
peer is `forward` of PANNs' evaluator with their Cnn14, see `panns_loop.py`. Each side runs in a separate process. The
scores of both sides are compared before the measurement.
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
from epanns.data.manifest import write_manifest
from epanns.data.packing.packer import pack_manifest
from epanns.data.packs.pack_format import PackSettings
from epanns.evaluation.predict import predict
from epanns.models.zoo import build_model


def main() -> None:
    """Write the same clips in both layouts, score them alternately, and save the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", choices=("ours", "peer"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--clips", type=int, default=64, help="Number of clips per round.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    if arguments.side:
        torch.set_num_threads(arguments.threads)
        scorer = Scorer(arguments.folder, arguments.batch)
        score = scorer.ours if arguments.side == "ours" else scorer.peer
        record.serve(lambda: len(score()))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = SyntheticSettings(
            clips=arguments.clips, seconds=arguments.seconds, sample_rate=panns_loop.SAMPLE_RATE
        )
        write_manifest(make_synthetic(folder / "set", settings), folder / "set.csv")
        pack_manifest(folder / "set.csv", folder / "pack", PackSettings(seconds=arguments.seconds))
        write_as_panns(folder / "panns.h5", PackDataset([folder / "pack"]).sources[0])
        both = Scorer(folder, arguments.batch)
        difference = float(np.abs(both.ours() - both.peer()).max())
        if difference > 1e-5:
            raise SystemExit(f"the scores differ by {difference:g}")
        sizes = [f"--folder={folder}", f"--threads={arguments.threads}", f"--batch={arguments.batch}"]
        sides = [record.Side(f"--side={side}", *sizes, threads=arguments.threads) for side in ("ours", "peer")]
        for side in sides:
            side()
        result = record.rates_in_turn(*sides, arguments.rounds)
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
        what=f"{arguments.clips} clips of {arguments.seconds:g} s scored by Cnn14 in batches of {arguments.batch}, "
        f"{arguments.threads} threads, read from the pack",
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
        self.peer_model = panns_loop.PannsCnn14(len(self.dataset.labels))
        with torch.no_grad():  # larger differences between the untrained scores
            self.peer_model.fc_audioset.weight *= 10
        self.model = build_model("Cnn14", labels=self.dataset.labels)
        self.model.load_state_dict(self.peer_model.state_dict())

    def ours(self) -> NDArray[np.float64]:
        """Return the scores as `epanns evaluate` computes them."""
        return predict(self.model, self.dataset, batch_size=self.batch_size).scores

    def peer(self) -> NDArray[np.float64]:
        """Return the scores as PANNs' evaluator collects them."""
        reader = PannsDataset()
        metas = [{"hdf5_path": str(self.panns), "index_in_hdf5": row} for row in range(len(self.dataset))]
        batches = (
            as_arrays([reader[meta] for meta in metas[first : first + self.batch_size]])
            for first in range(0, len(metas), self.batch_size)
        )
        return panns_loop.forward(self.peer_model, batches)["clipwise_output"]


if __name__ == "__main__":
    main()
