"""Rate of training steps of Cnn14 on a CPU, compared with PANNs' loop on the same clips.

    PYTHONPATH=PLACE_OF_TORCHLIBROSA python benchmarks/train_step.py [--rounds 5] [--steps 2] [--threads 2]

The peer, `panns_loop.py`, computes in float32 in contiguous memory with torchlibrosa's front end; epanns computes in
bfloat16 and in float32. Both sides train on the same clips with mixup and SpecAugment. The batch size is that of the
loss, after mixup; twice as many clips are read. Each side runs in a separate process. The scores of both networks with
the same weights are compared before the measurement.
"""

import argparse
import itertools
from collections.abc import Iterator

import numpy as np
import panns_loop
import record
import torch

from epanns.data.batches.dataset import ClipBatch
from epanns.models.zoo import build_model
from epanns.training.config import PRECISIONS, TrainingConfig
from epanns.training.learner import Learner


def main() -> None:
    """Measure each precision and the peer alternately, and save the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", choices=("ours", "peer"), help=argparse.SUPPRESS)
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="Number of steps per round.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    if arguments.side:
        torch.set_num_threads(arguments.threads)
        batch = clips(2 * arguments.batch, round(arguments.seconds * panns_loop.SAMPLE_RATE))
        train = (
            our_steps(batch, arguments.batch, arguments.precision) if arguments.side == "ours" else peer_steps(batch)
        )
        record.serve(lambda: len([next(train) for _ in range(arguments.steps)]) * arguments.batch)
        return
    compare()
    sizes = [f"--{name}={getattr(arguments, name)}" for name in ("steps", "threads", "batch", "seconds")]
    result = {precision: measure(precision, sizes, arguments.rounds, arguments.threads) for precision in PRECISIONS}
    ratios = {precision: rates["ratio"] for precision, rates in result.items()}
    speed = {precision: max(rates["ours_per_second"]) for precision, rates in result.items()}
    result["headline"] = (
        f"{record.ratio_text(ratios['bfloat16'])} with bfloat16 ({speed['bfloat16']:.1f} clips/s), "
        f"{record.ratio_text(ratios['float32'])} in float32"
    )
    record.save(
        "train_step",
        what=f"training step of Cnn14, batch {arguments.batch} of {arguments.seconds:g} s after mixup, "
        f"{arguments.threads} threads",
        against="PANNs' loop, float32, torchlibrosa, the same clips",
        target=">= 2 x with bfloat16, >= 1 x in float32",
        met=ratios["bfloat16"]["median"] >= 2 and ratios["float32"]["median"] >= 1,
        result=result,
    )


def measure(precision: str, sizes: list[str], rounds: int, threads: int) -> dict[str, object]:
    """Return the rates of both sides in clips per second, after mixup."""
    ours = record.Side("--side=ours", f"--precision={precision}", *sizes, threads=threads)
    peer = record.Side("--side=peer", *sizes, threads=threads)
    for side in (ours, peer):
        side()
    rates = record.rates_in_turn(ours, peer, rounds)
    for side in (ours, peer):
        side.end()
    return rates


def clips(number: int, samples: int) -> ClipBatch:
    """Return a batch of noise clips with a few of 527 classes each, in the form of the loader."""
    random = np.random.default_rng(0)
    waveform = torch.from_numpy(random.integers(-20_000, 20_000, (number, samples)).astype(np.int16))
    target = torch.from_numpy(random.random((number, panns_loop.CLASSES)) < 3 / panns_loop.CLASSES)
    return ClipBatch(
        tuple(map(str, range(number))), waveform, torch.full((number,), samples, dtype=torch.int32), target
    )


def our_steps(batch: ClipBatch, batch_size: int, precision: str) -> Iterator[float]:
    """Train on the same batch repeatedly, as `epanns train` does, and yield the loss of each step."""
    learner = Learner(build_model("Cnn14"), TrainingConfig(batch_size=batch_size, precision=precision))
    for step in itertools.count():
        yield learner.step(batch, step).loss


def peer_steps(batch: ClipBatch) -> Iterator[float]:
    """Train on the same batch repeatedly with PANNs' loop, from the arrays that PANNs' loader delivers."""
    arrays = {"waveform": batch.float_waveform().numpy(), "target": batch.float_target().numpy()}
    return panns_loop.steps(itertools.repeat(arrays))


def compare() -> None:
    """Check that both networks give the same scores with the same weights."""
    torch.manual_seed(0)
    peer, ours = panns_loop.PannsCnn14().eval(), build_model("Cnn14").eval()
    ours.load_state_dict(peer.state_dict())
    waveform = clips(2, panns_loop.SAMPLE_RATE).float_waveform()
    with torch.no_grad():
        scores = [network(waveform)["clipwise_output"] for network in (ours, peer)]
    torch.testing.assert_close(*scores, rtol=1e-4, atol=1e-5)


if __name__ == "__main__":
    main()
