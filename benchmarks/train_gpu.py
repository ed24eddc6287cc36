"""Training of Cnn14 on one GPU: utilisation of its bfloat16 matrix rate by the operations of the network.

    python benchmarks/train_gpu.py [--batch-size 128] [--iterations 60] [--workers 8] [--compile]
    python benchmarks/train_gpu.py --device cpu --width 0.03 --batch-size 2 --iterations 4 --clips 20 --matrix 256

The training loop of epanns runs on a pack of generated sound: 10 s clips, mixup, SpecAugment, bfloat16, channels-last.
A multiply-add counts as two operations, a step as three forward passes. Without a GPU no record is saved.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import record
import torch

from epanns.complexity.macs import profile
from epanns.data.batches.dataset import PackDataset
from epanns.data.datasets.synthetic import SyntheticSettings, make_synthetic
from epanns.data.manifest import write_manifest
from epanns.data.packing.packer import pack_manifest
from epanns.data.packs.pack_format import PackSettings
from epanns.models.tagger import Tagger
from epanns.models.zoo import build_model
from epanns.training.config import TrainingConfig
from epanns.training.finetune import finetune
from epanns.training.loop import RunOptions
from epanns.training.resume import TrainingState
from epanns.training.validation import Validation

SECONDS, RATE = 10.0, 32_000
LEAST_SHARE, MOST_WAITING = 0.35, 0.05


def main() -> None:
    """Train on generated sound, measure the matrix rate in the same run, and save the record."""
    arguments = options()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = generated(folder, arguments.clips)
        model = build_model("Cnn14", width=arguments.width, labels=dataset.labels).to(arguments.device)
        before = matrix_rate(arguments.device, arguments.matrix)
        clips_per_second, waiting = trained(model, dataset, folder / "run", arguments)
        reached = (before + matrix_rate(arguments.device, arguments.matrix)) / 2
    operations = 2 * 3 * profile(model, seconds=SECONDS).backbone_macs * clips_per_second
    share = operations / reached
    result = {
        "headline": f"{share:.0%} of {reached / 1e12:.3g} TFLOP/s; {clips_per_second:.3g} clips/s; "
        f"{waiting:.1%} of the time waiting for data",
        "share": share,
        "matrix_operations_per_second": reached,
        "clips_per_second": clips_per_second,
        "waiting": waiting,
    }
    if torch.device(arguments.device).type != "cuda":
        sys.stdout.write(f"{arguments.device}: {result['headline']}; nothing is saved without a GPU\n")
        return
    result["gpu"] = torch.cuda.get_device_name()
    compiled = ", compiled" if arguments.compile else ""
    record.save(
        "train_gpu",
        what=f"training Cnn14 on one {result['gpu']}: {arguments.batch_size} clips of 10 s a step, bfloat16{compiled}",
        against="the bfloat16 matrix rate measured in the same run",
        target=f">= {LEAST_SHARE:.0%} of it, < {MOST_WAITING:.0%} of the time waiting for data",
        met=share >= LEAST_SHARE and waiting < MOST_WAITING,
        result=result,
    )


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument(
        "--iterations", type=int, default=60, help="Number of steps; the first quarter is a warm-up and not measured."
    )
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--compile", action="store_true", help="Use torch.compile.")
    parser.add_argument("--clips", type=int, default=600)
    parser.add_argument("--matrix", type=int, default=8192, help="Rows and columns of the matrices.")
    return parser.parse_args()


def generated(folder: Path, clips: int) -> PackDataset:
    """Make a pack of generated sound."""
    settings = SyntheticSettings(clips=clips, classes=12, seconds=SECONDS, sample_rate=RATE)
    write_manifest(make_synthetic(folder / "audio", settings), folder / "manifest.csv")
    settings_of_pack = PackSettings(sample_rate=RATE, seconds=SECONDS)
    pack_manifest(folder / "manifest.csv", folder / "pack", settings_of_pack)
    return PackDataset([folder / "pack"])


def trained(model: Tagger, dataset: PackDataset, out: Path, arguments: argparse.Namespace) -> tuple[float, float]:
    """Return clips per second and the fraction of time spent waiting for data, both after the warm-up."""
    warm, marks = max(1, arguments.iterations // 4), []

    def on_step(state: TrainingState, _loss: float) -> None:
        if state.step in (warm, arguments.iterations):
            marks.append((time.perf_counter(), state.seconds, state.data_seconds))

    config = TrainingConfig(
        iterations=arguments.iterations,
        batch_size=arguments.batch_size,
        validate_every=arguments.iterations,
        precision="bfloat16",
        compile=arguments.compile,
        sampler="shuffled",
    )
    constant: Any = Validation(lambda _: {"mAP": 0.0}, {})
    finetune(
        model, dataset, config, out, validation=constant, options=RunOptions(workers=arguments.workers, on_step=on_step)
    )
    (started, busy, waited), (ended, busy_at_last, waited_at_last) = marks
    clips = arguments.batch_size * (arguments.iterations - warm)
    return clips / (ended - started), (waited_at_last - waited) / max(busy_at_last - busy, 1e-9)


def matrix_rate(device: str, size: int, repeats: int = 20) -> float:
    """Return the operations per second of a product of square bfloat16 matrices."""
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        left @ right
    _wait(device)
    started = time.perf_counter()
    for _ in range(repeats):
        left @ right
    _wait(device)
    return 2 * size**3 * repeats / (time.perf_counter() - started)


def _wait(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
