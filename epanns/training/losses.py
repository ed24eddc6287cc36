"""Losses of training, by the task of the network."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor


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
