"""Mixup of neighbouring clips in a batch, as PANNs do it."""

import torch
from torch import Tensor

from epanns.seeding import numpy_generator


def draw_lambda(pairs: int, *, alpha: float, seed: int, step: int) -> Tensor:
    """Return ``(pairs,)`` weights of the first clip of each pair, Beta(alpha, alpha); a pure function of its arguments.

    Source: Zhang et al. 2018 (arXiv 1710.09412); PANNs `utils/utilities.py` draws one per pair.
    """
    weights = numpy_generator("mixup", seed, step).beta(alpha, alpha, pairs)
    return torch.from_numpy(weights).float()


def mix_target(target: Tensor, mixup_lambda: Tensor) -> Tensor:
    """Mix ``(2 * pairs, classes)`` targets to ``(pairs, classes)``: clip 2i with clip 2i + 1."""
    weight = mixup_lambda.to(target)[:, None]
    return target[0::2] * weight + target[1::2] * (1 - weight)
