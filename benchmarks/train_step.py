"""Optimisation steps of Cnn14 against those of PANNs' loop, on a CPU: 8 clips of 5 s, each mixed from two, 2 threads.

    PYTHONPATH=PLACE python benchmarks/train_step.py [--rounds 5]     # PLACE: see benchmarks/panns_loop.py

Both hear the same clips with mixup, SpecAugment and dropout, and take Adam steps with AMSGrad. Reading clips is left
out.
"""

import argparse
import itertools
from collections.abc import Callable

import panns_loop
import record
import torch

from epanns.data.dataset import ClipBatch
from epanns.models.zoo import build_model
from epanns.training.config import TrainingConfig
from epanns.training.learner import Learner

BATCH, SECONDS = 8, 5
TARGETS = {"bfloat16": 2.0, "float32": 1.0}


def main() -> None:
    """Take steps in turn, in bfloat16 and in float32, and save the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    batch = noise()
    peer = panns_steps(batch)
    results = {}
    for precision in TARGETS:
        ours = our_steps(batch, precision)
        ours(), peer()  # warm up
        results[precision] = record.rates_in_turn(ours, peer, asked.rounds)
    ratios = {precision: result["ratio"] for precision, result in results.items()}
    record.save(
        "train_step",
        what=f"optimisation step of Cnn14 on {BATCH} clips of {SECONDS} s, each mixed from two, CPU, 2 threads",
        against="PANNs' loop: float32, contiguous, torchlibrosa, the same clips",
        target=f">= {TARGETS['bfloat16']:g} x clips per second in bfloat16, >= {TARGETS['float32']:g} x in float32",
        met=all(ratios[precision]["median"] >= target for precision, target in TARGETS.items()),
        result={
            "headline": "; ".join(f"{name} {record.ratio_text(ratio)}" for name, ratio in ratios.items()),
            **results,
        },
    )


def noise() -> ClipBatch:
    """Return the clips that one step draws, two for each that the loss sees."""
    waveform = torch.randint(-8000, 8000, (2 * BATCH, SECONDS * panns_loop.SAMPLE_RATE), dtype=torch.int16)
    target = torch.rand(2 * BATCH, panns_loop.CLASSES) < 0.005
    names = tuple(f"clip {number}" for number in range(2 * BATCH))
    return ClipBatch(names, waveform, torch.full((2 * BATCH,), waveform.shape[1]), target)


def our_steps(batch: ClipBatch, precision: str) -> Callable[[], int]:
    """Return what takes one step and says how many clips it saw."""
    learner = Learner(build_model("Cnn14"), TrainingConfig(batch_size=BATCH, precision=precision))
    numbers = itertools.count()

    def step() -> int:
        learner.step(batch, next(numbers))
        return BATCH

    return step


def panns_steps(batch: ClipBatch) -> Callable[[], int]:
    """Return the same of PANNs' loop."""
    arrays = {"waveform": batch.float_waveform().numpy(), "target": batch.float_target().numpy()}
    losses = panns_loop.steps(itertools.repeat(arrays))

    def step() -> int:
        next(losses)
        return BATCH

    return step


if __name__ == "__main__":
    main()
