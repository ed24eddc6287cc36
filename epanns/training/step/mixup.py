"""Mixup of neighbouring clips in a batch, as in PANNs: weights and targets; `models.tagger.mix_pairs` mixes inputs."""

import torch
from torch import Tensor

from epanns.seeding import numpy_generator


def draw_lambda(pairs: int, *, alpha: float, seed: int, step: int) -> Tensor:
    """Return the weight ``(pairs,)`` of the first clip of each pair, drawn from Beta(alpha, alpha).

    It is a pure function of its arguments. Source: Zhang et al. 2018 (arXiv 1710.09412); one weight per pair as in
    PANNs `utils/utilities.py`.
    """
    weights = numpy_generator("mixup", seed, step).beta(alpha, alpha, pairs)
    return torch.from_numpy(weights).float()


def mix_target(target: Tensor, mixup_lambda: Tensor) -> Tensor:
    """Mix ``(2 * pairs, classes)`` targets to ``(pairs, classes)``: clip 2i with clip 2i + 1."""
    weight = mixup_lambda.to(target)[:, None]
    return target[0::2] * weight + target[1::2] * (1 - weight)
