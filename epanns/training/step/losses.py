"""Losses of training by the task of the network, and mixup of neighbouring clips in a batch, as in PANNs."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from epanns.seeding import numpy_generator


def clip_bce(logits: Tensor, target: Tensor) -> Tensor:
    """Return the mean binary cross-entropy over clips and classes, for multi-label networks.

    PANNs' ``clip_bce``, computed from logits.

    Args:
        logits: ``(batch, classes)``, before the sigmoid.
        target: ``(batch, classes)`` in [0, 1]; fractional for mixed clips.
    """
    return F.binary_cross_entropy_with_logits(logits, target)


def clip_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return the mean cross-entropy of the softmax over clips, in nats, for single-label networks.

    Args:
        logits: ``(batch, classes)``, before the softmax.
        target: ``(batch, classes)`` in [0, 1], each row summing to 1; two classes have a share for mixed clips.
    """
    return F.cross_entropy(logits, target)


# `ModelSpec.activation` -> loss of the logits.
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"sigmoid": clip_bce, "softmax": clip_cross_entropy}


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
