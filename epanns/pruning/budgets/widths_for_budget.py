"""From a budget of MACs, parameters, bytes or channels to the width of each layer."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from epanns.complexity.latency import Latency
from epanns.complexity.width_cost import WidthCost, Widths
from epanns.errors import PruningError
from epanns.models.provenance import Operation, Provenance
from epanns.models.spec import ModelSpec
from epanns.pruning.budgets.budget import Budget
from epanns.pruning.rounding import allowed_widths

# The cost ``(n,)`` of each of n choices ``(n, layers)``; it must not fall where a width rises.
Cost = Callable[[Widths], NDArray[Any]]
# Rank of widening a layer by one level (index, level before it, cost it adds); the lowest is widened first.
Rank = Callable[[int, int, float], Any]
Importance = Callable[[str], Tensor]  # layer -> importance of each filter, ``(filters,)`` float64; higher = keep

_ENOUGH = Fraction(99, 100)  # of a budget, so that it is met
_ALL_CHOICES = 50_000  # as many are evaluated one by one
_LAYERS_IN_TRIPLES = 16  # with more layers, exchanges of three levels would be too many, and are not needed


class Allocator(Protocol):
    """A rule that distributes a budget over the layers."""

    @property
    def name(self) -> str:
        """Name of the rule."""
        ...

    @property
    def minimum(self) -> float:
        """Smallest fraction of each layer's channels that is kept."""
        ...

    def choose(self, search: "WidthSearch", layers: Sequence[str], importance: Importance) -> Widths:
        """Return levels of `search` that cost at most its limit; its narrowest choice does."""
        ...


@dataclass(frozen=True)
class BudgetResult:
    """Widths that meet a budget.

    Attributes:
        widths: Layer -> channels kept, for the layers that may lose some, in forward order.
        allocate: Name of the allocator.
        budget: The budget.
        asked: The largest cost that it allows, in its own unit.
        reached: Cost of the pruned network; a latency is measured.
        unpruned: Cost of the network before.
        latency: The measurement of which `reached` is the median, for a budget of latency.
        distortions: The table of the allocator ``distortion``: layer -> width -> divergence of the tags, in nats.
    """

    widths: Mapping[str, int]
    allocate: str
    budget: Budget
    asked: float
    reached: float
    unpruned: float
    latency: Latency | None = None
    distortions: Mapping[str, Mapping[int, float]] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the value of ``budget`` in ``epanns prune --json``, which the checkpoint's recipe keeps."""
        values = {
            "kind": self.budget.cost,
            "asked": self.asked,
            "reached": self.reached,
            "unpruned": self.unpruned,
            "allocate": self.allocate,
        }
        if self.distortions is not None:
            values["distortions"] = {
                layer: {str(width): value for width, value in measured.items()}
                for layer, measured in self.distortions.items()
            }
        if self.latency is None:
            return values
        return {
            **values,
            "spread": self.latency.spread,
            "threads": self.latency.threads,
            "runtime": self.latency.runtime,
        }

    def recorded(self, provenance: Provenance) -> Provenance:
        """Return the provenance of a pruned network with the budget in the last pruning of its recipe."""
        recipe = list(provenance.recipe)
        last = max(index for index, operation in enumerate(recipe) if operation.kind == "prune")
        recipe[last] = Operation("prune", {**recipe[last].settings, "budget": self.to_dict()})
        return replace(provenance, recipe=tuple(recipe))

    def summary(self) -> str:
        """Return one line for people."""
        show = self.budget.show
        noise = ""
        if self.latency is not None:
            threads = "1 thread" if self.latency.threads == 1 else f"{self.latency.threads} threads"
            noise = f", measured with {threads} and a spread of {self.latency.spread:.0%}"
        return (
            f"{show(self.reached)} of at most {show(self.asked)} ({self.reached / self.asked:.2%} of the budget, "
            f"{self.reached / self.unpruned:.2%} of {show(self.unpruned)} before){noise}; allocator {self.allocate}"
        )


@dataclass(frozen=True)
class Allocation:
    """How a budget is distributed over the layers.

    Attributes:
        layers: Layers that may lose channels, in forward order; others keep all.
        allocator: The rule.
        round_to: Multiple to which the widths of pruned layers are rounded.
        importance: Returns the importance of a layer's filters.
    """

    layers: Sequence[str]
    allocator: Allocator
    round_to: int
    importance: Importance

    def search(self, spec: ModelSpec, cost: Cost, *, limit: float, enough: float) -> "WidthSearch":
        """Return the search for widths of these layers in a network with a cost function."""
        minimum = self.allocator.minimum
        options = [allowed_widths(spec.widths[layer], round_to=self.round_to, minimum=minimum) for layer in self.layers]
        return WidthSearch(options, cost, limit=limit, enough=enough)

    def choose(self, search: "WidthSearch") -> Widths:
        """Return the allocator's levels, with levels exchanged between layers if they cost less than enough."""
        return search.approach(self.allocator.choose(search, self.layers, self.importance))

    def by_layer(self, widths: Widths) -> dict[str, int]:
        """Return layer -> width."""
        return dict(zip(self.layers, widths.tolist(), strict=True))

    def in_network(self, spec: ModelSpec, widths: Widths) -> Widths:
        """Return ``(n, all layers)`` from the widths ``(n, layers)`` of these layers; other widths are of `spec`."""
        whole = np.repeat(np.array([list(spec.widths.values())], np.int64), len(widths), axis=0)
        whole[:, [list(spec.widths).index(layer) for layer in self.layers]] = widths
        return whole

    def refuse_unreachable(self, budget: Budget, limit: float, *, most: float, least: float) -> None:
        """Refuse a limit that the unpruned network meets, or that the narrowest one does not."""
        show = budget.show
        if limit >= most:
            raise PruningError(f"a budget of {show(limit)} removes nothing: the network has {show(most)}, so give less")
        if least >= most:
            raise PruningError(
                f"a budget of {show(limit)} cannot be met: with round_to={self.round_to} and minimum="
                f"{self.allocator.minimum:g} no layer can lose a channel; lower them, or name other layers"
            )
        if least > limit:
            raise PruningError(
                f"a budget of {show(limit)} cannot be met: at their narrowest (round_to={self.round_to}, minimum="
                f"{self.allocator.minimum:g}) the layers leave {budget.offer(least)}; give at least that, or name more "
                "layers"
            )


def widths_for_budget(spec: ModelSpec, budget: Budget, allocation: Allocation) -> BudgetResult:
    """Choose widths that cost at most a budget of parameters, MACs, bytes or channels, and at least 99 % of it.

    A budget of channels, which one ratio becomes, may be missed by more if `round_to` requires it.

    Raises:
        PruningError: If the budget is below the narrowest network or not below the unpruned one, or no widths come
            within 1 % from below; the message has the costs that can be reached.
    """
    cost = _cost_of(spec, budget, allocation)
    unpruned = int(cost(np.array([[spec.widths[layer] for layer in allocation.layers]], np.int64))[0])
    limit = budget.limit(unpruned)
    search = allocation.search(spec, cost, limit=math.floor(limit), enough=math.ceil(limit * _ENOUGH))
    allocation.refuse_unreachable(budget, float(limit), most=unpruned, least=search.cost(search.least))
    levels = allocation.choose(search)
    if search.cost(levels) < search.enough and budget.kind != "channels":
        offer, above = budget.offer, search.above(levels)
        # A budget of what the unpruned network costs removes nothing.
        nearest = offer(search.cost(levels)) + (f" and {offer(above)}" if above < search.cost(search.most) else "")
        raise PruningError(
            f"a budget of {budget.show(float(limit))} cannot be met within 1 % from below with widths in steps of "
            f"{allocation.round_to}: nearest are {nearest}; ask for one of them, or lower round_to"
        )
    asked = int(limit) if limit.denominator == 1 else float(limit)
    widths = allocation.by_layer(search.widths(levels))
    return BudgetResult(widths, allocation.allocator.name, budget, asked, search.cost(levels), unpruned)


_formula = functools.lru_cache(maxsize=8)(WidthCost)


def _cost_of(spec: ModelSpec, budget: Budget, allocation: Allocation) -> Cost:
    if budget.kind == "channels":
        return lambda widths: widths.sum(axis=1)
    formula = _formula(spec)
    return lambda widths: formula.evaluate(budget.cost, allocation.in_network(spec, widths))


class WidthSearch:
    """Search for one width per layer whose cost must not exceed a limit.

    A choice is given as levels: ``levels[i]`` is an index into ``options[i]``.

    Attributes:
        options: For each layer, the widths it may get, ascending.
        limit: The largest cost of a choice.
        enough: The smallest cost wanted.
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

    def moved(self, levels: Widths, layers: Sequence[int], direction: int) -> Widths:
        """Return the choices ``(n, layers)`` in which one of `layers` is one level higher (1) or lower (-1)."""
        moved = np.repeat(levels[None], len(layers), axis=0)
        moved[np.arange(len(layers)), layers] += direction
        return moved

    def fill(self, levels: Widths, rank: Rank) -> Widths:
        """Widen layers while the cost stays within the limit, each by at most one level.

        Of the layers that can be widened, the one with the lowest rank is, of equal ones the first. If the choice then
        still costs less than `enough`, layers are widened further in the same way until it does not or nothing fits.
        """
        levels = self._raise(levels, rank, np.minimum(levels + 1, self.most), math.inf)
        return self._raise(levels, rank, self.most, self.enough)

    def _raise(self, levels: Widths, rank: Rank, top: Widths, enough: float) -> Widths:
        levels, cost = levels.copy(), self.cost(levels)
        layers = list(range(len(levels)))
        while cost < enough:
            layers = [index for index in layers if levels[index] < top[index]]
            costs = self.costs(self.moved(levels, layers, 1))
            fits = [(index, costs[row].item()) for row, index in enumerate(layers) if costs[row] <= self.limit]
            if not fits:
                break
            layers = [index for index, _ in fits]  # costs only rise, so a layer that does not fit never will
            chosen, after = min(fits, key=lambda fit: (rank(fit[0], int(levels[fit[0]]), fit[1] - cost), fit[0]))
            levels[chosen], cost = levels[chosen] + 1, after
        return levels

    def approach(self, levels: Widths) -> Widths:
        """Return `levels`, or, where they cost less than `enough`, the nearest choice found by exchanging levels.

        Each exchange moves up to three layers by one level (two, in networks of many layers), the exchange that comes
        nearest to the limit from below first; the search ends at `enough`, or where no exchange comes nearer. Where
        there are few choices, the result is the nearest of all.
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
        """Return the smallest cost above the limit among choices near `levels`; infinite if there is none."""
        costs = self.costs(self._near(levels))
        return float(np.where(costs > self.limit, costs, np.inf).min())

    def _near(self, levels: Widths) -> Widths:
        """Return all choices where they are few, else those a few levels away."""
        if math.prod((self.most + 1).tolist()) <= _ALL_CHOICES:
            grid = np.meshgrid(*(np.arange(top + 1) for top in self.most), indexing="ij")
            return np.stack([axis.ravel() for axis in grid], axis=1)
        count = len(levels)
        up = np.eye(count, dtype=np.int64)
        single = np.concatenate([np.zeros((1, count), np.int64), up, -up])
        at_once = 3 if count <= _LAYERS_IN_TRIPLES else 2
        moves = functools.reduce(lambda some, one: (some[:, None] + one[None]).reshape(-1, count), [single] * at_once)
        near: Widths = levels + np.unique(moves, axis=0)
        return near[((near >= 0) & (near <= self.most)).all(axis=1)]
