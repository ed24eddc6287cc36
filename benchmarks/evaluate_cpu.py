"""Evaluation of Cnn14 on a CPU against PANNs' `forward`: 32 clips of 10 s, 2 threads, float32.

    PYTHONPATH=PLACE python benchmarks/evaluate_cpu.py [--rounds 5]     # PLACE: see benchmarks/panns_loop.py

Both networks have the same weights. Ours are read from a pack, and checksummed; the peer's lie in memory.
"""

import argparse
import tempfile
from pathlib import Path

import panns_loop
import record
import torch

from epanns.data.dataset import PackDataset
from epanns.data.manifest import write_manifest
from epanns.data.pack_format import PackSettings
from epanns.data.packer import pack_manifest
from epanns.data.synthetic import SyntheticSettings, make_synthetic
from epanns.evaluation.predict import predict
from epanns.models.zoo import build_model

CLIPS, SECONDS, BATCH, CLASSES = 32, 10.0, 8, 12
TARGET = 1.5


def main() -> None:
    """Score the same clips in turn and save the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        dataset = generated(Path(folder))
        model = build_model("Cnn14", labels=dataset.labels).eval()
        peer = panns_loop.PannsCnn14().eval()
        peer.fc_audioset = torch.nn.Linear(2048, CLASSES)
        missing = peer.load_state_dict(model.state_dict(), strict=False)
        assert not missing.unexpected_keys and all("extractor" in key for key in missing.missing_keys)
        batches = list(in_memory(dataset))
        theirs = panns_loop.forward(peer, batches)["clipwise_output"]
        apart = float(abs(predict(model, dataset, batch_size=BATCH).scores - theirs).max())
        result = record.rates_in_turn(
            lambda: len(predict(model, dataset, batch_size=BATCH).clip_ids),
            lambda: len(panns_loop.forward(peer, batches)["clipwise_output"]),
            asked.rounds,
        )
    record.save(
        "evaluate_cpu",
        what=f"scoring {CLIPS} clips of {SECONDS:g} s with Cnn14, float32, CPU, 2 threads, read from a pack",
        against="PANNs' forward over the same clips in memory",
        target=f">= {TARGET:g} x",
        met=result["ratio"]["median"] >= TARGET,
        result={
            "headline": f"{record.ratio_text(result['ratio'])}; scores differ by {apart:.1g} at most",
            "largest_difference": apart,
            **result,
        },
    )


def generated(folder: Path) -> PackDataset:
    """Make a pack of generated sound."""
    settings = SyntheticSettings(clips=CLIPS, classes=CLASSES, seconds=SECONDS, sample_rate=panns_loop.SAMPLE_RATE)
    write_manifest(make_synthetic(folder / "audio", settings), folder / "manifest.csv")
    asked = PackSettings(sample_rate=panns_loop.SAMPLE_RATE, seconds=SECONDS)
    pack_manifest(folder / "manifest.csv", folder / "pack", asked)
    return PackDataset([folder / "pack"])


def in_memory(dataset: PackDataset) -> list[panns_loop.Arrays]:
    """Return the clips as PANNs' collate function gives them."""
    parts = [dataset.__getitems__(range(first, first + BATCH)) for first in range(0, CLIPS, BATCH)]
    return [
        {
            "audio_name": part.target.numpy()[:, 0],  # any column of so many rows
            "waveform": part.float_waveform().numpy(),
            "target": part.float_target().numpy(),
        }
        for part in parts
    ]


if __name__ == "__main__":
    main()
