"""Widths within a limit: which there are, how room that is left is used, and what is said where none fit."""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from epanns.complexity.width_cost import Widths
from epanns.errors import PruningError

# The cost ``(n,)`` of each of n choices ``(n, layers)``; it must not fall where a width rises.
Cost = Callable[[Widths], NDArray[Any]]
# What a step up of a layer (index, level before it, cost it adds) is worth; the least goes first.
Rank = Callable[[int, int, float], Any]

_ALL_CHOICES = 50_000  # as many can be looked at one by one
_LAYERS_IN_TRIPLES = 16  # with more layers than this, exchanges of three steps would be too many, and are not needed


def allowed_widths(width: int, *, round_to: int = 1, minimum: float = 0.0) -> tuple[int, ...]:
    """Return the widths a layer may get, ascending: multiples of `round_to` below `width`, and `width` itself.

    Args:
        width: Channels of the unpruned layer.
        round_to: What the width of a pruned layer must be a multiple of.
        minimum: Fraction of `width` that must stay, in [0, 1).

    Raises:
        PruningError: If `round_to` or `minimum` is out of range.
    """
    if type(round_to) is not int or round_to < 1:
        raise PruningError(f"round_to={round_to!r}: must be a whole number of at least 1")
    if isinstance(minimum, bool) or not isinstance(minimum, int | float) or not 0 <= minimum < 1:
        raise PruningError(f"minimum={minimum!r}: must be in [0, 1), the fraction of a layer's channels that must stay")
    least = max(round_to, -(-(width * Fraction(repr(float(minimum)))) // round_to) * round_to)
    return (*range(int(least), width, round_to), width)


class WidthSearch:
    """A choice of one width per layer whose cost must not exceed a limit.

    A choice is written as levels: ``levels[i]`` is an index into ``options[i]``.

    Attributes:
        options: For each layer, the widths it may get, ascending.
        limit: The most that a choice may cost.
        enough: The least that it shall cost.
    """

    def __init__(self, options: Sequence[tuple[int, ...]], cost: Cost, *, limit: float, enough: float) -> None:
        self.options = [np.array(widths, np.int64) for widths in options]
        self.limit, self.enough = limit, enough
        self._cost = cost

    @property
    def least(self) -> Widths:
        """The levels of the narrowest choice."""
        return np.zeros(len(self.options), np.int64)

    @property
    def most(self) -> Widths:
        """The levels of the widest choice, which removes nothing."""
        return np.array([len(widths) - 1 for widths in self.options], np.int64)

    def widths(self, levels: Widths) -> Widths:
        """Return the widths ``(..., layers)`` of choices."""
        columns = [widths[levels[..., index]] for index, widths in enumerate(self.options)]
        return np.stack(columns, axis=-1)

    def costs(self, levels: Widths) -> NDArray[Any]:
        """Return the cost ``(n,)`` of choices ``(n, layers)``."""
        return self._cost(self.widths(levels))

    def cost(self, levels: Widths) -> float:
        """Return the cost of one choice."""
        return self.costs(levels[None])[0].item()  # type: ignore[no-any-return]

    def stepped(self, levels: Widths, layers: Sequence[int], direction: int) -> Widths:
        """Return the choices ``(n, layers)`` in which one of `layers` is one level higher (1) or lower (-1)."""
        moved = np.repeat(levels[None], len(layers), axis=0)
        moved[np.arange(len(layers)), layers] += direction
        return moved

    def fill(self, levels: Widths, rank: Rank) -> Widths:
        """Return the choice after as many steps up as fit under the limit, at most one of each layer.

        Of the steps that fit, the one with the least rank is taken, of equal ones the first layer's. Where the choice
        then still costs less than `enough`, layers go on in the same way until it does not or nothing fits.
        """
        levels = self._raise(levels, rank, np.minimum(levels + 1, self.most), math.inf)
        return self._raise(levels, rank, self.most, self.enough)

    def _raise(self, levels: Widths, rank: Rank, top: Widths, enough: float) -> Widths:
        levels, cost = levels.copy(), self.cost(levels)
        layers = list(range(len(levels)))
        while cost < enough:
            layers = [index for index in layers if levels[index] < top[index]]
            costs = self.costs(self.stepped(levels, layers, 1))
            fits = [(index, costs[row].item()) for row, index in enumerate(layers) if costs[row] <= self.limit]
            if not fits:
                break
            layers = [index for index, _ in fits]  # costs only rise, so what does not fit once never will
            chosen, after = min(fits, key=lambda fit: (rank(fit[0], int(levels[fit[0]]), fit[1] - cost), fit[0]))
            levels[chosen], cost = levels[chosen] + 1, after
        return levels

    def approach(self, levels: Widths) -> Widths:
        """Return `levels`, or, where they cost less than `enough`, what exchanging steps between layers comes nearest.

        Each exchange moves up to three layers by one step (two, in networks of many layers), the one that comes nearest
        to the limit from below first; it ends at `enough`, or where no exchange comes nearer. Where there are few
        choices, it is the nearest of all.
        """
        cost = self.cost(levels)
        while cost < self.enough:
            near = self._near(levels)
            costs = self.costs(near)
            costs = np.where(costs <= self.limit, costs, -np.inf)
            best = int(costs.argmax())
            if costs[best] <= cost:
                break
            levels, cost = near[best], costs[best].item()
        return levels

    def above(self, levels: Widths) -> float:
        """Return the least cost above the limit among choices few steps from `levels`; infinite where there is none."""
        costs = self.costs(self._near(levels))
        return float(np.where(costs > self.limit, costs, np.inf).min())

    def _near(self, levels: Widths) -> Widths:
        """Return all choices where they are few, else those few steps away."""
        if math.prod((self.most + 1).tolist()) <= _ALL_CHOICES:
            grid = np.meshgrid(*(np.arange(top + 1) for top in self.most), indexing="ij")
            return np.stack([axis.ravel() for axis in grid], axis=1)
        count = len(levels)
        up = np.eye(count, dtype=np.int64)
        single = np.concatenate([np.zeros((1, count), np.int64), up, -up])
        at_once = 3 if count <= _LAYERS_IN_TRIPLES else 2
        moves = reduce(lambda some, one: (some[:, None] + one[None]).reshape(-1, count), [single] * at_once)
        near: Widths = levels + np.unique(moves, axis=0)
        return near[((near >= 0) & (near <= self.most)).all(axis=1)]
