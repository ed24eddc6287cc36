"""Orders of the channels of a group by how well the other channels replace them, from covariances at its readers."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ReadMoments:
    """How one reader of a group uses the group's channels.

    Attributes:
        covariance: ``(channels, channels)`` float64, of the channels at the reader's input.
        gram: ``(channels, channels)`` float64: entry i, j is the inner product of all weights of the reader that
            multiply channel i with those that multiply channel j.
        mean: ``(channels,)`` float64, of the channels at the reader's input.
    """

    covariance: Tensor
    gram: Tensor
    mean: Tensor

    @property
    def power(self) -> Tensor:
        """``(channels, channels)`` float64, the mean products of the channels: their covariance, not centred."""
        return self.covariance + torch.outer(self.mean, self.mean)

    def scaled(self) -> Tensor:
        """Return the covariance of the channels, each multiplied by the norm of the weights that read it."""
        return self._times_norms(self.covariance)

    def scaled_power(self) -> Tensor:
        """Return `power`, each channel multiplied by the norm of the weights that read it."""
        return self._times_norms(self.power)

    def _times_norms(self, products: Tensor) -> Tensor:
        norms = self.gram.diagonal().sqrt()
        return products * norms[:, None] * norms[None]


def scaled_covariance(readers: Sequence[ReadMoments]) -> Tensor:
    """Return the sum of `ReadMoments.scaled` over the readers of a group, ``(channels, channels)``."""
    return torch.stack([reader.scaled() for reader in readers]).sum(dim=0)


def pivot_order(gram: Tensor) -> Tensor:
    """Return the pivots of a Cholesky decomposition with complete pivoting, ``(n,)`` int64.

    They are those of a column-pivoted QR of any matrix A with ``A' A = gram``, down to residuals that are rounding
    noise; the remaining columns follow by falling diagonal.

    Args:
        gram: ``(n, n)`` float64, symmetric, positive semidefinite.
    """
    count = len(gram)
    left = gram.diagonal().clone()
    noise = count * torch.finfo(gram.dtype).eps * float(left.max())
    rows = torch.zeros_like(gram)  # row k: what the k-th pivot explains of every column
    order: list[int] = []
    for place in range(count):
        pivot = int(left.argmax())
        if float(left[pivot]) <= noise:
            break
        residual = gram[pivot] - rows[:place].T @ rows[:place, pivot]
        rows[place] = residual / left[pivot].sqrt()
        left -= rows[place].square()
        order.append(pivot)
        left[order] = -torch.inf
    by_diagonal = torch.argsort(gram.diagonal(), descending=True, stable=True).tolist()
    pivots = set(order)
    return torch.tensor([*order, *(column for column in by_diagonal if column not in pivots)])


def medoid_order(gram: Tensor) -> Tensor:
    """Return the channels in the order in which greedy k-medoids selects them, ``(n,)`` int64.

    Channel m explains the power ``G_mj^2 / G_mm`` of channel j. Each step selects the channel with which the selected
    ones, each channel by the best one of them, explain the most power of all channels; of equal ones the first. The
    first k selected channels are the medoids of k clusters.

    Args:
        gram: ``(n, n)`` float64, symmetric, positive semidefinite.
    """
    power = gram.diagonal()[:, None]
    explained = torch.where(power > 0, gram.square() / power, 0.0)
    best = torch.zeros(len(gram), dtype=gram.dtype)
    is_left = torch.ones(len(gram), dtype=torch.bool)
    order: list[int] = []
    for _ in range(len(gram)):
        gains = torch.maximum(explained, best).sum(dim=1)
        gains[~is_left] = -torch.inf
        channel = int(gains.argmax())
        order.append(channel)
        is_left[channel] = False
        best = torch.maximum(best, explained[channel])
    return torch.tensor(order)


def elimination_order(readers: Sequence[ReadMoments], ridge: float) -> Tensor:
    """Return the channels in the order in which they are eliminated, ``(n,)`` int64, of equal ones the last first.

    One channel at a time is removed, the one whose removal raises the least the squared error of the readers' outputs
    after the weights of the remaining channels were refitted. For a reader with covariance H, H = H + lambda I, and
    refitted weights W, removing channel j adds ``|W_j|^2 / (H^-1)_jj``; then

        W <- W - (H^-1)_:j W_j / (H^-1)_jj,    H^-1 <- H^-1 - (H^-1)_:j (H^-1)_j: / (H^-1)_jj.

    Only ``W W'`` is kept, so that neither outputs nor taps matter for time and memory: n steps on n by n matrices.

    Args:
        readers: The readers of one group.
        ridge: lambda relative to the mean of the diagonal of H, > 0.
    """
    grams, inverses = [], []
    for reader in readers:
        covariance = reader.covariance.clone()
        covariance.diagonal().add_(ridge * float(covariance.diagonal().mean()) or 1.0)
        inverses.append(torch.cholesky_inverse(torch.linalg.cholesky(covariance)))
        grams.append(reader.gram.clone())
    count = len(grams[0])
    is_left = torch.ones(count, dtype=torch.bool)
    order: list[int] = []
    for _ in range(count):
        costs = torch.zeros(count, dtype=torch.float64)
        for gram, inverse in zip(grams, inverses, strict=True):
            costs += gram.diagonal() / inverse.diagonal()
        costs[~is_left] = torch.inf
        channel = count - 1 - int(costs.flip(0).argmin())
        order.append(channel)
        is_left[channel] = False
        for gram, inverse in zip(grams, inverses, strict=True):
            _eliminate(gram, inverse, channel)
    return torch.tensor(order)


def _eliminate(gram: Tensor, inverse: Tensor, channel: int) -> None:
    """Refit without a channel, in place: its row and column of `gram` become 0, those of `inverse` the identity's."""
    column = inverse[:, channel].clone()
    inverse.addr_(column, column, alpha=-1 / float(column[channel]))
    replaced = column / column[channel]
    replaced[channel] = 0
    product = gram[:, channel].clone()
    # (I - r e') gram (I - e r'), where e is the unit vector of the channel and r = replaced
    gram.addr_(replaced, product, alpha=-1).addr_(product, replaced, alpha=-1)
    gram.addr_(replaced, replaced, alpha=float(product[channel]))
    gram[channel], gram[:, channel] = 0, 0
    inverse[channel], inverse[:, channel] = 0, 0
    inverse[channel, channel] = 1
