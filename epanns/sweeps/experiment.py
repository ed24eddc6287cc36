"""An experiment as data: TOML in, the list of its trials out."""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from epanns.atomic import sha256_of_json
from epanns.errors import ConfigError
from epanns.evaluation.protocol import EvaluationProtocol
from epanns.sweeps.base import BaseConfig
from epanns.sweeps.grid import GridConfig
from epanns.sweeps.strict_toml import TableReader, all_of, is_count, is_number, is_text
from epanns.sweeps.training_tables import finetuning

DATA_KINDS = ("esc50", "folder", "audioset", "fsd50k", "synthetic", "packs")


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
        rules = {
            f"kind={self.kind!r}: must be one of {', '.join(DATA_KINDS)}": self.kind in DATA_KINDS,
            f"root={self.root!r}: {self.kind} needs the folder of the data set": self.kind in ("synthetic", "packs")
            or is_text(self.root),
            f"sample_rate={self.sample_rate!r}: must be a whole number of Hz": is_count(self.sample_rate),
            f"seconds={self.seconds!r}: must be a number > 0": is_number(self.seconds) and self.seconds > 0,
        }
        parts = {"train": self.train, "val": self.val, "test": self.test}
        rules |= {f"{name}={part!r}: must list at least one": all_of(part, is_text) for name, part in parts.items()}
        shared = sorted({a for one, other in ((0, 1), (0, 2), (1, 2)) for a in self._shared(one, other)})
        rules[f"{', '.join(shared)} is used twice among train, val and test: that is a leak"] = not shared
        if problems := [problem for problem, holds in rules.items() if not holds]:
            raise ConfigError("; ".join(problems))

    def _shared(self, one: int, other: int) -> set[str]:
        parts = (self.train, self.val, self.test)
        return set(parts[one]) & set(parts[other])

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
    """

    config: Mapping[str, Any]
    base: "Trial | None" = None
    checkpoint: str = ""
    yamnet: str = ""

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
                trial = Trial({"kind": "pruned", "base": base.config, "seed": seed, **config}, base)
                found.setdefault(trial.trial_id, trial)
        return list(found.values())

    def _base(self, base: BaseConfig, seed: int, data: Mapping[str, Any], weights: Callable[[str], str]) -> Trial:
        config: dict[str, Any] = {"kind": "base", "data": data, "seed": seed}
        if settings := self.evaluation.settings():
            config["evaluation"] = settings
        if base.checkpoint:
            return Trial({**config, "checkpoint_sha256": weights(base.checkpoint)}, checkpoint=base.checkpoint)
        config |= {"model": base.model, "width": float(base.width), "training": base.training_with(seed)}
        if base.yamnet:
            config["yamnet_sha256"] = weights(base.yamnet)
        return Trial(config, yamnet=base.yamnet)


def load_experiment(path: Path) -> Experiment:
    """Read an experiment.

    Raises:
        ConfigError: If the file cannot be read as TOML or anything in it is wrong; every problem is named.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error
    return parse_experiment(text, str(path))


def parse_experiment(text: str, source: str) -> Experiment:
    """Read an experiment from its text; `source` names it in messages."""
    try:
        given = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: is not TOML ({error})") from error
    reader = TableReader(source)
    top = reader.read(given, _Tables, "experiment")
    if top is None:
        reader.finish()
    assert top is not None
    reader.note(is_text(top.name), f"name={top.name!r}: must be text")
    reader.note(all_of(top.seeds, is_count), f"seeds={top.seeds!r}: must list whole numbers >= 0")
    reader.note(isinstance(top.base, tuple) and len(top.base) > 0, "[[base]]: give at least one base")
    data = reader.read(top.data, DataConfig, "data")
    evaluation = reader.read(top.evaluation, EvaluationProtocol, "evaluation")
    tables = top.grid if isinstance(top.grid, tuple) else (top.grid,)
    names = ["grid"] if len(tables) == 1 else [f"grid {number}" for number, _ in enumerate(tables, start=1)]
    grids = [reader.read(table, GridConfig, name) for table, name in zip(tables, names, strict=True)]
    bases = [reader.read(base, BaseConfig, f"base {number}") for number, base in enumerate(top.base, start=1)]
    for number, finetune in enumerate(top.finetune, start=1):
        reader.attempt(partial(finetuning, finetune), f"finetune {number}")
    for name, grid in zip(names, grids, strict=True):
        if grid is not None and (others := [seed for seed in grid.seeds if seed not in top.seeds]):
            reader.note(
                False, f"[{name}] seeds={grid.seeds!r}: {others[0]!r} is none of the experiment's {top.seeds!r}"
            )
    if not reader.problems:
        _note_contradictions(reader, top, [base for base in bases if base], [grid for grid in grids if grid])
    reader.finish()
    assert data is not None and evaluation is not None
    return Experiment(
        name=top.name,
        seeds=top.seeds,
        data=data,
        bases=tuple(base for base in bases if base is not None),
        grids=tuple(grid for grid in grids if grid is not None),
        finetunes=top.finetune,
        evaluation=evaluation,
    )


def _note_contradictions(reader: TableReader, top: "_Tables", bases: list[BaseConfig], grids: list[GridConfig]) -> None:
    """Note what tables ask of each other that cannot be had."""
    pruned = [base for base in bases if base.prune]
    reader.note(not grids or bool(pruned), "[grid] there is no base to prune: all have prune = false")
    reader.note(
        not top.finetune or bool(grids),
        "[finetune] there is nothing to fine-tune: give a [grid] too, with ratio = [0] for the bases as they are",
    )
    frozen = [table for tables in (top.finetune, *(grid.finetune for grid in grids)) for table in tables]
    if any(table.get("freeze_yamnet") for table in frozen):
        free = [base.model for base in pruned if not base.may_be_frozen]
        reader.note(not free, f"freeze_yamnet = true: {free[:1]} is not built on YAMNet's body; leave it out")


@dataclass(frozen=True)
class _Tables:
    """The top level of the file."""

    name: str
    data: Mapping[str, Any]
    base: tuple[Mapping[str, Any], ...]
    grid: Mapping[str, Any] | tuple[Mapping[str, Any], ...] = ()
    seeds: tuple[int, ...] = (0,)
    finetune: tuple[Mapping[str, Any], ...] = ()
    evaluation: Mapping[str, Any] = field(default_factory=dict)
