"""A grid of an experiment: what is varied, and the trials that this makes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any

from epanns.errors import ConfigError
from epanns.pruning.ranking.criteria import CRITERIA, NEEDS
from epanns.pruning.recovery.names import RECOVERIES, recovery_problem
from epanns.pruning.recovery.recover import RecoverySettings
from epanns.strict import (
    TABLE,
    TEXT,
    Rule,
    error_messages,
    field_values,
    integer,
    list_of,
    one_of,
    or_none,
    value_problems,
)
from epanns.sweeps.amount import BUDGET, RATIO, RATIOS, Amount, asked_of
from epanns.sweeps.training_tables import finetuning

_RECOVERY = Rule(
    f"one of {', '.join(RECOVERIES)} or distil:STEPS",
    lambda value: recovery_problem(value) is None,
    (*RECOVERIES, "distil:200"),
)
GRID_RULES: Mapping[str, Rule] = {
    "ratio": list_of(RATIO, "numbers in [0, 1)"),
    "ratios": list_of(RATIOS, "tables of numbers in [0, 1)"),
    "budget": list_of(BUDGET, "budgets, such as 'macs 0.25' or 'params 1M'"),
    "criterion": list_of(one_of(CRITERIA), "criteria", least=1),
    "layers": or_none(list_of(list_of(TEXT, "layers or blocks", least=1), "lists of layers or blocks", least=1)),
    "recover": list_of(_RECOVERY, "recoveries", least=1),
    "calibration_clips": integer(1),
    "recovery": TABLE,
    "finetune": list_of(TABLE, "tables"),
    "seeds": list_of(integer(0), "whole numbers >= 0"),
}


@dataclass(frozen=True)
class GridConfig:
    """What is varied; every combination is a trial. An experiment may have several, as ``[[grid]]``.

    Attributes:
        ratio: Fractions of channels removed; 0 leaves the network whole and, with fine-tuning, is the control.
        ratios: Beside or instead, tables of a ratio for each layer or block; `layers` do not count there.
        budget: Beside or instead, what the network may cost, such as ``macs 0.25``, shared out over the layers alike.
        criterion: Importance rules.
        layers: Lists of layers or blocks; None for every layer of the network, as in `epanns.prune`.
        recover: Recoveries without labels before fine-tuning.
        calibration_clips: Training clips for recovery and criteria that measure clips; unlabelled but for ``taylor``.
        recovery: Settings of the recoveries where they are not the usual ones; keys of `RecoverySettings`.
        finetune: How the networks of this grid are fine-tuned, in place of the experiment's ``[[finetune]]``.
        seeds: Those of the experiment's that this grid is run with; all by default.
    """

    ratio: tuple[float, ...] = ()
    ratios: tuple[Mapping[str, float], ...] = ()
    budget: tuple[str, ...] = ()
    criterion: tuple[str, ...] = ("l1",)
    layers: tuple[Sequence[str], ...] | None = None
    recover: tuple[str, ...] = ("none",)
    calibration_clips: int = 400
    recovery: Mapping[str, Any] = field(default_factory=dict)
    finetune: tuple[Mapping[str, Any], ...] = ()
    seeds: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        problems = value_problems(field_values(self), GRID_RULES)
        if isinstance(self.recovery, Mapping):
            problems += error_messages(lambda: RecoverySettings.from_dict(self.recovery))
        if isinstance(self.finetune, Sequence):
            problems += error_messages(*(partial(finetuning, table) for table in self.finetune if TABLE.holds(table)))
        if not problems and not self.amounts:
            problems.append("how much is removed is missing: give ratio, ratios or budget, such as ratio = [0.5]")
        if problems:
            raise ConfigError("; ".join(problems))

    @property
    def amounts(self) -> tuple[Amount, ...]:
        """How much is removed, in each way it is said."""
        return (*self.ratio, *self.ratios, *self.budget)

    def configs(self, seed: int, finetunes: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield what tells each trial of this grid from those of other grids, bases and seeds, as JSON values.

        Args:
            seed: One of the experiment's.
            finetunes: The experiment's ``[[finetune]]`` tables.
        """
        if self.seeds and seed not in self.seeds:
            return
        for finetune in self.finetune or finetunes or ({},):
            trained = finetuning(finetune, seed=seed) if finetune else {}
            for criterion, layers, recover, amount in product(
                self.criterion, self.layers or (None,), self.recover, self.amounts
            ):
                if amount != 0:
                    yield {**self._pruning(criterion, layers, recover, amount), **trained}
                elif trained:  # of the control only the fine-tuning counts, so that it is run once
                    yield {"ratio": 0.0, **trained}

    def _pruning(self, criterion: str, layers: Sequence[str] | None, recover: str, amount: Amount) -> dict[str, Any]:
        config: dict[str, Any] = {**asked_of(amount, layers), "criterion": criterion, "recover": recover}
        if recover != "none" or NEEDS.get(criterion, "weights") != "weights":
            config["calibration_clips"] = self.calibration_clips
            if self.recovery:
                config["recovery"] = dict(self.recovery)
        return config
