"""Losses of multi-label tagging."""

import torch.nn.functional as F
from torch import Tensor


def clip_bce(logits: Tensor, target: Tensor) -> Tensor:
    """Return the mean binary cross-entropy over clips and classes (PANNs' ``clip_bce``, on logits).

    Args:
        logits: ``(batch, classes)``, before the sigmoid.
        target: ``(batch, classes)`` in [0, 1]; fractional where clips were mixed.
    """
    return F.binary_cross_entropy_with_logits(logits, target)
