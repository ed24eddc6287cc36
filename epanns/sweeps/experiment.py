"""An experiment as data: TOML in, the list of its trials out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from epanns.atomic import sha256_of_json
from epanns.data.pack_format import PackSettings
from epanns.data.synthetic import SYNTHETIC_RULES, SyntheticSettings
from epanns.errors import ConfigError
from epanns.evaluation.protocol import PROTOCOL_RULES, EvaluationProtocol
from epanns.safe_text import is_path_name
from epanns.strict import (
    ANY_TEXT,
    PATH,
    TABLE,
    TEXT,
    Rule,
    TableReader,
    error_messages,
    field_values,
    from_table,
    integer,
    list_of,
    number,
    one_of,
    shown,
    table_problems,
    value_problems,
)
from epanns.sweeps.base import BASE_RULES, BaseConfig
from epanns.sweeps.grid import GRID_RULES, GridConfig
from epanns.sweeps.training_tables import finetuning
from epanns.text_files import parse_toml, read_toml

DATA_KINDS = ("esc50", "folder", "audioset", "fsd50k", "synthetic", "packs")
_NAMES = list_of(PATH, "splits or packs", least=1)
DATA_RULES: Mapping[str, Rule] = {
    "kind": one_of(DATA_KINDS),
    "train": _NAMES,
    "val": _NAMES,
    "test": _NAMES,
    "root": ANY_TEXT,
    "sample_rate": integer(1, 1_000_000),
    "seconds": number("a number in (0, 3600]", lambda value: 0 < value <= 3600),
    "synthetic": TABLE,
}


@dataclass(frozen=True)
class DataConfig:
    """Where the clips come from and which train, choose and test.

    Attributes:
        kind: A layout of ``epanns data``, or ``packs`` for packs made before.
        train: Names of splits (ESC: ``fold1``, ...), or folders of packs; likewise `val` and `test`.
        root: Folder of the data set, relative to the current folder; not part of a trial's identity.
        sample_rate: In Hz; must be the model's.
        seconds: Length of a packed clip.
        synthetic: Settings of the generator, for ``kind = "synthetic"``.
    """

    kind: str
    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]
    root: str = ""
    sample_rate: int = 32_000
    seconds: float = 10.0
    synthetic: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problems = value_problems(field_values(self), DATA_RULES)
        if not problems:
            problems = [*self._problems(), *error_messages(*self._settings())]
        if problems:
            raise ConfigError("; ".join(problems))

    def _problems(self) -> list[str]:
        """Return what is wrong between settings that are right by themselves."""
        parts = {"train": self.train, "val": self.val, "test": self.test}
        problems = []
        if self.kind not in ("synthetic", "packs") and not PATH.holds(self.root):
            problems.append(f"root={shown(self.root)}: {self.kind} needs the folder of the data set")
        if self.kind != "packs":
            problems += [
                f"{part}[{place}]={shown(name)}: must be the name of a split, of A-Z a-z 0-9 . _ -"
                for part, names in parts.items()
                for place, name in enumerate(names)
                if not is_path_name(name)
            ]
        used = [name for names in parts.values() for name in dict.fromkeys(names)]
        if shared := sorted({name for name in used if used.count(name) > 1}):
            problems.append(f"{', '.join(shared)} is used twice among train, val and test: that is a leak")
        return problems

    def _settings(self) -> list[Callable[[], object]]:
        """Return what reads the settings of the packs and of the generator."""
        if self.kind == "packs":
            return []
        packs = partial(PackSettings, sample_rate=self.sample_rate, seconds=self.seconds)
        return [packs, self.generator] if self.kind == "synthetic" else [packs]

    def generator(self) -> SyntheticSettings:
        """Return the settings of the generator.

        Raises:
            ConfigError: If a key of ``synthetic`` is unknown or a value is wrong.
        """
        given = {"seconds": self.seconds, "sample_rate": self.sample_rate, **self.synthetic}
        return from_table(SyntheticSettings, given, SYNTHETIC_RULES, what="synthetic: ")

    def identity(self) -> dict[str, Any]:
        """Return what of the data is asked for, wherever it lies; their content is added when it is known."""
        kept = {"kind": self.kind, "sample_rate": self.sample_rate, "seconds": float(self.seconds)}
        if self.kind == "packs":
            return kept
        parts = {"train": list(self.train), "val": list(self.val), "test": list(self.test)}
        return {**kept, **parts, **({"synthetic": dict(self.synthetic)} if self.synthetic else {})}


@dataclass(frozen=True)
class Trial:
    """One cell of the grid.

    Attributes:
        config: Everything that decides the result, in JSON values; its hash is the trial's name. Data and checkpoints
            stand in it by what they hold, not by where they lie.
        base: The trial whose network this one prunes; None for the base itself.
        checkpoint: Where the base's checkpoint is, if it is not trained here.
        yamnet: Where the YAMNet is that the base is built on, if it is on one.
        name: Label of the base in reports; no part of the identity.
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


@dataclass(frozen=True)
class Experiment:
    """A question: data, bases, grids, the seeds every cell of them is run with, and how clips are scored."""

    name: str
    seeds: tuple[int, ...]
    data: DataConfig
    bases: tuple[BaseConfig, ...]
    grids: tuple[GridConfig, ...]
    finetunes: tuple[Mapping[str, Any], ...]
    evaluation: EvaluationProtocol = EvaluationProtocol()

    def trials(self, content: Mapping[str, str], weights: Callable[[str], str]) -> list[Trial]:
        """Return the bases, then the pruned trials, each once, in a fixed order.

        Args:
            content: Part of the data (``train``, ``val``, ``test``) -> digest of its clips.
            weights: Returns the digest of a checkpoint's weights, of a base's or a YAMNet's.
        """
        data = {**self.data.identity(), "content": dict(content)}
        # A base that is trained here is another one for each seed; a checkpoint is one, and all seeds prune it.
        seeds_of = [
            (self._base(base, group[0], data, weights), group if base.prune else ())
            for base in self.bases
            for group in ([self.seeds] if base.checkpoint else [(seed,) for seed in self.seeds])
        ]
        found = {base.trial_id: base for base, _ in seeds_of}
        for base, seed in ((base, seed) for base, group in seeds_of for seed in group):
            for config in (config for grid in self.grids for config in grid.configs(seed, self.finetunes)):
                trial = Trial({"kind": "pruned", "base": base.config, "seed": seed, **config}, base, name=base.name)
                found.setdefault(trial.trial_id, trial)
        return list(found.values())

    def _base(self, base: BaseConfig, seed: int, data: Mapping[str, Any], weights: Callable[[str], str]) -> Trial:
        config: dict[str, Any] = {"kind": "base", "data": data, "seed": seed}
        if settings := self.evaluation.settings():
            config["evaluation"] = settings
        if base.checkpoint:
            return Trial(
                {**config, "checkpoint_sha256": weights(base.checkpoint)}, checkpoint=base.checkpoint, name=base.name
            )
        config |= {"model": base.model, "width": float(base.width), "training": base.training_with(seed)}
        if base.yamnet:
            config["yamnet_sha256"] = weights(base.yamnet)
        return Trial(config, yamnet=base.yamnet, name=base.name)


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
        ConfigError: If the file cannot be read as TOML or anything in it is wrong; every problem is named.
    """
    return experiment_of(read_toml(path), str(path))


def parse_experiment(text: str, source: str) -> Experiment:
    """Read an experiment from its text; `source` names it in messages."""
    return experiment_of(parse_toml(text, source), source)


def experiment_of(given: Mapping[str, Any], source: str) -> Experiment:
    """Return the experiment of a TOML file's table; `source` names the file in messages.

    Raises:
        ConfigError: If anything in it is wrong; every problem is named.
    """
    reader = TableReader(source)
    reader.problems += table_problems(given, EXPERIMENT_RULES, required=("name", "data", "base"))
    top = {key: value for key, value in given.items() if key in EXPERIMENT_RULES and EXPERIMENT_RULES[key].holds(value)}
    seeds, finetunes = tuple(top.get("seeds", (0,))), tuple(top.get("finetune", ()))
    data = reader.table(top["data"], DataConfig, DATA_RULES, "data") if "data" in top else None
    evaluation = reader.table(top.get("evaluation", {}), EvaluationProtocol, PROTOCOL_RULES, "evaluation")
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
        evaluation=evaluation or EvaluationProtocol(),
    )
    reader.problems += _contradictions(experiment, every_table_is_read=not reader.problems)
    reader.finish()
    return experiment


def _contradictions(experiment: Experiment, *, every_table_is_read: bool) -> list[str]:
    """Return what tables ask of each other that cannot be had."""
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
