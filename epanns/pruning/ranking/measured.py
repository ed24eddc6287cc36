"""Criteria that need calibration clips: one small function each, on what was measured."""

import torch
from torch import Tensor

from epanns.errors import PruningError
from epanns.pruning.ranking.layer_filters import LayerFilters


def taylor(filters: LayerFilters) -> Tensor:
    """First-order Taylor: ``mean over clips of (sum_m g_m w_m) ** 2`` (Molchanov et al. 2019, arXiv 1906.10771).

    The sum is the derivative of the loss by a gate on the channel: w are factor and offset of the batch norm behind the
    filter, g their gradients; without a batch norm, the filter's own weights and bias. That is the paper's gate behind
    the batch norm and not its sum over the convolution's weights: a channel takes its batch norm along when it goes,
    and the sum over the weights says what happens where the batch norm's constant stays (with batch statistics it is 0
    for every filter, whose size they cancel). The square is taken clip by clip, each clip a batch of its own, so that
    the batch size decides nothing.
    """
    return _measured(filters.gate_gradient, filters, "taylor")


def activation(filters: LayerFilters) -> Tensor:
    """Variance of the channel as it is read, times the squared norm of the weights that read it; summed over readers.

    What a reader's output loses, in the mean square and but for a constant, where channels are uncorrelated (FLAP, An
    et al. 2024, arXiv 2312.11983, "weighted input feature variance", on convolutions).
    """
    return _measured(filters.read_covariance, filters, "activation").diagonal().clone()


def interpolative(filters: LayerFilters) -> Tensor:
    """Place in the pivot order of a column-pivoted QR of the activations, the first pivot highest.

    Each pivot is the channel that the ones before it explain least: what is left after it can be written through it
    (interpolative decomposition, Chee et al. 2022, arXiv 2108.00065, section 3). Activations are those of the readers,
    centred, each channel scaled by the norm of the weights that read it; the order is found without them, by a pivoted
    Cholesky decomposition of their covariance. Channels of which nothing is left to explain come last, by variance.
    """
    order = pivot_order(_measured(filters.read_covariance, filters, "interpolative"))
    rank = torch.empty(len(order), dtype=torch.float64)
    rank[order] = torch.arange(len(order) - 1, -1, -1, dtype=torch.float64)
    return rank


def _measured(values: Tensor | None, filters: LayerFilters, criterion: str) -> Tensor:
    if values is None:
        raise PruningError(
            f"{filters.name}: criterion {criterion!r} measures sound: give clips (--calibration PACK, or calibration=)"
        )
    return values


def pivot_order(gram: Tensor) -> Tensor:
    """Return the pivots of a Cholesky decomposition with complete pivoting, ``(n,)`` int64.

    They are those of a column-pivoted QR of any matrix A with ``A' A = gram``, down to residuals that are rounding
    noise; the columns behind those follow by falling diagonal.

    Args:
        gram: ``(n, n)`` float64, symmetric, positive semidefinite.
    """
    count = len(gram)
    left = gram.diagonal().clone()
    noise = count * torch.finfo(gram.dtype).eps * float(left.max())
    rows = torch.zeros_like(gram)  # row k: what the k-th pivot explains of every column
    order: list[int] = []
    for step in range(count):
        pivot = int(left.argmax())
        if float(left[pivot]) <= noise:
            break
        residual = gram[pivot] - rows[:step].T @ rows[:step, pivot]
        rows[step] = residual / left[pivot].sqrt()
        left -= rows[step].square()
        order.append(pivot)
        left[order] = -torch.inf
    behind = torch.argsort(gram.diagonal(), descending=True, stable=True).tolist()
    gone = set(order)
    return torch.tensor([*order, *(column for column in behind if column not in gone)])
