"""Write the folder written/: a pack, a checkpoint with its run, and a record, for tests/sweeps/test_golden.py.

Run it with the version of epanns whose files later versions must read: ``python make_written_files.py``.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from epanns.audio.frontend import FrontEndSpec
from epanns.data.batches.dataset import PackDataset
from epanns.models.files.checkpoint import save_checkpoint
from epanns.models.files.load import load
from epanns.models.spec import conv_widths
from epanns.models.tensors import weights_digest
from epanns.models.zoo import ZOO, build_model

WRITTEN = Path(__file__).with_name("written")


def run(*arguments: object) -> None:
    """Run a command of epanns."""
    command = [sys.executable, "-m", "epanns", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    """Write the files."""
    shutil.rmtree(WRITTEN, ignore_errors=True)
    WRITTEN.mkdir()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = ("--clips", 40, "--classes", 3, "--seconds", 0.5, "--sample-rate", 8000)
        run("data", "synthetic", folder / "audio", *settings, "--out", folder / "all.csv")
        for split, out in (("train", folder / "train"), ("val", WRITTEN / "pack")):
            pack = ("--split", split, "--sample-rate", 8000, "--seconds", 0.5, "--out", out)
            run("pack", folder / "all.csv", *pack)
        front_end = FrontEndSpec(sample_rate=8_000, window_size=256, hop_size=80, mel_bins=64, fmin=50, fmax=4_000)
        spec = replace(ZOO["Cnn14"], front_end=front_end, widths=conv_widths(4, 4, 4, 4, 4, 4), embedding_size=8)
        torch.manual_seed(0)
        labels = PackDataset([folder / "train"]).labels
        save_checkpoint(build_model(spec.with_num_classes(len(labels)), labels=labels), folder / "dense")
        prune = ("--ratio", 0.5, "--layers", "conv_block6", "--recover", "bn", "--calibration", folder / "train")
        run("prune", folder / "dense", *prune, "--out", folder / "pruned")
        train = ("--train", folder / "train", "--val", WRITTEN / "pack", "--batch-size", 4)
        run("finetune", folder / "pruned", *train, "--iterations", 2, "--validate-every", 1, "--out", folder / "run")
        (WRITTEN / "pack" / "journal.jsonl").unlink()  # holds paths of this machine
        shutil.copytree(folder / "run", WRITTEN / "checkpoint", ignore=shutil.ignore_patterns("learning_curve.*"))
        run("evaluate", WRITTEN / "checkpoint", "--data", WRITTEN / "pack", "--no-scores", "--out", WRITTEN / "scored")
        pack = PackDataset([WRITTEN / "pack"])
        weights = weights_digest(load(WRITTEN / "checkpoint"))
        expected = {"clips": len(pack), "content_digest": pack.content_digest, "weights_digest": weights}
        (WRITTEN / "expected.json").write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
