"""The ``[grid]`` and ``[[finetune]]`` tables of an experiment: which settings are varied, and the trials they make."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any

from epanns.errors import ConfigError
from epanns.pruning.config import BUDGET, RATIOS, PruningConfig
from epanns.pruning.ranking.criteria import CRITERIA, NEEDS
from epanns.pruning.recovery.recover import RECOVERIES, RecoverySettings, recovery_problem
from epanns.safe_text import printable
from epanns.strict import (
    RATIO,
    TABLE,
    TEXT,
    Rule,
    error_messages,
    field_values,
    integer,
    list_of,
    one_of,
    or_none,
    shown,
    value_problems,
)
from epanns.sweeps.base import training_of
from epanns.training.settings.config import TEACHER_WEIGHTS
from epanns.training.step.distillation import check_teacher_settings

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


Amount = float | Mapping[str, float] | str  # a ratio, ratios per layer, or a budget


@dataclass(frozen=True)
class GridConfig:
    """Lists of settings; every combination is a trial. An experiment may have several grids, as ``[[grid]]``.

    Attributes:
        ratio: Fractions of channels removed; 0 removes none and, with fine-tuning, is the control.
        ratios: Beside or instead of `ratio`, tables of a ratio per layer or block, to which `layers` does not apply.
        budget: Beside or instead of `ratio`, largest costs of the network, such as ``macs 0.25``, allocated uniformly.
        criterion: Names of criteria.
        layers: Lists of layers or blocks; None for every layer of the network, as in `epanns.prune`.
        recover: Recoveries without labels before fine-tuning.
        calibration_clips: Number of training clips for recovery and for criteria that measure clips; only ``taylor``
            uses their labels.
        recovery: Keys of `RecoverySettings` that differ from their defaults.
        finetune: Tables of fine-tuning for this grid, in place of the experiment's ``[[finetune]]``.
        seeds: The seeds of the experiment with which this grid is run; all by default.
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
        """The ratios, the tables of ratios, and the budgets."""
        return (*self.ratio, *self.ratios, *self.budget)

    def configs(self, seed: int, finetunes: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield the settings of each trial of this grid apart from base and seed, as JSON values.

        Args:
            seed: One of the experiment's.
            finetunes: The experiment's ``[[finetune]]`` tables.
        """
        if self.seeds and seed not in self.seeds:
            return
        recovery = {"recovery": dict(self.recovery)} if self.recovery else {}
        config: dict[str, Any]
        for finetune in self.finetune or finetunes or ({},):
            trained = finetuning(finetune, seed=seed) if finetune else {}
            for criterion, layers, recover, amount in product(
                self.criterion, self.layers or (None,), self.recover, self.amounts
            ):
                if amount == 0:
                    if trained:  # the control depends on the fine-tuning alone: it is run once
                        yield {"ratio": 0.0, **trained}
                    continue
                if isinstance(amount, Mapping):
                    config = {"ratios": {name: float(ratio) for name, ratio in amount.items()}, "layers": list(amount)}
                else:
                    config = {"budget": amount} if isinstance(amount, str) else {"ratio": float(amount)}
                    config |= {} if layers is None else {"layers": list(layers)}
                config |= {"criterion": criterion, "recover": recover}
                if recover != "none" or NEEDS.get(criterion, "weights") != "weights":
                    config |= {"calibration_clips": self.calibration_clips, **recovery}
                yield {**config, **trained}


def pruning_of(config: Mapping[str, Any]) -> PruningConfig:
    """Return the settings of the pruning in a trial's configuration."""
    keys = ["ratio", "ratios", "budget", "criterion", "seed"]
    if "ratios" not in config:  # with ratios, ``layers`` repeats their keys
        keys.append("layers")
    return PruningConfig.from_table({key: config.get(key) for key in keys})


def amount_in_words(config: Mapping[str, Any]) -> str:
    """Return the amount that a trial's configuration removes, in words."""
    if "ratios" in config:
        return printable("ratios " + ", ".join(f"{layer} {ratio:g}" for layer, ratio in config["ratios"].items()))
    amount = config["budget"] if "budget" in config else f"ratio {config['ratio']:g}"
    layers = config.get("layers")
    return printable(amount if layers is None else f"{amount} of {', '.join(layers)}")


TEACHER = "dense"  # the trial's unpruned network


def finetuning(table: Mapping[str, Any], *, seed: int | None = None) -> dict[str, Any]:
    """Return the entries ``finetune`` and, if there is one, ``teacher`` of a trial's configuration.

    Args:
        table: Keys of `TrainingConfig`, ``preset``, and ``teacher = "dense"`` for the trial's unpruned network.
        seed: The trial's; without a seed the table is only checked.

    Raises:
        ConfigError: If a key is unknown, a value is wrong, the table gives a seed, or teacher and weights of the
            distillation do not go together.
    """
    if not isinstance(table, Mapping):
        raise ConfigError(f"{shown(table)}: must be a table")
    teacher = table.get("teacher")
    training = training_of({key: value for key, value in table.items() if key != "teacher"}, seed)
    if "teacher" in table and teacher != TEACHER:
        raise ConfigError(f"teacher={shown(teacher)}: must be {TEACHER!r}, the trial's unpruned network")
    if teacher:
        check_teacher_settings(training, has_teacher=True)
    elif training.teacher_weights:
        raise ConfigError(f"{' and '.join(TEACHER_WEIGHTS)} need a teacher: give teacher = {TEACHER!r}")
    settings = training.to_dict()
    if table.get("freeze_yamnet") is False:  # not the default for a network whose body was frozen before
        settings["freeze_yamnet"] = False
    return {"finetune": settings, **({"teacher": teacher} if teacher else {})}
