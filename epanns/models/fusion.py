"""How LEAN makes one context vector of its wave encoder's states: the three rows of the paper's Table III."""

import torch
from torch import Tensor, nn

from epanns.models.blocks import linear


class DotProducts(nn.Module):
    """The dot product of each state ``(batch, steps, size)`` with a vector ``(batch, size)``: ``(batch, steps)``."""

    def forward(self, states: Tensor, vector: Tensor) -> Tensor:
        """Return a number for each state."""
        return torch.bmm(states, vector[:, :, None])[:, :, 0]


class WeightedSum(nn.Module):
    """The sum of the states ``(batch, steps, size)`` weighted by ``(batch, steps)``: ``(batch, size)``."""

    def forward(self, states: Tensor, weights: Tensor) -> Tensor:
        """Return a vector."""
        return torch.bmm(weights[:, None], states)[:, 0]


class LastStates(nn.Module):
    """JM's context: the state each direction ends in, the forward one at the last step, the other at the first.

    The paper does not say which vector of the encoder it concatenates; this is what a recurrent layer of Keras returns
    unless it is asked for every state.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.hidden = size // 2

    def forward(self, scene: Tensor, states: Tensor) -> Tensor:
        """Return ``(batch, size)`` of ``states (batch, steps, size)``."""
        return torch.cat([states[:, -1, : self.hidden], states[:, 0, self.hidden :]], dim=1)


class Affinity(nn.Module):
    """Attention without weights: how much a state counts follows from its dot product with the scene's embedding.

    The scores are between -1 and 1, so that of 40 steps none counts under .0035 or over .159.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.affinity = DotProducts()
        self.sum = WeightedSum()

    def forward(self, scene: Tensor, states: Tensor) -> Tensor:
        """Return ``(batch, size)`` of ``scene (batch, size)`` and ``states (batch, steps, size)``."""
        weights = self.affinity(states, scene).tanh().softmax(dim=1)
        context: Tensor = self.sum(states, weights)
        return context


class AdditiveAttention(nn.Module):
    """Additive attention (Bahdanau et al. 2015): the scene's embedding asks, the states answer.

    The paper's counts fit a score of one number, not the 128 that its text gives Q, K and V alike; whether query, key
    and score have biases they do not tell, and here they have.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.query = linear(size, size // 2)
        self.key = linear(size, size // 2)
        self.score = linear(size // 2, 1)
        self.sum = WeightedSum()

    def forward(self, scene: Tensor, states: Tensor) -> Tensor:
        """Return ``(batch, size)`` of ``scene (batch, size)`` and ``states (batch, steps, size)``."""
        scores = self.score((self.query(scene)[:, None] + self.key(states)).tanh())  # (batch, steps, 1)
        context: Tensor = self.sum(states, scores[:, :, 0].softmax(dim=1))
        return context
