"""Widths that meet a budget of latency: chosen by a table of layer times, accepted by measuring the network itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from epanns.complexity.cost import Latency
from epanns.complexity.width_cost import Widths
from epanns.errors import PruningError
from epanns.models.tagger import Tagger
from epanns.pruning.budgets.allotment import Allotment, Sharing, on_layers, refuse_beyond
from epanns.pruning.budgets.budget import Budget
from epanns.pruning.budgets.latency_table import LatencyTable, Timing

TOLERANCE = 0.1  # of the budget: how far from it the measured latency may be
_AIM, _ENOUGH = 0.95, 0.97  # of the budget that the prediction aims at, and of the aim that it shall reach
_TRIES = 6


@dataclass(frozen=True)
class _Try:
    widths: Mapping[str, int]
    latency: Latency


def allot_latency(
    model: Tagger,
    budget: Budget,
    sharing: Sharing,
    build: Callable[[Mapping[str, int]], Tagger],
    timing: Timing | None = None,
) -> Allotment:
    """Choose widths with which the network was measured to take at most a budget of latency, and at least 90 % of it.

    Widths are chosen as for other budgets, by the times of a `LatencyTable`. The network of these widths is built and
    measured; where it is not within the tolerance, the table is scaled to what was measured, and so on a few times. If
    none of the networks was both fast enough and near enough, the nearest one within 10 % above is taken.

    Args:
        model: The network before.
        budget: Of kind ``latency``, in milliseconds or as a fraction.
        sharing: How it is shared out.
        build: Returns the pruned network of given widths of the layers.
        timing: What measures.

    Raises:
        PruningError: If the network is fast enough as it is, too slow at its narrowest, or no network that was measured
            came within 10 %; the message has the latencies measured.
    """
    timing = timing or Timing()
    table = LatencyTable(model, sharing.layers, timing)
    unpruned = table.unpruned.median
    limit = float(budget.limit(unpruned))
    refuse_beyond(budget, limit, most=unpruned, least=0.0, sharing=sharing)

    def predicted(widths: Widths) -> NDArray[np.float64]:
        return table.evaluate(on_layers(model.spec, sharing.layers, widths))

    tries: list[_Try] = []
    scale = 1.0  # measured per predicted, as the last try showed it
    while len(tries) < _TRIES:
        aim = _AIM * limit / scale
        search = sharing.search(model.spec, predicted, limit=aim, enough=_ENOUGH * aim)
        levels = search.least if search.cost(search.least) > aim else sharing.choose(search)
        widths = sharing.named(search.widths(levels))
        if any(widths == earlier.widths for earlier in tries):
            break  # nothing between what has been tried
        tries.append(_Try(widths, timing.network(build(widths))))
        measured = tries[-1].latency.median
        if (1 - TOLERANCE) * limit <= measured <= limit:
            break
        scale = measured / search.cost(levels)
    best = min(
        tries, key=lambda one: (_beyond(one, limit), one.latency.median > limit, abs(one.latency.median - limit))
    )
    if _beyond(best, limit):
        narrowest = sharing.named(search.widths(search.least))
        raise PruningError(_missed(budget, limit, unpruned, tries, narrowest))
    return Allotment(best.widths, sharing.allocator.name, budget, limit, best.latency.median, unpruned, best.latency)


def _beyond(one: _Try, limit: float) -> bool:
    return abs(one.latency.median - limit) > TOLERANCE * limit


def _missed(budget: Budget, limit: float, unpruned: float, tries: list[_Try], narrowest: Mapping[str, int]) -> str:
    measured = ", ".join(f"{budget.show(one.latency.median)} (spread {one.latency.spread:.0%})" for one in tries)
    end = ", with every layer at its narrowest" if tries[-1].widths == narrowest else ""
    # On a busy machine a pruned network may take longer than the unpruned network took, which is no budget.
    faster = dict.fromkeys(budget.show(one.latency.median) for one in tries if one.latency.median < unpruned)
    offer = f"ask for {' or '.join(faster)}, " if faster else ""
    return (
        f"a budget of {budget.show(limit)} was not met within {TOLERANCE:.0%}, measured were {measured}{end}, and "
        f"{budget.show(unpruned)} unpruned: {offer}lower round_to, or measure while the machine does nothing else"
    )
