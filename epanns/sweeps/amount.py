"""How much a trial removes, as an experiment writes it: a ratio, ratios by layer, or a budget."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from epanns.errors import PruningError
from epanns.models.tagger import Tagger
from epanns.pruning.budgets.budget import Budget
from epanns.pruning.plan import PruningPlan
from epanns.pruning.prune import plan_pruning, plan_within
from epanns.pruning.ranking.calibration import CalibrationBatch
from epanns.sweeps.strict_toml import is_number

Amount = float | Mapping[str, float] | str


def is_ratio(value: object) -> bool:
    """Return whether a value is a number in [0, 1)."""
    return is_number(value) and 0 <= value < 1  # type: ignore[operator]


def is_ratios(value: object) -> bool:
    """Return whether a value is a table of ratios, at least one of them above 0."""
    return isinstance(value, Mapping) and all(map(is_ratio, value.values())) and any(value.values())


def is_budget(value: object) -> bool:
    """Return whether a value is a budget such as ``macs 0.25``.

    A latency is none: it is measured, so that the same trial would be another plan each time.
    """
    try:
        return isinstance(value, str) and _budget_of(value).kind in ("params", "macs", "bytes")
    except (KeyError, PruningError):
        return False


def asked_of(amount: Amount, layers: Sequence[str]) -> dict[str, Any]:
    """Return the entries of a trial's configuration that say what is removed from which layers."""
    if isinstance(amount, str):
        return {"budget": amount, "layers": list(layers)}
    if isinstance(amount, Mapping):
        return {"ratios": {name: float(ratio) for name, ratio in amount.items()}, "layers": list(amount)}
    return {"ratio": float(amount), "layers": list(layers)}


def plan_of(dense: Tagger, config: Mapping[str, Any], calibration: Iterable[CalibrationBatch] | None) -> PruningPlan:
    """Return the plan that a trial's configuration asks for."""
    shared: dict[str, Any] = {"criterion": config["criterion"], "seed": config["seed"], "calibration": calibration}
    if "budget" in config:
        return plan_within(dense, _budget_of(config["budget"]), layers=config["layers"], **shared)[0]
    if "ratios" in config:
        return plan_pruning(dense, ratios=config["ratios"], **shared)
    return plan_pruning(dense, ratio=config["ratio"], layers=config["layers"], **shared)


def _budget_of(text: str) -> Budget:
    kind, _, amount = text.partition(" ")
    return Budget.parse(kind, amount)
