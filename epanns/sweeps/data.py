"""The ``[data]`` table of an experiment, and the packs that are made of it, once, in the sweep's folder."""

import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from epanns.atomic import write_json
from epanns.data.datasets.audioset import read_audioset
from epanns.data.datasets.class_folders import read_folder
from epanns.data.datasets.clip_table import TABLE_FORM_RULES, TableForm
from epanns.data.datasets.esc50 import read_esc50
from epanns.data.datasets.fsd50k import read_fsd50k
from epanns.data.datasets.hear import read_hear
from epanns.data.datasets.speechcommands import read_speechcommands
from epanns.data.datasets.synthetic import SYNTHETIC_RULES, SyntheticSettings, make_synthetic
from epanns.data.datasets.urbansound8k import read_urbansound8k
from epanns.data.manifest import Manifest, write_manifest
from epanns.data.packing.packer import pack_manifest
from epanns.data.packs.pack_format import PackSettings
from epanns.errors import ConfigError, OutputError
from epanns.evaluation.class_map import ClassMap
from epanns.safe_text import is_path_name
from epanns.strict import (
    ANY_TEXT,
    PATH,
    TABLE,
    Rule,
    error_messages,
    field_values,
    from_table,
    integer,
    list_of,
    number,
    one_of,
    shown,
    value_problems,
)
from epanns.text_files import read_json

PARTS = ("train", "val", "test")
ROTATE = "rotate"

_READERS: Mapping[str, Callable[[Path], Manifest]] = {
    "esc50": read_esc50,
    "folder": read_folder,
    "audioset": read_audioset,
    "fsd50k": read_fsd50k,
    "urbansound8k": read_urbansound8k,
    "speechcommands": read_speechcommands,
    "hear": read_hear,
}
_NAMES = list_of(PATH, "splits or packs", least=1)
_FOLD_NUMBERS = list_of(integer(1), "numbers of folds", least=1)
_FOLDS = Rule(
    f"{ROTATE!r} for all folds, or a list of different numbers of folds, such as [1, 5]",
    lambda value: value == ROTATE or (_FOLD_NUMBERS.holds(value) and len(set(value)) == len(value)),
)
DATA_RULES: Mapping[str, Rule] = {
    "kind": one_of((*_READERS, "synthetic", "packs")),
    "train": _NAMES,
    "val": _NAMES,
    "test": _NAMES,
    "folds": _FOLDS,
    "root": ANY_TEXT,
    "sample_rate": integer(1, 1_000_000),
    "seconds": number("a number in (0, 3600]", lambda value: 0 < value <= 3600),
    "synthetic": TABLE,
    "table": TABLE,
    "class_map": ANY_TEXT,
}

_MAY_LACK = frozenset({*PARTS, "folds"})


@dataclass(frozen=True)
class DataConfig:
    """The data set, and its splits for training, choosing the step and testing.

    Attributes:
        kind: A layout of ``epanns data``, or ``packs`` for packs made before.
        train: Names of splits (ESC: ``fold1``, ...), or folders of packs; `val` and `test` likewise.
        folds: Instead of the three, the folds that are tested in turn: numbers, or ``rotate`` for all
            (`epanns.sweeps.folds`).
        root: Folder of the data set, relative to the current folder; not part of a trial's identity.
        sample_rate: In Hz; must be the model's.
        seconds: Length of a packed clip.
        synthetic: Settings of the generator, for ``kind = "synthetic"``.
        table: Columns of the CSV file `root`, for ``kind = "folder"``, see `TableForm`; not part of a trial's identity,
            which has the digests of the clips.
        class_map: Class map through which networks with other classes are scored, relative to the current folder; its
            content is part of a trial's identity.
        fold: The tested fold of an experiment with `folds`; 0 without folds. It is no key of the table.
    """

    kind: str
    train: tuple[str, ...] = ()
    val: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    folds: str | tuple[int, ...] = ()
    root: str = ""
    sample_rate: int = 32_000
    seconds: float = 10.0
    synthetic: Mapping[str, Any] = field(default_factory=dict)
    table: Mapping[str, Any] = field(default_factory=dict)
    class_map: str = ""
    fold: int = 0

    def __post_init__(self) -> None:
        given = {name: value for name, value in field_values(self).items() if value != () or name not in _MAY_LACK}
        if problems := [*value_problems(given, DATA_RULES), *self._parts_problems(given)]:
            raise ConfigError("; ".join(problems))
        parts = {part: getattr(self, part) for part in PARTS}
        if self.kind not in ("synthetic", "packs") and not PATH.holds(self.root):
            problems.append(f"root={shown(self.root)}: {self.kind} needs the folder of the data set")
        if self.kind != "packs":
            problems += [
                f"{part}[{place}]={shown(name)}: must be the name of a split, of A-Z a-z 0-9 . _ -"
                for part, names in parts.items()
                for place, name in enumerate(names)
                if not is_path_name(name)
            ]
            problems += error_messages(lambda: PackSettings(sample_rate=self.sample_rate, seconds=self.seconds))
        if self.kind == "synthetic":
            problems += error_messages(self.generator)
        problems += error_messages(self.table_form)
        used = [name for names in parts.values() for name in dict.fromkeys(names)]
        if shared := sorted({name for name in used if used.count(name) > 1}):
            problems.append(f"{', '.join(shared)} is used twice among train, val and test: that is a leak")
        if problems:
            raise ConfigError("; ".join(problems))

    def _parts_problems(self, given: Collection[str]) -> list[str]:
        """Return one line for each problem of the keys that choose the parts."""
        if "folds" not in given:
            return [f"missing key {part!r}; give train, val and test, or folds" for part in PARTS if part not in given]
        if set(PARTS) & set(given):
            return [f"folds={shown(self.folds)} with train, val or test: give folds or the three parts"]
        if self.kind in ("synthetic", "packs"):
            return [f"folds={shown(self.folds)}: {self.kind} has no folds; give train, val and test"]
        return []

    def generator(self) -> SyntheticSettings:
        """Return the settings of the generator.

        Raises:
            ConfigError: If a key of ``synthetic`` is unknown or a value is wrong.
        """
        given = {"seconds": self.seconds, "sample_rate": self.sample_rate, **self.synthetic}
        return from_table(SyntheticSettings, given, SYNTHETIC_RULES, what="synthetic: ")

    def table_form(self) -> TableForm | None:
        """Return the columns of the CSV file; None without ``table``.

        Raises:
            ConfigError: If a key of ``table`` is unknown, a value is wrong, or `kind` is not ``folder``.
        """
        if not self.table:
            return None
        if self.kind != "folder":
            raise ConfigError(f"table: {self.kind} has no columns to name; only kind = 'folder' has")
        return from_table(TableForm, self.table, TABLE_FORM_RULES, what="table: ")

    def identity(self) -> dict[str, Any]:
        """Return the part of the data's identity that is known before packing; digests of the clips are added later.

        Raises:
            DataError: If the class map cannot be read.
        """
        kept = {"kind": self.kind, "sample_rate": self.sample_rate, "seconds": float(self.seconds)}
        if self.class_map:
            kept["class_map_sha256"] = ClassMap.from_csv(Path(self.class_map)).digest
        if self.kind == "packs":
            return kept
        parts = {part: list(getattr(self, part)) for part in PARTS}
        fold = {"fold": self.fold} if self.fold else {}
        return {**kept, **fold, **parts, **({"synthetic": dict(self.synthetic)} if self.synthetic else {})}


def prepare_manifest(data: DataConfig, folder: Path) -> Manifest | None:
    """Return the clips of the data set; None for packs made before. Generated sound is written to ``folder/audio``.

    Raises:
        DataError: If the data set cannot be read.
        OutputError: If the folder holds other generated sound.
    """
    if data.kind == "packs":
        return None
    if data.kind == "synthetic":
        return make_synthetic(folder / "audio", data.generator())
    if data.table:
        return read_folder(Path(data.root), form=data.table_form())
    return _READERS[data.kind](Path(data.root))


def require_splits(datas: Sequence[DataConfig], manifest: Manifest) -> None:
    """Raise `ConfigError` if a data set lacks one of the splits."""
    for split in sorted({split for data in datas for split in splits_of(data)}):
        if split not in manifest.splits:
            raise ConfigError(f"[data] no split {split!r} in {manifest.dataset}: it has {', '.join(manifest.splits)}")


def prepare_packs(
    datas: Sequence[DataConfig], manifest: Manifest | None, folder: Path, *, jobs: int = 1
) -> list[dict[str, list[str]]]:
    """Return the absolute paths of the packs of each part, for each `[data]` table of one data set.

    Missing packs are made, each once: ``manifest.csv`` and ``packs/<split>`` are written to the folder.

    Raises:
        OutputError: If the folder holds packs of other data.
    """
    if manifest is not None:
        manifest_path = folder / "manifest.csv"
        write_manifest(manifest, manifest_path)  # refuses the folder of another data set
        rate, seconds = datas[0].sample_rate, float(datas[0].seconds)
        for split in dict.fromkeys(split for data in datas for split in splits_of(data)):
            settings = PackSettings(splits=(split,), sample_rate=rate, seconds=seconds)
            pack_manifest(manifest_path, folder / "packs" / split, settings, jobs=jobs)
    return [{part: pack_paths(data, part, folder) for part in PARTS} for data in datas]


def splits_of(data: DataConfig) -> list[str]:
    """Return the splits of all parts."""
    return [split for part in PARTS for split in getattr(data, part)]


def pack_paths(data: DataConfig, part: str, folder: Path) -> list[str]:
    """Return the absolute paths of the packs of a part, whether or not they are made."""
    given = [Path(name) for name in getattr(data, part)]
    return [str((path if data.kind == "packs" else folder / "packs" / path).resolve()) for path in given]


def replace_unused_data(data: DataConfig, folder: Path) -> bool:
    """Delete data that were made for another ``[data]`` table, and store this table; return whether data were deleted.

    Call it only for a sweep without a finished trial, whose experiment was corrected.

    Args:
        data: The ``[data]`` table as it is now.
        folder: Folder of the data; ``asked.json`` in it holds the table.
    """
    table = {"table": dict(data.table)} if data.table else {}
    request, kept = {**data.identity(), "root": data.root, **table}, folder / "asked.json"
    is_other = kept.exists() and read_json(kept, error=OutputError) != request
    if is_other:
        shutil.rmtree(folder)
    if is_other or not folder.exists():
        write_json(kept, request)
    return is_other
