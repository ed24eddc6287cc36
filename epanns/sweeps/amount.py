"""How much a trial removes, as an experiment writes it: a ratio, ratios by layer, or a budget."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from epanns.errors import PruningError
from epanns.models.pruning_plan import PruningPlan
from epanns.models.tagger import Tagger
from epanns.pruning.budgets.budget import Budget
from epanns.pruning.prune import planned
from epanns.pruning.ranking.calibration import CalibrationBatch
from epanns.strict import Rule, is_finite

Amount = float | Mapping[str, float] | str


BUDGETS = ("params", "macs", "bytes")


def _is_ratio(value: object) -> bool:
    return is_finite(value) and 0 <= value < 1  # type: ignore[operator]


def _is_ratios(value: object) -> bool:
    return isinstance(value, Mapping) and all(map(_is_ratio, value.values())) and any(value.values())


def _is_budget(value: object) -> bool:
    try:
        return isinstance(value, str) and value.split(" ")[0] in BUDGETS and _budget_of(value).amount > 0
    except PruningError:
        return False


RATIO = Rule("a number in [0, 1)", _is_ratio)
RATIOS = Rule("a table of numbers in [0, 1), at least one of them above 0", _is_ratios)
# A latency is no budget of a sweep: it is measured, so the same trial would be another plan each time.
BUDGET = Rule(f"kind ({', '.join(BUDGETS)}) and amount, such as 'macs 0.25' or 'params 1M'", _is_budget)


def asked_of(amount: Amount, layers: Sequence[str] | None) -> dict[str, Any]:
    """Return the entries of a trial's configuration that give what is removed and from which layers.

    Without ``layers`` among them, it is removed from every layer, as in `epanns.prune`.
    """
    named = {} if layers is None else {"layers": list(layers)}
    if isinstance(amount, str):
        return {"budget": amount, **named}
    if isinstance(amount, Mapping):
        return {"ratios": {name: float(ratio) for name, ratio in amount.items()}, "layers": list(amount)}
    return {"ratio": float(amount), **named}


def keywords_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the amount in a trial's configuration as keywords of `epanns.prune`."""
    if "budget" in config:
        return {"budget": _budget_of(config["budget"]), "layers": config.get("layers")}
    if "ratios" in config:
        return {"ratios": config["ratios"]}
    return {"ratio": config["ratio"], "layers": config.get("layers")}


def plan_of(dense: Tagger, config: Mapping[str, Any], calibration: Iterable[CalibrationBatch] | None) -> PruningPlan:
    """Return the plan of a trial's configuration."""
    shared = {"criterion": config["criterion"], "seed": config["seed"], "calibration": calibration}
    return planned(dense, **keywords_of(config), **shared)[0]


def _budget_of(text: str) -> Budget:
    kind, _, amount = text.partition(" ")
    return Budget.parse(kind, amount)
