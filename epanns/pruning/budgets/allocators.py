"""How a limit is shared out over the layers: by one ratio, by ranking all filters together, by measured sensitivity."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Protocol

import numpy as np
from torch import Tensor

from epanns.complexity.width_cost import Widths
from epanns.errors import PruningError, did_you_mean
from epanns.pruning.budgets.sensitivity import Sensitivity
from epanns.pruning.budgets.width_search import WidthSearch
from epanns.pruning.ranking.importance import relative

Importance = Callable[[str], Tensor]  # layer -> importance of each filter, ``(filters,)`` float64; higher = keep

_MINIMUM = 0.1


class Allocator(Protocol):
    """A rule that chooses widths under a limit."""

    @property
    def name(self) -> str:
        """As people choose it."""
        ...

    @property
    def minimum(self) -> float:
        """Fraction of each layer's channels that stays whatever the rule says."""
        ...

    def choose(self, search: WidthSearch, layers: Sequence[str], importance: Importance) -> Widths:
        """Return levels of `search` that cost at most its limit; its narrowest choice does."""
        ...


@dataclass(frozen=True)
class Uniform:
    """One ratio for all layers, the smallest that meets the limit; each layer's width is rounded down.

    The room that rounding leaves is filled step by step, at most one per layer unless the limit would be missed: each
    goes to the layer that keeps the smallest fraction of its channels, among those whose next step fits; of equal ones
    to the first.
    """

    name: ClassVar[str] = "uniform"
    minimum: ClassVar[float] = 0.0

    def choose(self, search: WidthSearch, layers: Sequence[str], importance: Importance) -> Widths:
        """Return levels within the limit."""
        kept = [[Fraction(int(width), int(widths[-1])) for width in widths] for widths in search.options]
        fractions = sorted({fraction for layer in kept for fraction in layer})

        def levels_at(fraction: Fraction) -> Widths:
            below = [
                np.searchsorted(widths, int(fraction * int(widths[-1])), side="right") - 1 for widths in search.options
            ]
            return np.maximum(np.array(below, np.int64), 0)

        fits, too_much = 0, len(fractions)
        while too_much - fits > 1:
            middle = (fits + too_much) // 2
            if search.cost(levels_at(fractions[middle])) <= search.limit:
                fits = middle
            else:
                too_much = middle
        return search.fill(levels_at(fractions[fits]), lambda layer, level, _: kept[layer][level])


@dataclass(frozen=True)
class Global:
    """The least important filters of all layers together.

    The importances of a layer are divided by the mean of their absolute values, so that layers of any scale compare.
    Filters go in this order, as many together as a step of the layer's widths takes, which are ranked by their
    mean, until the limit is met; then those that fit come back, the most important first, at most one step per layer
    unless the limit would be missed. Of equal ones the first layer's go first.
    """

    minimum: float = _MINIMUM
    name: ClassVar[str] = "global"

    def choose(self, search: WidthSearch, layers: Sequence[str], importance: Importance) -> Widths:
        """Return levels within the limit."""
        blocks = [
            _block_importances(importance(layer), widths, layer)
            for layer, widths in zip(layers, search.options, strict=True)
        ]
        order = sorted(
            (block, index, -level) for index, layer in enumerate(blocks) for level, block in enumerate(layer)
        )
        gone = np.zeros((len(order) + 1, len(layers)), np.int64)  # steps gone of each layer after the first n of all
        for count, (_, index, _) in enumerate(order, start=1):
            gone[count] = gone[count - 1]
            gone[count, index] += 1
        fits, too_much = len(order), -1
        while fits - too_much > 1:
            middle = (fits + too_much) // 2
            if search.cost(search.most - gone[middle]) <= search.limit:
                fits = middle
            else:
                too_much = middle
        return search.fill(search.most - gone[fits], lambda layer, level, _: -blocks[layer][level])


@dataclass(frozen=True)
class BySensitivity:
    """Greedy on a table of `epanns sensitivity`: each step costs the least mAP per unit of the budget it saves.

    A layer's loss of mAP between its measured widths is interpolated; as noise it never falls while channels go, nor
    below 0; with no channel left the whole score would be lost. Of equal steps the one that saves most goes first.
    Where the last step saved too much, what fits comes back, the most mAP per unit first, as in `Global`.

    Attributes:
        table: Measured on the network that is pruned, in all layers that may be.
        minimum: Fraction of each layer's channels that stays.
    """

    table: Sensitivity
    minimum: float = _MINIMUM
    name: ClassVar[str] = "sensitivity"

    def choose(self, search: WidthSearch, layers: Sequence[str], importance: Importance) -> Widths:
        """Return levels within the limit."""
        losses = [_losses(self.table, layer, widths) for layer, widths in zip(layers, search.options, strict=True)]
        levels, cost = search.most, search.cost(search.most)
        while cost > search.limit:
            can = np.flatnonzero(levels).tolist()
            costs = search.costs(search.stepped(levels, can, -1)).tolist()
            steps = [
                (_per_unit(losses[index][levels[index] - 1] - losses[index][levels[index]], cost - after), after, index)
                for index, after in zip(can, costs, strict=True)
            ]
            _, cost, chosen = min(steps)
            levels[chosen] -= 1
        return search.fill(
            levels, lambda layer, level, units: -_per_unit(losses[layer][level] - losses[layer][level + 1], units)
        )


def allocator_named(name: str) -> Allocator:
    """Return an allocator that needs no table.

    Raises:
        PruningError: If there is none of the name; the nearest is offered.
    """
    known: dict[str, Allocator] = {"uniform": Uniform(), "global": Global()}
    if name == BySensitivity.name:
        raise PruningError("allocate='sensitivity' needs a table: give BySensitivity(read_sensitivity(path)) instead")
    if name not in known:
        raise PruningError(
            f"unknown allocator {name!r}{did_you_mean(name, [*known, BySensitivity.name])}: "
            "choose uniform, global or sensitivity"
        )
    return known[name]


def _block_importances(importance: Tensor, widths: Widths, layer: str) -> list[float]:
    """Return for each step between neighbouring widths the mean importance of the filters it is about, falling."""
    if not bool(importance.isfinite().all()):
        raise PruningError(f"{layer}: importances are not all finite; its weights are damaged or overflow")
    falling = np.sort(relative(importance).numpy())[::-1]
    means = [falling[low:high].mean() for low, high in zip(widths[:-1], widths[1:], strict=True)]
    blocks: list[float] = np.minimum.accumulate(means).tolist() if means else []  # equal ones may differ by rounding
    return blocks


def _losses(table: Sensitivity, layer: str, widths: Widths) -> list[float]:
    """Return the loss of mAP at each width of a layer, never rising with the width."""
    measured = {row.width: max(0.0, table.loss_of(row)) for row in table.of(layer) if row.width is not None}
    if not measured:
        raise PruningError(
            f"the table of sensitivities has no row for {layer}: measure it, or name --layers without it"
        )
    measured[int(widths[-1])] = 0.0
    at = sorted(measured, reverse=True)
    losses = np.maximum.accumulate([*(measured[width] for width in at), table.dense.mAP])
    interpolated: list[float] = np.interp(widths, [0, *reversed(at)], losses[::-1]).tolist()
    return interpolated


def _per_unit(loss: float, units: float) -> float:
    """Return the loss per unit of the budget; a step that saves nothing is worth no loss at all."""
    if units > 0:
        return loss / units
    return math.inf
