"""Criteria that call a filter unimportant when others can stand in for it."""

import numpy as np
import torch
from torch import Tensor

from epanns.pruning.ranking.layer_filters import LayerFilters

_ROWS_AT_ONCE = 256


def fpgm(filters: LayerFilters) -> Tensor:
    """Sum of Euclidean distances to the layer's other filters (FPGM, He et al. 2019, arXiv 1811.00250, equation 8).

    The filter nearest to the geometric median, which the others can replace, has the smallest sum.
    """
    flat = filters.weight.flatten(1)
    squares = flat.square().sum(dim=1)
    total = torch.zeros_like(squares)
    for start in range(0, len(flat), _ROWS_AT_ONCE):  # each pair once: a row's distances to itself and those behind it
        rows, behind = slice(start, start + _ROWS_AT_ONCE), slice(start, None)
        distances = squares[rows, None] + squares[None, behind] - 2 * (flat[rows] @ flat[behind].T)
        distances = distances.clamp(min=0).sqrt().fill_diagonal_(0)
        total[rows] += distances.sum(dim=1)
        total[start + len(distances) :] += distances[:, len(distances) :].sum(dim=0)
    return total


def cosine(filters: LayerFilters) -> Tensor:
    """Rank in which similar filters go (Singh and Plumbley 2022, arXiv 2203.15751), 0 first.

    A filter's shape is the leading left singular vector of its ``(taps, in_channels)`` matrix, which says how its
    kernels look but neither how strong nor of which sign they are. All pairs are visited from the most to the least
    similar; where both members are still there, the one with the smaller L1 norm goes. The authors let the second of
    the nearest pairs go and stop after one pass, so that the number removed is an outcome, and keep a sign that the
    first input channel fixes; here the order goes on to the last filter and does not depend on any numbering.
    """
    similarity = _shape_similarity(filters.weight).numpy()
    norms = filters.weight.flatten(1).abs().sum(dim=1).tolist()
    count = len(norms)
    first, second = np.triu_indices(count, k=1)
    visited = np.argsort(-similarity[first, second], kind="stable")
    rank = [count - 1] * count  # of the last one left
    here, n_gone = [True] * count, 0
    for one, other in zip(first[visited].tolist(), second[visited].tolist(), strict=True):
        if here[one] and here[other]:
            goes = one if norms[one] < norms[other] else other
            here[goes], rank[goes] = False, n_gone
            n_gone += 1
            if n_gone == count - 1:
                break
    return torch.tensor(rank, dtype=torch.float64)


def centrality(filters: LayerFilters) -> Tensor:
    """Minus the weighted degree in the graph of similarities (King et al. 2023, arXiv 2305.03391).

    The vertices are the filters, an edge weighs the similarity of two shapes as in `cosine`; the most central filter is
    the most redundant one. Of the paper's centralities this is the weighted degree.
    """
    return -_shape_similarity(filters.weight).fill_diagonal_(0).sum(dim=1)


def _shape_similarity(weight: Tensor) -> Tensor:
    """Return ``(filters, filters)``, absolute cosines between the filters' shapes, in [0, 1].

    To an empty filter, for which any other can stand in, it is 1. A filter of a single tap has its input channels for a
    shape: by its kernels it would be like every other.
    """
    kernels = weight.flatten(2) if weight.dim() > 2 else weight.unsqueeze(2)
    kernels = kernels.mT  # (filters, taps, in_channels)
    if kernels.shape[1] > 1:
        shapes = torch.linalg.eigh(kernels @ kernels.mT).eigenvectors[..., -1]
    else:
        shapes = torch.nn.functional.normalize(kernels[:, 0], dim=1)
    empty = kernels.flatten(1).abs().amax(dim=1) == 0
    similarity: Tensor = (shapes @ shapes.T).abs().clamp(max=1)
    return similarity.masked_fill(empty[:, None] | empty[None], 1)
