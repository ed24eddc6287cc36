"""The amount that a trial removes, as an experiment gives it: a ratio, ratios by layer, or a budget."""

from collections.abc import Mapping, Sequence
from typing import Any

from epanns.pruning.config import PruningConfig

Amount = float | Mapping[str, float] | str


def asked_of(amount: Amount, layers: Sequence[str] | None) -> dict[str, Any]:
    """Return the entries of a trial's configuration for the amount and the layers.

    Without ``layers`` among them, every layer is pruned, as in `epanns.prune`.
    """
    named = {} if layers is None else {"layers": list(layers)}
    if isinstance(amount, str):
        return {"budget": amount, **named}
    if isinstance(amount, Mapping):
        return {"ratios": {name: float(ratio) for name, ratio in amount.items()}, "layers": list(amount)}
    return {"ratio": float(amount), **named}


def pruning_of(config: Mapping[str, Any]) -> PruningConfig:
    """Return the pruning of a trial's configuration."""
    table = {key: config.get(key) for key in ("ratio", "ratios", "budget", "layers", "criterion", "seed")}
    if "ratios" in config:
        del table["layers"]  # those that the ratios name
    return PruningConfig.from_table(table)
