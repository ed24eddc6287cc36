"""The ranking criteria: functions from the filters of one layer to an importance per filter; higher = keep.

`CRITERIA` lists them by name and `NEEDS` states what each one reads. The activations and gradients that some criteria
need are measured in `epanns.pruning.ranking.importance`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from epanns.errors import PruningError, did_you_mean
from epanns.pruning.ranking.channel_orders import (
    ReadMoments,
    elimination_order,
    medoid_order,
    pivot_order,
    scaled_covariance,
)
from epanns.seeding import torch_generator

_PART_BYTES = 1 << 18  # of filters in float64 at a time; parts larger than the cache take four times as long
_ROWS_AT_ONCE = 256
_RIDGE = 1e-3  # of `elimination`, that of the least-squares refit

_Measured = TypeVar("_Measured")


@dataclass(frozen=True)
class LayerFilters:
    """The filters of one layer, with the measurements of its channels that the criterion needs.

    Attributes:
        name: Layer name, such as ``conv_block4.conv1``.
        stored: ``(filters, in_channels, *kernel)``, on the CPU, unpruned, in the network's own precision.
        seed: Seed of the plan; criteria derive the layer's own seed from it and `name`.
        scale: ``(filters,)`` float64, factors of the batch norm behind the layer; None without one.
        readers: How each reader uses the filters' channels, from `read_moments`; None where not measured.
        gate_gradient: ``(filters,)`` float64, from `gate_gradients`; None where not measured.
    """

    name: str
    stored: Tensor
    seed: int
    scale: Tensor | None = None
    readers: Sequence[ReadMoments] | None = None
    gate_gradient: Tensor | None = None

    @property
    def weight(self) -> Tensor:
        """``(filters, in_channels, *kernel)`` float64: a new copy on each access, twice the memory of the layer.

        Raises:
            PruningError: If a weight is not finite.
        """
        weight = self.stored.to(torch.float64)
        if not math.isfinite(float(weight.sum())):
            broken = int((~weight.flatten(1).isfinite().all(dim=1)).nonzero()[0])
            raise PruningError(
                f"{self.name}: filter {broken} holds numbers that are not finite; its weights are damaged, so load a "
                "sound checkpoint"
            )
        return weight

    def parts(self) -> Iterator[Tensor]:
        """Yield `weight` flattened, ``(some filters, weights)`` float64, for sums that need little memory."""
        flat = self.stored.flatten(1)
        for part in torch.split(flat, max(1, _PART_BYTES // (8 * max(1, flat.shape[1])))):
            yield part.to(torch.float64)

    def measured(self, values: _Measured | None, criterion: str) -> _Measured:
        """Return a measurement, or raise `PruningError` where there is none."""
        if values is None:
            raise PruningError(
                f"{self.name}: criterion {criterion!r} measures sound: give clips (--calibration PACK, or calibration=)"
            )
        return values


# Returns one importance per filter, ``(filters,)`` float64; higher = keep.
Criterion = Callable[[LayerFilters], Tensor]


def l1(filters: LayerFilters) -> Tensor:
    """Sum of absolute weights of the filter (Li et al. 2017, arXiv 1608.08710, section 3.1)."""
    return torch.cat([part.abs().sum(dim=1) for part in filters.parts()])


def l2(filters: LayerFilters) -> Tensor:
    """Euclidean norm of the filter (a variant compared in Li et al. 2017, arXiv 1608.08710)."""
    return torch.cat([part.square().sum(dim=1).sqrt() for part in filters.parts()])


def bn(filters: LayerFilters) -> Tensor:
    """Absolute factor of the batch norm that follows (Liu et al. 2017, arXiv 1708.06519, section 3).

    Raises:
        PruningError: If no batch norm with a scale follows the layer.
    """
    if filters.scale is None:
        raise PruningError(
            f"{filters.name}: no batch norm with a scale follows it, so criterion 'bn' cannot rank it; choose another"
        )
    return filters.scale.abs()


def random(filters: LayerFilters) -> Tensor:
    """Uniform in [0, 1), from the seed and the layer's name: the control that every criterion must beat."""
    generator = torch_generator("random criterion", filters.seed, filters.name)
    return torch.rand(len(filters.stored), dtype=torch.float64, generator=generator)


def opnorm(filters: LayerFilters) -> Tensor:
    """Operator norm as released: ``(sum_c <A_c[j], sign(u_c[0]) v_c>) ** 2``, divided by the layer's maximum.

    For every input channel c the filters' kernels are the rows of a matrix A_c, ``(filters, taps)``, centred over the
    filters; u_c and v_c are its leading singular vectors, so v_c is the kernel by which the filters differ most. The
    sign is taken from filter 0, whose terms therefore all add up while those of other filters cancel: the first filter
    is ranked near the top, and another order of the same filters gives another ranking. This reproduces the published
    results; for new work use `opnorm_invariant`.

    Source: Singh and Plumbley, arXiv 2304.02319; `Proposed_pruning.py` of Efficient_CNNs_passive_filter_pruning.
    """
    projections = _leading_projections(filters.weight)
    signs = torch.where(projections[:, :1] < 0, -1.0, 1.0).to(projections.dtype)
    scores = (projections * signs).sum(dim=0).square()
    return scores / scores.max().clamp(min=torch.finfo(scores.dtype).tiny)


def opnorm_invariant(filters: LayerFilters) -> Tensor:
    """Operator norm without signs: ``sum_c <A_c[j], v_c> ** 2``, the same for every order of the filters."""
    return _leading_projections(filters.weight).square().sum(dim=0)


def fpgm(filters: LayerFilters) -> Tensor:
    """Sum of Euclidean distances to the layer's other filters (FPGM, He et al. 2019, arXiv 1811.00250, equation 8).

    The filter nearest to the geometric median, which the other filters can replace, has the smallest sum.
    """
    flat = filters.weight.flatten(1)
    squares = flat.square().sum(dim=1)
    total = torch.zeros_like(squares)
    for start in range(0, len(flat), _ROWS_AT_ONCE):  # each pair once: distances of a row to itself and to later rows
        rows, behind = slice(start, start + _ROWS_AT_ONCE), slice(start, None)
        distances = squares[rows, None] + squares[None, behind] - 2 * (flat[rows] @ flat[behind].T)
        distances = distances.clamp(min=0).sqrt().fill_diagonal_(0)
        total[rows] += distances.sum(dim=1)
        total[start + len(distances) :] += distances[:, len(distances) :].sum(dim=0)
    return total


def cosine(filters: LayerFilters) -> Tensor:
    """Order in which similar filters are removed (Singh and Plumbley 2022, arXiv 2203.15751), 0 first.

    All pairs are visited from the most to the least similar in shape; where both filters are still kept, the one with
    the smaller L1 norm is removed. The authors remove the second filter of a pair and stop after one pass, so that the
    number removed is an outcome, and keep a sign that the first input channel decides; here the order covers all
    filters and does not depend on any numbering.
    """
    similarity = _shape_similarity(filters.weight).numpy()
    norms = filters.weight.flatten(1).abs().sum(dim=1).tolist()
    count = len(norms)
    first, second = np.triu_indices(count, k=1)
    visited = np.argsort(-similarity[first, second], kind="stable")
    rank = [count - 1] * count  # of the last filter left
    is_kept, n_removed = [True] * count, 0
    for one, other in zip(first[visited].tolist(), second[visited].tolist(), strict=True):
        if is_kept[one] and is_kept[other]:
            removed = one if norms[one] < norms[other] else other
            is_kept[removed], rank[removed] = False, n_removed
            n_removed += 1
            if n_removed == count - 1:
                break
    return torch.tensor(rank, dtype=torch.float64)


def centrality(filters: LayerFilters) -> Tensor:
    """Minus the weighted degree in the graph of similarities (King et al. 2023, arXiv 2305.03391).

    Vertices are the filters, and edges weigh the similarity of two shapes as in `cosine`; the most central filter is
    the most redundant one. Of the paper's centralities this is the weighted degree.
    """
    return -_shape_similarity(filters.weight).fill_diagonal_(0).sum(dim=1)


def taylor(filters: LayerFilters) -> Tensor:
    """First-order Taylor: ``mean over clips of (sum_m g_m w_m) ** 2`` (Molchanov et al. 2019, arXiv 1906.10771).

    The sum is the derivative of the loss by a gate on the channel: w are factor and offset of the batch norm behind the
    filter and g their gradients; without a batch norm, w are the filter's own weights and bias. This is the paper's
    gate behind the batch norm and not its sum over the convolution's weights: a channel is removed with its batch norm,
    and the sum over the weights leaves the batch norm's constant in place (with batch statistics it is 0 for every
    filter, whose size they cancel). Each clip is squared as a batch of its own, so the batch size has no influence.
    """
    return filters.measured(filters.gate_gradient, "taylor")


def activation(filters: LayerFilters) -> Tensor:
    """Variance of the channel at its readers, times the squared norm of the weights that read it, over all readers.

    This is the mean square that the outputs of the readers lose, but for a constant, where channels are uncorrelated
    (FLAP, An et al. 2024, arXiv 2312.11983, "weighted input feature variance", on convolutions).
    """
    return scaled_covariance(filters.measured(filters.readers, "activation")).diagonal().clone()


def interpolative(filters: LayerFilters) -> Tensor:
    """Place in the pivot order of a column-pivoted QR of the activations, the first pivot highest.

    Each pivot is the channel that the earlier pivots explain least: the channels after it can be written through it
    (interpolative decomposition, Chee et al. 2022, arXiv 2108.00065, section 3). Activations are the centred inputs of
    the readers, each channel scaled by the norm of the weights that read it; the order comes from a pivoted Cholesky
    decomposition of their covariance. Channels that are fully explained come last, by variance.
    """
    order = pivot_order(scaled_covariance(filters.measured(filters.readers, "interpolative")))
    rank = torch.empty(len(order), dtype=torch.float64)
    rank[order] = torch.arange(len(order) - 1, -1, -1, dtype=torch.float64)
    return rank


def folding(filters: LayerFilters) -> Tensor:
    """Place in the order in which greedy k-medoids selects the channels, the first one highest.

    The kept channels are the medoids of clusters of channels that are proportional at the readers' inputs, each channel
    scaled by the norm of the weights that read it (`medoid_order`). The recovery ``fold`` merges the other channels
    into them. After model folding (Wang et al. 2025, arXiv 2502.10216), which clusters filters by k-means on their
    weights and keeps the mean of each cluster.
    """
    readers = filters.measured(filters.readers, "folding")
    order = medoid_order(torch.stack([reader.scaled_power() for reader in readers]).sum(dim=0))
    rank = torch.empty(len(order), dtype=torch.float64)
    rank[order] = torch.arange(len(order) - 1, -1, -1, dtype=torch.float64)
    return rank


def elimination(filters: LayerFilters) -> Tensor:
    """Place in a backward elimination with refit: the channel that is removed first has importance 0.

    Each step removes the channel whose loss costs the readers' outputs the least squared error once the weights of the
    remaining channels were refitted: the optimal brain surgeon's saliency of a channel, updated after each removal
    (OSSCAR, Meng et al. 2024, arXiv 2403.12983, without its swaps; see `elimination_order`). A channel counts by what
    no other channel can replace, and by how strongly it is read, while `interpolative` ignores the weights' directions.
    """
    order = elimination_order(filters.measured(filters.readers, "elimination"), _RIDGE)
    rank = torch.empty(len(order), dtype=torch.float64)
    rank[order] = torch.arange(len(order), dtype=torch.float64)
    return rank


CRITERIA: dict[str, Criterion] = {
    "l1": l1,
    "l2": l2,
    "opnorm": opnorm,
    "opnorm_invariant": opnorm_invariant,
    "fpgm": fpgm,
    "cosine": cosine,
    "centrality": centrality,
    "bn": bn,
    "taylor": taylor,
    "activation": activation,
    "interpolative": interpolative,
    "folding": folding,
    "elimination": elimination,
    "random": random,
}

# What each criterion reads beside name and seed; gradients and activations are measured on calibration clips.
NEEDS: dict[str, str] = {
    **dict.fromkeys(CRITERIA, "weights"),
    "taylor": "gradients",
    "activation": "activations",
    "interpolative": "activations",
    "folding": "activations",
    "elimination": "activations",
}


def needs_clips(name: str) -> bool:
    """Return whether a criterion measures calibration clips; False for unknown names."""
    return NEEDS.get(name, "weights") != "weights"


def criterion_named(name: str) -> Criterion:
    """Return a criterion by name.

    Raises:
        PruningError: If the name is unknown; the nearest name is offered.
    """
    if name not in CRITERIA:
        raise PruningError(
            f"unknown criterion {name!r}{did_you_mean(name, CRITERIA)}: choose one of {', '.join(CRITERIA)}"
        )
    return CRITERIA[name]


def most_important(importance: Tensor, count: int, *, layer: str) -> tuple[int, ...]:
    """Return the indices of the `count` filters to keep, ascending; of equally important ones the lower index is kept.

    Args:
        importance: ``(filters,)`` float64.
        count: Number of filters kept.
        layer: Name of the layer, for messages.

    Raises:
        PruningError: If an importance is NaN or infinite.
    """
    if not bool(importance.isfinite().all()):
        broken = int((~importance.isfinite()).nonzero()[0])
        raise PruningError(
            f"{layer}: filter {broken} has importance {float(importance[broken])}; "
            "its weights are damaged or overflow, so load a sound checkpoint"
        )
    order = torch.argsort(importance, descending=True, stable=True)
    return tuple(sorted(order[:count].tolist()))


def _leading_projections(weight: Tensor) -> Tensor:
    """Return ``(in_channels, filters)``: <A_c[j], v_c> of `opnorm`, each row up to its sign.

    v_c is the leading eigenvector of the small ``(taps, taps)`` matrix A_c' A_c.
    """
    kernels = weight.flatten(2) if weight.dim() > 2 else weight.unsqueeze(2)
    centred = (kernels - kernels.mean(dim=0)).transpose(0, 1)  # (in_channels, filters, taps)
    directions = torch.linalg.eigh(centred.mT @ centred).eigenvectors[..., -1:]  # eigenvalues ascend
    projections: Tensor = (centred @ directions).squeeze(2)
    return projections


def _shape_similarity(weight: Tensor) -> Tensor:
    """Return ``(filters, filters)``, absolute cosines between the filters' shapes, in [0, 1].

    A filter's shape is the leading left singular vector of its ``(taps, in_channels)`` matrix, without strength and
    sign; the shape of a filter with a single tap is its vector of input channels. The similarity to an empty filter,
    which any filter can replace, is 1.
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
