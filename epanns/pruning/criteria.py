"""Which filters of a layer matter: one small function per criterion. How many stay is `allocation`'s question."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from epanns.errors import PruningError, did_you_mean
from epanns.seeding import torch_generator


@dataclass(frozen=True)
class LayerFilters:
    """What a criterion may look at.

    Attributes:
        name: Layer name, such as ``conv_block4.conv1``.
        weight: ``(filters, in_channels, *kernel)``, float64 on the CPU, unpruned.
        seed: Of the whole plan; a criterion that draws numbers derives its own from it and `name`.
    """

    name: str
    weight: Tensor
    seed: int


# Every criterion returns one importance per filter, ``(filters,)`` float64; higher = keep.
Criterion = Callable[[LayerFilters], Tensor]


def l1(filters: LayerFilters) -> Tensor:
    """Sum of absolute weights of the filter (Li et al. 2017, arXiv 1608.08710, section 3.1)."""
    return filters.weight.flatten(1).abs().sum(dim=1)


def l2(filters: LayerFilters) -> Tensor:
    """Euclidean norm of the filter (the variant compared in Li et al. 2017, arXiv 1608.08710, section 4.4)."""
    return filters.weight.flatten(1).square().sum(dim=1).sqrt()


def random(filters: LayerFilters) -> Tensor:
    """Uniform in [0, 1), from the seed and the layer's name: the control every other criterion must beat."""
    generator = torch_generator("random criterion", filters.seed, filters.name)
    return torch.rand(len(filters.weight), dtype=torch.float64, generator=generator)


CRITERIA: dict[str, Criterion] = {"l1": l1, "l2": l2, "random": random}


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
