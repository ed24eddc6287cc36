"""Time and memory of least-squares recovery: C7-C12 of the full Cnn14 at 50 %, 200 clips of 10 s.

    python benchmarks/recover_ls.py [--clips N] [--pack PACK]

The weights are random, which affects neither time nor memory; the batch-norm statistics are estimated on some clips
first, so that channels vary as in a trained network. The clips are those of a pack, repeated to a length of 10 s, or
noise of varying loudness and colour. Time is that of `refit_readers` alone. Memory is the peak resident size of the
whole process (VmHWM), including both networks; the part that the refit adds is given separately.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import record
import torch
from torch import Tensor

import epanns
from epanns.data.batches.dataset import PackDataset
from epanns.data.batches.loader import make_loader
from epanns.data.batches.sampler import sequential_batches
from epanns.models.tagger import Tagger
from epanns.pruning.prune import apply_plan, plan_pruning
from epanns.pruning.recovery.least_squares_refit import refit_readers

SAMPLES = 320_000
BATCH = 16
BLOCKS = ("conv_block4", "conv_block5", "conv_block6")
TARGET_SECONDS, TARGET_BYTES = 600, 6e9


def noise(clips: int) -> Iterator[Tensor]:
    """Yield batches of noise clips of varying loudness and colour."""
    for start in range(0, clips, BATCH):
        generator = torch.Generator().manual_seed(start)
        size = (min(BATCH, clips - start), SAMPLES)
        white = torch.randn(size, generator=generator)
        brown = torch.nn.functional.avg_pool1d(white[:, None], 33, stride=1, padding=16)[:, 0] * 4
        swell = torch.rand(size[0], 2, 40, generator=generator)
        swell = torch.nn.functional.interpolate(swell, size=SAMPLES, mode="linear").square()
        yield (0.1 * (white * swell[:, 0] + brown * swell[:, 1])).clamp(-1, 1)


def of_pack(pack: Path, clips: int) -> Iterator[Tensor]:
    """Yield batches of the clips of a pack, each repeated to 10 s; the pack is repeated if it has too few clips."""
    dataset = PackDataset([pack], sample_rate=32_000)
    order = [[index % len(dataset) for index in batch] for batch in sequential_batches(clips, BATCH)]
    for batch in make_loader(dataset, order):
        waveform = batch.float_waveform()
        yield waveform.repeat(1, -(-SAMPLES // waveform.shape[1]))[:, :SAMPLES]


def with_statistics(model: Tagger, waveform: Tensor) -> Tagger:
    """Estimate the batch-norm statistics on some clips."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        model.train()(waveform)
    return model.eval()


def peak_bytes() -> int:
    """Return the peak resident size of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def resident_bytes() -> int:
    """Return the present resident size of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def measured(clips: int, pack: Path | None) -> dict[str, Any]:
    """Prune and refit; return the time and the memory of the refit."""
    torch.manual_seed(0)
    waveforms = (lambda: noise(clips)) if pack is None else (lambda: of_pack(pack, clips))
    dense = with_statistics(epanns.build_model("Cnn14"), next(waveforms())[:4])
    plan = plan_pruning(dense, ratio=0.5, layers=BLOCKS)
    pruned = apply_plan(dense, plan)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before, started = resident_bytes(), time.perf_counter()
    refit = refit_readers(pruned, dense, plan, waveforms)
    seconds, peak = time.perf_counter() - started, peak_bytes()
    return {
        "clips": refit.clips,
        "seconds": round(seconds, 1),
        "peak_bytes": peak,
        "added_bytes": peak - before,
        "errors": refit.to_dict(),
        "headline": f"{seconds:,.0f} s, {peak / 1e9:.1f} GB, of which the refit adds {(peak - before) / 1e9:.1f} GB",
    }


def main() -> None:
    """Measure once and save the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--pack", type=Path)
    arguments = parser.parse_args()
    result = measured(arguments.clips, arguments.pack)
    record.save(
        "recover_ls",
        what=f"`--recover ls` on C7-C12 of Cnn14 at 50 %, {arguments.clips} clips of 10 s",
        against="-",
        target="under 600 s and 6 GB",
        met=result["seconds"] < TARGET_SECONDS and result["peak_bytes"] < TARGET_BYTES and arguments.clips >= 200,
        result=result,
    )


if __name__ == "__main__":
    main()
