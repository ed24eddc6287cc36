"""Experiments: TOML files with data, bases, grids and seeds, and the trials that follow from them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from epanns.atomic import sha256_of_json
from epanns.errors import ConfigError
from epanns.evaluation.protocol import PROTOCOL_RULES, EvaluationProtocol
from epanns.pruning.config import BUDGET, RATIOS, PruningConfig
from epanns.pruning.ranking.criteria import CRITERIA, NEEDS
from epanns.pruning.recovery.recover import RECOVERIES, RECOVERY_NAMES, RecoverySettings, recovery_problem
from epanns.strict import (
    BOOLEAN,
    RATIO,
    TABLE,
    TEXT,
    Rule,
    TableReader,
    error_messages,
    field_values,
    integer,
    list_of,
    one_of,
    or_none,
    shown,
    table_problems,
    value_problems,
)
from epanns.sweeps.base import BASE_RULES, BaseConfig, training_of
from epanns.sweeps.data import DATA_RULES, DataConfig
from epanns.text_files import parse_toml, read_toml
from epanns.training.config import TEACHER_WEIGHTS
from epanns.training.distillation import check_teacher_settings

_RECOVERY = Rule(
    f"one of {', '.join(RECOVERY_NAMES)}",
    lambda value: recovery_problem(value) is None,
    (*RECOVERIES, "align:1500", "ls+align:1500", "distil:200"),
)
GRID_RULES: Mapping[str, Rule] = {
    "ratio": list_of(RATIO, "numbers in [0, 1)"),
    "ratios": list_of(RATIOS, "tables of numbers in [0, 1)"),
    "budget": list_of(BUDGET, "budgets, such as 'macs 0.25' or 'params 1M'"),
    "criterion": list_of(one_of(CRITERIA), "criteria", least=1),
    "layers": or_none(list_of(list_of(TEXT, "layers or blocks", least=1), "lists of layers or blocks", least=1)),
    "recover": list_of(_RECOVERY, "recoveries", least=1),
    "steps": list_of(integer(1), "whole numbers >= 1", least=1),
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
        steps: Numbers of rounds, each of which removes channels and recovers, as ``epanns prune --steps``.
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
    steps: tuple[int, ...] = (1,)
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
        """Yield the settings of each trial of this grid apart from base and seed, as JSON values."""
        if self.seeds and seed not in self.seeds:
            return
        recovery = {"recovery": dict(self.recovery)} if self.recovery else {}
        config: dict[str, Any]
        for finetune in self.finetune or finetunes or ({},):
            trained = finetuning(finetune, seed=seed) if finetune else {}
            for criterion, layers, recover, steps, amount in product(
                self.criterion, self.layers or (None,), self.recover, self.steps, self.amounts
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
                config |= {"criterion": criterion, "recover": recover, **({"steps": steps} if steps > 1 else {})}
                if recover != "none" or NEEDS.get(criterion, "weights") != "weights":
                    config |= {"calibration_clips": self.calibration_clips, **recovery}
                yield {**config, **trained}


def pruning_of(config: Mapping[str, Any]) -> PruningConfig:
    """Return the settings of the pruning in a trial's configuration."""
    keys = ["ratio", "ratios", "budget", "criterion", "seed"]
    if "ratios" not in config:  # with ratios, ``layers`` repeats their keys
        keys.append("layers")
    return PruningConfig.from_table({key: config.get(key) for key in keys})


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


@dataclass(frozen=True)
class Trial:
    """One cell of a grid, or one base.

    Attributes:
        config: All settings that decide the result, in JSON values; their digest is the id. Data and checkpoints are
            identified by their content, not by their path.
        base: The trial whose network this trial prunes; None for a base.
        checkpoint: Path of the base's checkpoint; empty for a base that is trained in the sweep.
        yamnet: Path of the YAMNet that the base is built on; empty if there is none.
        name: Label of the base for reports; not part of the id.
    """

    config: Mapping[str, Any]
    base: "Trial | None" = None
    checkpoint: str = ""
    yamnet: str = ""
    name: str = ""

    @property
    def trial_id(self) -> str:
        """First 12 digits of the sha256 of the canonical configuration."""
        return sha256_of_json(self.config)[:12]

    @property
    def fold(self) -> int:
        """The fold of the data that the trial is tested on; 0 without folds."""
        return int(self.config.get("base", self.config)["data"].get("fold", 0))


@dataclass(frozen=True)
class SweepEvaluation(EvaluationProtocol):
    """How the clips of a sweep are scored, and what is kept of their scores.

    Attributes:
        keep_scores: Whether every trial keeps the scores of its test clips in ``scores.npz``, for `epanns compare`; no
            part of a trial's id.
    """

    keep_scores: bool = False


EVALUATION_RULES: Mapping[str, Rule] = {**PROTOCOL_RULES, "keep_scores": BOOLEAN}


@dataclass(frozen=True)
class Experiment:
    """Data, bases, grids, the seeds of every cell, and how clips are scored."""

    name: str
    seeds: tuple[int, ...]
    data: DataConfig
    bases: tuple[BaseConfig, ...]
    grids: tuple[GridConfig, ...]
    finetunes: tuple[Mapping[str, Any], ...]
    evaluation: SweepEvaluation = SweepEvaluation()

    def trials(self, content: Mapping[str, str], weights: Callable[[str], str]) -> list[Trial]:
        """Return the bases, then the pruned trials, each once, in a fixed order.

        Args:
            content: Part of the data (``train``, ``val``, ``test``) -> digest of its clips.
            weights: Returns the digest of the weights at a path, of a checkpoint or a YAMNet.
        """
        data = {**self.data.identity(), "content": dict(content)}
        scoring = self.evaluation.settings()
        found: dict[str, Trial] = {}
        pruned: list[tuple[Trial, int]] = []
        for base in self.bases:
            # A base that is trained has one network per seed; a checkpoint is one network, which all seeds prune.
            for seeds in [self.seeds] if base.checkpoint else [(seed,) for seed in self.seeds]:
                config = {
                    "kind": "base",
                    "data": data,
                    "seed": seeds[0],
                    **({"evaluation": scoring} if scoring else {}),
                }
                if base.checkpoint:
                    config["checkpoint_sha256"] = weights(base.checkpoint)
                else:
                    width, training = float(base.width), base.training_with(seeds[0])
                    config |= {"model": base.model, "width": width, "training": training}
                if base.yamnet:
                    config["yamnet_sha256"] = weights(base.yamnet)
                trial = Trial(config, checkpoint=base.checkpoint, yamnet=base.yamnet, name=base.name)
                found[trial.trial_id] = trial
                pruned += [(trial, seed) for seed in seeds if base.prune]
        for unpruned, seed in pruned:
            for config in (config for grid in self.grids for config in grid.configs(seed, self.finetunes)):
                config = {"kind": "pruned", "base": unpruned.config, "seed": seed, **config}
                trial = Trial(config, unpruned, name=unpruned.name)
                found.setdefault(trial.trial_id, trial)
        return list(found.values())


EXPERIMENT_RULES: Mapping[str, Rule] = {
    "name": TEXT,
    "data": TABLE,
    "base": list_of(TABLE, "tables", least=1),
    "grid": Rule("a table or a list of tables", lambda value: TABLE.holds(value) or list_of(TABLE, "").holds(value)),
    "seeds": list_of(integer(0), "whole numbers >= 0", least=1),
    "finetune": list_of(TABLE, "tables"),
    "evaluation": TABLE,
}


def load_experiment(path: Path) -> Experiment:
    """Read an experiment.

    Raises:
        ConfigError: If the file cannot be read as TOML, or with every problem in it.
    """
    return experiment_of(read_toml(path), str(path))


def parse_experiment(text: str, source: str) -> Experiment:
    """Read an experiment from the text of a TOML file, whose name in messages is `source`."""
    return experiment_of(parse_toml(text, source), source)


def experiment_of(given: Mapping[str, Any], source: str) -> Experiment:
    """Return the experiment in a table, whose file is `source` in messages.

    Raises:
        ConfigError: With every problem of the table.
    """
    reader = TableReader(source)
    reader.problems += table_problems(given, EXPERIMENT_RULES, required=("name", "data", "base"))
    top = {key: value for key, value in given.items() if key in EXPERIMENT_RULES and EXPERIMENT_RULES[key].holds(value)}
    seeds, finetunes = tuple(top.get("seeds", (0,))), tuple(top.get("finetune", ()))
    data = reader.table(top["data"], DataConfig, DATA_RULES, "data") if "data" in top else None
    evaluation = reader.table(top.get("evaluation", {}), SweepEvaluation, EVALUATION_RULES, "evaluation")
    bases = reader.tables(top.get("base", []), BaseConfig, BASE_RULES, "base")
    grids = reader.tables(top.get("grid", []), GridConfig, GRID_RULES, "grid", alone=True)
    for place, finetune in enumerate(finetunes, start=1):
        reader.attempt(partial(finetuning, finetune), f"finetune {place}")
    experiment = Experiment(
        name=top.get("name", ""),
        seeds=seeds,
        data=data,  # type: ignore[arg-type]  # None only where a problem is noted
        bases=tuple(base for base in bases if base is not None),
        grids=tuple(grid for grid in grids if grid is not None),
        finetunes=finetunes,
        evaluation=evaluation or SweepEvaluation(),
    )
    reader.problems += _contradictions(experiment, every_table_is_read=not reader.problems)
    reader.finish()
    return experiment


def _contradictions(experiment: Experiment, *, every_table_is_read: bool) -> list[str]:
    """Return one line for every contradiction between tables."""
    pruned = [base for base in experiment.bases if base.prune]
    grids, finetunes = experiment.grids, experiment.finetunes
    names = [base.name for base in experiment.bases if base.name]
    problems = [
        f"[[base]] name={shown(name)} is given to {names.count(name)} bases; must differ"
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    ]
    networks = [replace(base, name="", prune=True) for base in experiment.bases]
    problems += [
        f"[base {place}] is the network of [base {networks.index(network) + 1}]: its trials would be run once, under "
        "one of the names; remove one of the two"
        for place, network in enumerate(networks, start=1)
        if every_table_is_read and networks.index(network) + 1 < place
    ]
    for place, grid in enumerate(grids, start=1):
        where = "grid" if len(grids) == 1 else f"grid {place}"
        others = [seed for seed in grid.seeds if seed not in experiment.seeds]
        problems += [
            f"[{where}] seeds={shown(grid.seeds)}: {seed} is none of the experiment's {shown(experiment.seeds)}"
            for seed in others[:1]
        ]
    if not every_table_is_read:
        return problems
    if experiment.data.class_map:
        problems += _training_with_a_class_map(experiment)
    if grids and not pruned:
        problems.append("[grid] there is no base to prune: all have prune = false")
    if finetunes and not grids:
        problems.append(
            "[finetune] there is nothing to fine-tune: give a [grid] too, with ratio = [0] for the bases as they are"
        )
    frozen = [table for tables in (finetunes, *(grid.finetune for grid in grids)) for table in tables]
    if any(table.get("freeze_yamnet") for table in frozen):
        free = [base.model for base in pruned if not base.may_be_frozen]
        if free:
            problems.append(f"freeze_yamnet = true: {free[:1]} is not built on YAMNet's body; leave it out")
    return problems


def _training_with_a_class_map(experiment: Experiment) -> list[str]:
    """Return one line for every table that needs labels of the network's classes, which a class map does not give."""
    remedy = "the networks are scored through [data] class_map, as their classes are not those of the data"
    problems = [
        f"[base {place}] model={shown(base.model)}: cannot be trained: {remedy}; give checkpoint"
        for place, base in enumerate(experiment.bases, start=1)
        if not base.checkpoint
    ]
    if experiment.finetunes or any(grid.finetune for grid in experiment.grids):
        problems.append(f"[finetune] cannot be done: {remedy}; remove it, or remove class_map")
    labelled = [name for grid in experiment.grids for name in grid.criterion if NEEDS.get(name) == "gradients"]
    if labelled:
        problems.append(f"[grid] criterion={shown(labelled[0])}: uses labels: {remedy}; choose another criterion")
    return problems
