"""Which filters of a layer matter: one small function per criterion. How many stay is `allocation`'s question."""

from collections.abc import Callable

import torch
from torch import Tensor

from epanns.errors import PruningError, did_you_mean
from epanns.pruning.ranking.layer_filters import LayerFilters
from epanns.pruning.ranking.measured import activation, interpolative, taylor
from epanns.pruning.ranking.operator_norm import opnorm, opnorm_invariant
from epanns.pruning.ranking.similarity import centrality, cosine, fpgm
from epanns.seeding import torch_generator

# Every criterion returns one importance per filter, ``(filters,)`` float64; higher = keep.
Criterion = Callable[[LayerFilters], Tensor]


def l1(filters: LayerFilters) -> Tensor:
    """Sum of absolute weights of the filter (Li et al. 2017, arXiv 1608.08710, section 3.1)."""
    return torch.cat([part.abs().sum(dim=1) for part in filters.parts()])


def l2(filters: LayerFilters) -> Tensor:
    """Euclidean norm of the filter (the variant compared in Li et al. 2017, arXiv 1608.08710, section 4.4)."""
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
    """Uniform in [0, 1), from the seed and the layer's name: the control every other criterion must beat."""
    generator = torch_generator("random criterion", filters.seed, filters.name)
    return torch.rand(len(filters.stored), dtype=torch.float64, generator=generator)


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
    "random": random,
}

# What each criterion looks at beside the name and the seed; anything but weights is measured on calibration clips.
NEEDS: dict[str, str] = {
    **dict.fromkeys(CRITERIA, "weights"),
    "taylor": "gradients",
    "activation": "activations",
    "interpolative": "activations",
}


def needs_clips(name: str) -> bool:
    """Return whether a criterion measures calibration clips; of an unknown one `criterion_named` says more."""
    return NEEDS.get(name, "weights") != "weights"


def criterion_named(name: str) -> Criterion:
    """Return a criterion by name.

    Raises:
        PruningError: If the name is unknown; the nearest is offered.
    """
    if name not in CRITERIA:
        raise PruningError(
            f"unknown criterion {name!r}{did_you_mean(name, CRITERIA)}: choose one of {', '.join(CRITERIA)}"
        )
    return CRITERIA[name]


def most_important(importance: Tensor, count: int, *, layer: str) -> tuple[int, ...]:
    """Return the indices of the `count` filters to keep, ascending; of equal ones the lower index stays.

    Args:
        importance: ``(filters,)`` float64.
        count: How many stay.
        layer: Named in messages.

    Raises:
        PruningError: If an importance is NaN or infinite, which no order can rank.
    """
    if not bool(importance.isfinite().all()):
        broken = int((~importance.isfinite()).nonzero()[0])
        raise PruningError(
            f"{layer}: filter {broken} has importance {float(importance[broken])}; "
            "its weights are damaged or overflow, so load a sound checkpoint"
        )
    order = torch.argsort(importance, descending=True, stable=True)
    return tuple(sorted(order[:count].tolist()))
