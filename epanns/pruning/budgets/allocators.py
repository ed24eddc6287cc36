"""Allocators, which distribute a budget over the layers: one ratio, a global ranking, or a table of sensitivities.

`epanns.pruning.budgets.distortion` measures without labels.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import ClassVar

import numpy as np
from torch import Tensor

from epanns.complexity.width_cost import Widths
from epanns.errors import PruningError, did_you_mean
from epanns.models.tagger import Tagger
from epanns.models.tensors import count_params, weights_digest
from epanns.pruning.budgets.distortion import ByDistortion
from epanns.pruning.budgets.sensitivity_table import Sensitivity, read_sensitivity
from epanns.pruning.budgets.widths_for_budget import Allocator, Importance, WidthSearch
from epanns.pruning.ranking.importance import relative

_MINIMUM = 0.1
_DIGITS = 12  # of a digest in a message


@dataclass(frozen=True)
class Uniform:
    """One ratio for all layers, the smallest that meets the limit; each layer's width is rounded down.

    Layers are then widened while the budget allows it, by at most one level each unless the limit would be missed: each
    time the layer that keeps the smallest fraction of its channels among those that fit; of equal ones the first.
    """

    name: ClassVar[str] = "uniform"
    minimum: ClassVar[float] = 0.0

    def choose(self, search: WidthSearch, layers: Sequence[str], importance: Importance) -> Widths:
        """Return levels within the limit."""
        return _proportional(search, [1.0] * len(layers))


@dataclass(frozen=True)
class ByShares:
    """Layers keep fractions of their channels in proportion to shares, as many channels as the limit allows.

    A layer whose fraction would be above 1 keeps all channels; equal shares are `Uniform`. `epanns search` varies the
    shares.

    Attributes:
        shares: Layer -> share, above 0; only their ratios matter.
    """

    shares: Mapping[str, float]
    name: ClassVar[str] = "shares"
    minimum: ClassVar[float] = 0.0

    def choose(self, search: WidthSearch, layers: Sequence[str], importance: Importance) -> Widths:
        """Return levels within the limit."""
        return _proportional(search, [self.shares[layer] for layer in layers])


def _proportional(search: WidthSearch, shares: Sequence[float]) -> Widths:
    """Return the levels of the largest factor on the shares that meets the limit, then widened while it is met."""
    # The factor at which a layer reaches each of its widths, exactly.
    factors = [
        [Fraction(int(width), int(widths[-1])) / Fraction(share) for width in widths]
        for widths, share in zip(search.options, shares, strict=True)
    ]
    every = sorted({factor for layer in factors for factor in layer})

    def levels_at(factor: Fraction) -> Widths:
        return np.array([max(0, bisect_right(layer, factor) - 1) for layer in factors], np.int64)

    fits, too_much = 0, len(every)
    while too_much - fits > 1:
        middle = (fits + too_much) // 2
        if search.cost(levels_at(every[middle])) <= search.limit:
            fits = middle
        else:
            too_much = middle
    return search.fill(levels_at(every[fits]), lambda layer, level, _: factors[layer][level])


@dataclass(frozen=True)
class Global:
    """The least important filters of all layers together are removed.

    The importances of a layer are divided by the mean of their absolute values, so that layers of any scale compare.
    Filters are removed in blocks, one block per level of the layer's widths, ranked by their mean importance, until the
    limit is met; then blocks that fit are restored, the most important first, at most one per layer unless the limit
    would be missed. Of equal blocks the first layer's is removed first.

    Attributes:
        minimum: Smallest fraction of each layer's channels that is kept.
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
        removed = np.zeros((len(order) + 1, len(layers)), np.int64)  # blocks of each layer among the first n of all
        for count, (_, index, _) in enumerate(order, start=1):
            removed[count] = removed[count - 1]
            removed[count, index] += 1
        fits, too_much = len(order), -1
        while fits - too_much > 1:
            middle = (fits + too_much) // 2
            if search.cost(search.most - removed[middle]) <= search.limit:
                fits = middle
            else:
                too_much = middle
        return search.fill(search.most - removed[fits], lambda layer, level, _: -blocks[layer][level])


@dataclass(frozen=True)
class BySensitivity:
    """Greedy on a table of `epanns sensitivity`: the block that costs the least mAP per unit of budget goes first.

    A layer's loss of mAP is interpolated between its measured widths; it never decreases with fewer channels and is
    never below 0, so noise is ignored; with no channel left the whole score is lost. Of equal blocks the one that saves
    most is removed first. If the last block saved too much, blocks that fit are restored, the most mAP per unit first.

    Attributes:
        table: Measured on the network that is pruned, in all layers that may lose channels.
        minimum: Smallest fraction of each layer's channels that is kept.
    """

    table: Sensitivity
    minimum: float = _MINIMUM
    name: ClassVar[str] = "sensitivity"

    def choose(self, search: WidthSearch, layers: Sequence[str], importance: Importance) -> Widths:
        """Return levels within the limit."""
        losses = [_losses(self.table, layer, widths) for layer, widths in zip(layers, search.options, strict=True)]
        levels, cost = search.most, search.cost(search.most)
        while cost > search.limit:
            candidates = np.flatnonzero(levels).tolist()
            costs = search.costs(search.moved(levels, candidates, -1)).tolist()
            ranked = [
                (_per_unit(losses[index][levels[index] - 1] - losses[index][levels[index]], cost - after), after, index)
                for index, after in zip(candidates, costs, strict=True)
            ]
            _, cost, chosen = min(ranked)
            levels[chosen] -= 1
        return search.fill(
            levels, lambda layer, level, units: -_per_unit(losses[layer][level] - losses[layer][level + 1], units)
        )


def allocator_named(name: str, *, minimum: float | None = None, sensitivity: Path | str | None = None) -> Allocator:
    """Return an allocator by name.

    Args:
        name: ``uniform``, ``global``, ``distortion`` or ``sensitivity``.
        minimum: Smallest fraction of each layer's channels that the others than ``uniform`` keep; 0.1 by default.
        sensitivity: The table of ``sensitivity``, a CSV of `epanns sensitivity`.

    Raises:
        PruningError: If the name is unknown (the nearest is offered), or the table is missing or unreadable.
    """
    least = _MINIMUM if minimum is None else minimum
    if name == BySensitivity.name:
        if sensitivity is None:
            raise PruningError(
                "allocate='sensitivity' needs a table: give BySensitivity(read_sensitivity(path)) instead"
            )
        return BySensitivity(read_sensitivity(Path(sensitivity)), least)
    known: dict[str, Allocator] = {
        "uniform": Uniform(),
        "global": Global(least),
        "distortion": ByDistortion(minimum=least),
    }
    if name not in known:
        raise PruningError(
            f"unknown allocator {name!r}{did_you_mean(name, [*known, BySensitivity.name])}: "
            "choose uniform, global, distortion or sensitivity"
        )
    return known[name]


def refuse_other_table(model: Tagger, allocator: Allocator) -> None:
    """Refuse a table of sensitivities that was measured on another network.

    Networks are compared by their weights; with a table that does not record them, by the number of parameters.
    """
    if not isinstance(allocator, BySensitivity):
        return
    table = allocator.table
    if table.dense.n_params != (n_params := count_params(model.spec)):
        raise PruningError(
            f"the table of sensitivities was measured on a network of {table.dense.n_params:,} parameters, "
            f"this one has {n_params:,}: measure it with `epanns sensitivity`"
        )
    if table.network and table.network != (network := weights_digest(model)):
        raise PruningError(
            f"the table of sensitivities was measured on network {table.network[:_DIGITS]}, this one is "
            f"{network[:_DIGITS]}, of the same size with other weights: measure it with `epanns sensitivity`"
        )


def _block_importances(importance: Tensor, widths: Widths, layer: str) -> list[float]:
    """Return the mean importance of the filters between neighbouring widths, falling."""
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
    """Return the loss per unit of the budget; infinite for a block that saves nothing."""
    return loss / units if units > 0 else math.inf
