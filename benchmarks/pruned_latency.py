"""Latency of Cnn14 pruned to a quarter of its MACs over all layers, compared with the layout of E-PANNs.

    python benchmarks/pruned_latency.py [--repeats 40]

The weights are random; latency does not depend on them. results/pruning holds the mAP of both layouts after the same
pruning and recovery.
"""

import argparse
import statistics
import time

import record
import torch

from epanns.complexity.macs import profile
from epanns.models.modes import evaluation_mode
from epanns.models.tagger import Tagger
from epanns.models.zoo import build_model
from epanns.pruning.budgets.budget import Budget
from epanns.pruning.prune import prune

C7_TO_C12 = ["conv_block4", "conv_block5", "conv_block6"]
TARGET = 0.6


def main() -> None:
    """Prune to both layouts, measure the latency of single clips alternately, and save the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=40)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    dense = build_model("Cnn14")
    quarter, _ = prune(dense, budget=Budget("macs", 0.25))
    layout, _ = prune(dense, ratio=0.5, layers=C7_TO_C12)
    waveform = torch.rand(1, 320_000) * 2 - 1
    with evaluation_mode(quarter), evaluation_mode(layout), torch.inference_mode():
        for model in (quarter, layout) * 3:  # warm up
            milliseconds(model, waveform)
        times = [(milliseconds(quarter, waveform), milliseconds(layout, waveform)) for _ in range(arguments.repeats)]
    ours, peer = (statistics.median(column) for column in zip(*times, strict=True))
    ratios = [one / other for one, other in times]
    middle, low, high = statistics.median(ratios), min(ratios), max(ratios)
    macs = [profile(model).backbone_macs / 1e9 for model in (quarter, layout)]
    headline = (
        f"{middle:.2f} x ({low:.2f} to {high:.2f}): {ours:.0f} ms against {peer:.0f} ms, {torch.get_num_threads()} "
        f"threads, front end included; {macs[0]:.2f} against {macs[1]:.2f} G multiply-adds"
    )
    record.save(
        "pruned_latency",
        what="one clip of 10 s through Cnn14 pruned over all layers with --target-macs 0.25, torch, float32",
        against="C7-C12 at 50 %, E-PANNs' layout, the same runtime, in turn",
        target=f"<= {TARGET} x",
        met=middle <= TARGET,
        result={
            "headline": headline,
            "latency_ratio": round(middle, 3),
            "milliseconds": times,
            "widths": dict(quarter.spec.widths),
        },
    )


def milliseconds(model: Tagger, waveform: torch.Tensor) -> float:
    """Tag one clip and return the time in ms."""
    started = time.perf_counter()
    model(waveform)
    return round(1000 * (time.perf_counter() - started), 2)


if __name__ == "__main__":
    main()
