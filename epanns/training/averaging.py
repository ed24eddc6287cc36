"""A moving average of the weights, which often scores better than the weights of any one step."""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from epanns.models.tagger import Tagger


class MovingAverage:
    """Exponential moving average of a network's parameters and batch-norm statistics.

    After step k (from 0) the average is ``d * average + (1 - d) * weights``, d = min(decay, (1 + k) / (10 + k)): the
    start is soon forgotten, however short the run (TensorFlow's `ExponentialMovingAverage` with `num_updates`).

    Attributes:
        network: The network with the averaged weights; it shares nothing with the one that learns.
    """

    def __init__(self, model: Tagger, decay: float) -> None:
        """Start from the weights that `model` has now; `decay` in (0, 1)."""
        self.network = copy.deepcopy(model).requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, model: Tagger, step: int) -> None:
        """Take in the weights after step `step`."""
        weight = 1 - min(self._decay, (1 + step) / (10 + step))
        for average, value in zip(_values(self.network), _values(model), strict=True):
            if average.is_floating_point():
                average.lerp_(value, weight)
            else:
                average.copy_(value)


def _values(model: Tagger) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()
