"""Mixup of neighbouring clips in a batch, as in PANNs: weights, inputs and targets."""

import torch
from torch import Tensor

from epanns.errors import ConfigError
from epanns.seeding import numpy_generator


def draw_lambda(pairs: int, *, alpha: float, seed: int, step: int) -> Tensor:
    """Return the weight ``(pairs,)`` of the first clip of each pair, drawn from Beta(alpha, alpha).

    It is a pure function of its arguments. Source: Zhang et al. 2018 (arXiv 1710.09412); one weight per pair as in
    PANNs `utils/utilities.py`.
    """
    weights = numpy_generator("mixup", seed, step).beta(alpha, alpha, pairs)
    return torch.from_numpy(weights).float()


def mix_pairs(features: Tensor, mixup_lambda: Tensor | None) -> Tensor:
    """Mix clip 2i with clip 2i + 1 of ``(batch, ...)``, the first one weighted by ``mixup_lambda (batch / 2,)``.

    Raises:
        ConfigError: If there is not one weight for each pair.
    """
    if mixup_lambda is None:
        return features
    if mixup_lambda.shape != (len(features) / 2,):
        raise ConfigError(
            f"mixup_lambda of shape {tuple(mixup_lambda.shape)} for {len(features)} clips: give one per pair"
        )
    weight = mixup_lambda.to(features).reshape(-1, *[1] * (features.dim() - 1))
    return features[0::2] * weight + features[1::2] * (1 - weight)


def mix_target(target: Tensor, mixup_lambda: Tensor) -> Tensor:
    """Mix ``(2 * pairs, classes)`` targets to ``(pairs, classes)``: clip 2i with clip 2i + 1."""
    weight = mixup_lambda.to(target)[:, None]
    return target[0::2] * weight + target[1::2] * (1 - weight)
