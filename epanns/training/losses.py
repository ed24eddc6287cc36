"""What training minimises, by the network's task."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor


def clip_bce(logits: Tensor, target: Tensor) -> Tensor:
    """Return the mean binary cross-entropy over clips and classes (PANNs' ``clip_bce``, on logits): multi-label.

    Args:
        logits: ``(batch, classes)``, before the sigmoid.
        target: ``(batch, classes)`` in [0, 1]; fractional where clips were mixed.
    """
    return F.binary_cross_entropy_with_logits(logits, target)


def clip_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return the mean over clips of the cross-entropy of the softmax, in nats: single-label.

    Args:
        logits: ``(batch, classes)``, before the softmax.
        target: ``(batch, classes)`` in [0, 1], each row summing to 1: two classes have a share where clips were mixed.
    """
    return F.cross_entropy(logits, target)


# `ModelSpec.activation` -> the loss of its logits.
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"sigmoid": clip_bce, "softmax": clip_cross_entropy}
