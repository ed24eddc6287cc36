"""An experiment as data: TOML in, the list of its trials out."""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from epanns.atomic import sha256_of_json
from epanns.errors import ConfigError
from epanns.pruning.ranking.criteria import NEEDS
from epanns.pruning.recovery.names import RECOVERIES, recovery_problem
from epanns.pruning.recovery.recover import RecoverySettings
from epanns.sweeps.amount import Amount, asked_of, is_budget, is_ratio, is_ratios
from epanns.sweeps.strict_toml import TableReader, all_of, is_count, is_number, is_text
from epanns.sweeps.training_tables import base_training, finetuning

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
class BaseConfig:
    """An unpruned network: trained here, or a checkpoint.

    Attributes:
        model: A name of the zoo.
        width: Factor on its widths.
        training: How it is trained; keys of `TrainingConfig` and ``preset``; no seed.
        checkpoint: Instead of all that, a checkpoint folder or released file with the data's labels.
    """

    model: str = ""
    width: float = 1.0
    training: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: str = ""

    def __post_init__(self) -> None:
        if bool(self.model) == bool(self.checkpoint):
            raise ConfigError("give either model (and training) or checkpoint")
        if self.checkpoint and (self.training or self.width != 1.0):
            raise ConfigError("training and width do not go with checkpoint")
        base_training(self.training)


@dataclass(frozen=True)
class GridConfig:
    """What is varied; every combination is a trial. An experiment may have several, as ``[[grid]]``.

    Attributes:
        ratio: Fractions of channels removed; 0 leaves the network whole and, with fine-tuning, is the control.
        ratios: Beside or instead, tables of a ratio for each layer or block; `layers` do not count there.
        budget: Beside or instead, what the network may cost, such as ``macs 0.25``, shared out over the layers alike.
        criterion: Importance rules.
        layers: Lists of layers or blocks.
        recover: Recoveries without labels before fine-tuning.
        calibration_clips: Training clips for recovery and criteria that measure clips; unlabelled but for ``taylor``.
        recovery: Settings of the recoveries where they are not the usual ones; keys of `RecoverySettings`.
    """

    ratio: tuple[float, ...] = ()
    ratios: tuple[Mapping[str, float], ...] = ()
    budget: tuple[str, ...] = ()
    criterion: tuple[str, ...] = ("l1",)
    layers: tuple[list[str], ...] = (["conv_block4", "conv_block5", "conv_block6"],)
    recover: tuple[str, ...] = ("none",)
    calibration_clips: int = 400
    recovery: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rules = {
            f"ratio={self.ratio!r}: must list numbers in [0, 1)": all_of(self.ratio, is_ratio)
            or (self.ratio == () and bool(self.ratios or self.budget)),
            f"ratios={self.ratios!r}: must list tables of numbers in [0, 1)": all(map(is_ratios, self.ratios)),
            f"budget={self.budget!r}: must list kind and amount, such as 'macs 0.25' or 'params 1M'": all(
                map(is_budget, self.budget)
            ),
            f"criterion={self.criterion!r}: must list names": all_of(self.criterion, is_text),
            f"layers={self.layers!r}: must list lists of layers or blocks": all_of(
                self.layers, lambda layers: all_of(layers, is_text)
            ),
            f"recover={self.recover!r}: must list some of {', '.join(RECOVERIES)}, distil:STEPS": all_of(
                self.recover, lambda method: recovery_problem(method) is None
            ),
            f"calibration_clips={self.calibration_clips!r}: must be a whole number > 0": is_count(
                self.calibration_clips
            )
            and self.calibration_clips > 0,
        }
        RecoverySettings.from_dict(self.recovery)
        if problems := [problem for problem, holds in rules.items() if not holds]:
            raise ConfigError("; ".join(problems))

    @property
    def amounts(self) -> tuple[Amount, ...]:
        """How much is removed, in each way it is said."""
        return (*self.ratio, *self.ratios, *self.budget)


@dataclass(frozen=True)
class Trial:
    """One cell of the grid.

    Attributes:
        config: Everything that decides the result, in JSON values; its hash is the trial's name. Data and checkpoints
            stand in it by what they hold, not by where they lie.
        base: The trial whose network this one prunes; None for the base itself.
        checkpoint: Where the base's checkpoint is, if it is not trained here.
    """

    config: Mapping[str, Any]
    base: "Trial | None" = None
    checkpoint: str = ""

    @property
    def trial_id(self) -> str:
        """First 12 digits of the sha256 of the canonical configuration."""
        return sha256_of_json(self.config)[:12]


@dataclass(frozen=True)
class Experiment:
    """A question: data, bases, grids, and the seeds every cell of them is run with."""

    name: str
    seeds: tuple[int, ...]
    data: DataConfig
    bases: tuple[BaseConfig, ...]
    grids: tuple[GridConfig, ...]
    finetunes: tuple[Mapping[str, Any], ...]

    def trials(self, content: Mapping[str, str], weights: Callable[[str], str]) -> list[Trial]:
        """Return the bases, then the pruned trials, each once, in a fixed order.

        Args:
            content: Part of the data (``train``, ``val``, ``test``) -> digest of its clips.
            weights: Returns the digest of a checkpoint's weights.
        """
        data = {**self.data.identity(), "content": dict(content)}
        # A base that is trained here is another one for each seed; a checkpoint is one, and all seeds prune it.
        seeds_of = [
            (self._base(base, group[0], data, weights), group)
            for base in self.bases
            for group in ([self.seeds] if base.checkpoint else [(seed,) for seed in self.seeds])
        ]
        found = {base.trial_id: base for base, _ in seeds_of}
        for base, seed in ((base, seed) for base, group in seeds_of for seed in group):
            for grid, finetune in product(self.grids, self.finetunes or ({},)):
                for cell in product(grid.criterion, grid.layers, grid.recover, grid.amounts):
                    trial = self._pruned(base, seed, grid, cell, finetune)
                    if trial is not None:
                        found.setdefault(trial.trial_id, trial)
        return list(found.values())

    def _base(self, base: BaseConfig, seed: int, data: Mapping[str, Any], weights: Callable[[str], str]) -> Trial:
        config: dict[str, Any] = {"kind": "base", "data": data, "seed": seed}
        if base.checkpoint:
            return Trial({**config, "checkpoint_sha256": weights(base.checkpoint)}, checkpoint=base.checkpoint)
        training = base_training(base.training, seed=seed)
        return Trial({**config, "model": base.model, "width": float(base.width), "training": training})

    def _pruned(
        self,
        base: Trial,
        seed: int,
        grid: GridConfig,
        cell: tuple[str, list[str], str, Amount],
        finetune: Mapping[str, Any],
    ) -> Trial | None:
        criterion, layers, recover, amount = cell
        if amount == 0 and not finetune:
            return None  # the base itself
        config: dict[str, Any] = {"kind": "pruned", "base": base.config, "seed": seed}
        if amount == 0:  # of the control only the fine-tuning counts, so that it is run once
            config["ratio"] = 0.0
        else:
            config |= {**asked_of(amount, layers), "criterion": criterion, "recover": recover}
            if recover != "none" or NEEDS.get(criterion, "weights") != "weights":
                config["calibration_clips"] = grid.calibration_clips
                if grid.recovery:
                    config["recovery"] = dict(grid.recovery)
        if finetune:
            config |= finetuning(finetune, seed=seed)
        return Trial(config, base)


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
    tables = top.grid if isinstance(top.grid, tuple) else (top.grid,)
    names = [f"grid {number}" for number, _ in enumerate(tables, start=1)] if len(tables) > 1 else ["grid"]
    grids = [reader.read(table, GridConfig, name) for table, name in zip(tables, names, strict=True)]
    bases = [reader.read(base, BaseConfig, f"base {number}") for number, base in enumerate(top.base, start=1)]
    for number, finetune in enumerate(top.finetune, start=1):
        reader.attempt(partial(finetuning, finetune), f"finetune {number}")
    reader.finish()
    assert data is not None
    return Experiment(
        name=top.name,
        seeds=top.seeds,
        data=data,
        bases=tuple(base for base in bases if base is not None),
        grids=tuple(grid for grid in grids if grid is not None),
        finetunes=top.finetune,
    )


@dataclass(frozen=True)
class _Tables:
    """The top level of the file."""

    name: str
    data: Mapping[str, Any]
    base: tuple[Mapping[str, Any], ...]
    grid: Mapping[str, Any] | tuple[Mapping[str, Any], ...]
    seeds: tuple[int, ...] = (0,)
    finetune: tuple[Mapping[str, Any], ...] = ()
