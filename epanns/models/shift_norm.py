"""Batch norm as YAMNet has it: a shift is learned and no scale."""

from typing import Any

import torch
from torch import nn

BATCH_NORM_EPSILON = 1e-4


class ShiftNorm2d(nn.BatchNorm2d):
    """Batch norm over ``(batch, channels, time, mel)`` whose scale is 1 for good: ``weight`` is no parameter.

    Args of the constructor:
        channels: How many.
        eps: Added to the variance; YAMNet's by default.
    """

    def __init__(self, channels: int, eps: float = BATCH_NORM_EPSILON) -> None:
        super().__init__(channels, eps=eps)
        del self.weight
        self.register_buffer("weight", torch.ones(channels), persistent=False)

    @property
    def is_folded(self) -> bool:
        """Whether the convolution before it does its work, as in a file with batch norms folded: it changes nothing.

        It has seen no batch, and what stands for a variance is not the 1 of a new one.
        """
        seen, variance = self.get_buffer("num_batches_tracked"), self.get_buffer("running_var")
        return not seen.is_meta and int(seen) == 0 and bool((variance != 1).any())

    def train(self, mode: bool = True) -> "ShiftNorm2d":
        """Set the mode; a folded one stays in evaluation mode, or the network that learns would be another one."""
        super().train(mode and not self.is_folded)
        return self

    def __setattr__(self, name: str, value: Any) -> None:
        """Keep the scale a constant also where surgery, which makes parameters of what it cuts, replaces it."""
        super().__setattr__(name, value.detach() if name == "weight" else value)
