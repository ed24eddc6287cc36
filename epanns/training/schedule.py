"""The learning rate of every step, as a pure function."""

import math

from epanns.training.config import TrainingConfig


def learning_rate_at(step: int, config: TrainingConfig) -> float:
    """Return the rate of a step (from 0): linear warm-up, then constant, half a cosine or a line down to zero.

    Step ``iterations - 1`` is the last one; the rate would be zero at the one after it.
    """
    if step < config.warmup_iterations:
        return config.learning_rate * (step + 1) / config.warmup_iterations
    progress = (step - config.warmup_iterations) / max(1, config.iterations - config.warmup_iterations)
    return config.learning_rate * _FACTORS[config.schedule](progress)


def _constant(_progress: float) -> float:
    return 1.0


def _cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))


def _linear(progress: float) -> float:
    return 1 - progress


_FACTORS = {"constant": _constant, "cosine": _cosine, "linear": _linear}
