"""How many channels each layer keeps under a budget, and what that costs."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from epanns.complexity.cost import Latency
from epanns.complexity.width_cost import WidthCost, Widths
from epanns.errors import PruningError
from epanns.models.provenance import Operation, Provenance
from epanns.models.spec import ModelSpec
from epanns.models.tagger import Tagger
from epanns.models.tensors import count_params, weights_digest
from epanns.pruning.budgets.allocators import Allocator, BySensitivity, Importance
from epanns.pruning.budgets.budget import Budget
from epanns.pruning.budgets.width_search import Cost, WidthSearch, allowed_widths

_ENOUGH = Fraction(99, 100)  # of a budget, so that it is met
_DIGITS = 12  # of a digest that people compare


@dataclass(frozen=True)
class Allotment:
    """Widths that meet a budget.

    Attributes:
        widths: Layer -> channels that stay, for the layers that may lose some, in forward order.
        allocate: Name of the rule that chose them.
        budget: What was asked.
        asked: The most it allows, in its own unit.
        reached: What the pruned network costs; for a latency as measured.
        unpruned: What the network costs before.
        latency: What `reached` is the median of, where the budget is one of latency.
    """

    widths: Mapping[str, int]
    allocate: str
    budget: Budget
    asked: float
    reached: float
    unpruned: float
    latency: Latency | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the value of ``budget`` in ``epanns prune --json``, which the checkpoint's recipe keeps."""
        values = {
            "kind": self.budget.cost,
            "asked": self.asked,
            "reached": self.reached,
            "unpruned": self.unpruned,
            "allocate": self.allocate,
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
        last = max(index for index, done in enumerate(recipe) if done.kind == "prune")
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
            f"{self.reached / self.unpruned:.2%} of {show(self.unpruned)} before){noise}; shared out by {self.allocate}"
        )


@dataclass(frozen=True)
class Sharing:
    """How a budget is to be shared out.

    Attributes:
        layers: Those that may lose channels, in forward order; all others stay as they are.
        allocator: The rule.
        round_to: What the width of a pruned layer must be a multiple of.
        importance: That of the filters of a layer.
    """

    layers: Sequence[str]
    allocator: Allocator
    round_to: int
    importance: Importance

    def search(self, spec: ModelSpec, cost: Cost, *, limit: float, enough: float) -> WidthSearch:
        """Return the choice of widths for these layers of a network, by its cost as a function of their widths."""
        minimum = self.allocator.minimum
        options = [allowed_widths(spec.widths[layer], round_to=self.round_to, minimum=minimum) for layer in self.layers]
        return WidthSearch(options, cost, limit=limit, enough=enough)

    def choose(self, search: WidthSearch) -> Widths:
        """Return the levels that the rule comes to, exchanged between layers where they cost too little."""
        return search.approach(self.allocator.choose(search, self.layers, self.importance))

    def named(self, widths: Widths) -> dict[str, int]:
        """Return layer -> width."""
        return dict(zip(self.layers, widths.tolist(), strict=True))


def allot(spec: ModelSpec, budget: Budget, sharing: Sharing) -> Allotment:
    """Choose widths that cost at most a budget of parameters, MACs, bytes or channels, and at least 99 % of it.

    A budget of channels, which stands for one ratio, may be missed by more where `round_to` asks for it.

    Args:
        spec: The network before.
        budget: Of any kind but latency.
        sharing: How it is shared out.

    Raises:
        PruningError: If the budget is below the least or not below what the network costs, or no widths were found that
            come within 1 % from below; the message has the costs that can be reached.
    """
    cost = _cost_of(spec, budget, sharing.layers)
    unpruned = int(cost(np.array([[spec.widths[layer] for layer in sharing.layers]], np.int64))[0])
    limit = budget.limit(unpruned)
    search = sharing.search(spec, cost, limit=math.floor(limit), enough=math.ceil(limit * _ENOUGH))
    refuse_beyond(budget, float(limit), most=unpruned, least=search.cost(search.least), sharing=sharing)
    levels = sharing.choose(search)
    if search.cost(levels) < search.enough and budget.kind != "channels":
        raise PruningError(_missed(budget, float(limit), search, levels, sharing.round_to))
    asked = int(limit) if limit.denominator == 1 else float(limit)
    widths = sharing.named(search.widths(levels))
    return Allotment(widths, sharing.allocator.name, budget, asked, search.cost(levels), unpruned)


def refuse_table_of_another(model: Tagger, allocator: Allocator) -> None:
    """Refuse a table of sensitivities that was measured on another network.

    Networks are told by their weights, wherever they come from; a table that does not say which weights it was measured
    on, by the number of parameters alone.
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


def on_layers(spec: ModelSpec, layers: Sequence[str], widths: Widths) -> Widths:
    """Return ``(n, all layers)`` from the widths ``(n, layers)`` of some of them; the others are those of `spec`."""
    whole = np.repeat(np.array([list(spec.widths.values())], np.int64), len(widths), axis=0)
    whole[:, [list(spec.widths).index(layer) for layer in layers]] = widths
    return whole


def refuse_beyond(budget: Budget, limit: float, *, most: float, least: float, sharing: Sharing) -> None:
    """Refuse a limit that the network meets as it is, or that its narrowest form does not."""
    show = budget.show
    if limit >= most:
        raise PruningError(f"a budget of {show(limit)} removes nothing: the network has {show(most)}, so give less")
    if least >= most:
        raise PruningError(
            f"a budget of {show(limit)} cannot be met: with round_to={sharing.round_to} and minimum="
            f"{sharing.allocator.minimum:g} no layer can lose a channel; lower them, or name other layers"
        )
    if least > limit:
        raise PruningError(
            f"a budget of {show(limit)} cannot be met: at their narrowest (round_to={sharing.round_to}, minimum="
            f"{sharing.allocator.minimum:g}) the layers leave {budget.offer(least)}; give at least that, or name more "
            "layers"
        )


_formula = functools.lru_cache(maxsize=8)(WidthCost)


def _cost_of(spec: ModelSpec, budget: Budget, layers: Sequence[str]) -> Cost:
    if budget.kind == "channels":
        return lambda widths: widths.sum(axis=1)
    formula = _formula(spec)

    def cost(widths: Widths) -> NDArray[np.int64]:
        return formula.evaluate(budget.cost, on_layers(spec, layers, widths))

    return cost


def _missed(budget: Budget, limit: float, search: WidthSearch, levels: Widths, round_to: int) -> str:
    offer, above = budget.offer, search.above(levels)
    # A budget of what the unpruned network costs removes nothing.
    nearest = offer(search.cost(levels)) + (f" and {offer(above)}" if above < search.cost(search.most) else "")
    return (
        f"a budget of {budget.show(limit)} cannot be met within 1 % from below with widths in steps of {round_to}: "
        f"nearest are {nearest}; ask for one of them, or lower round_to"
    )
