"""Read ESC-50, ESC-10 and other data sets in one of their layouts into a manifest.

Source: Piczak, "ESC: Dataset for Environmental Sound Classification", 2015. Two layouts are read:

- ESC-50: ``meta/esc50.csv`` (``filename,fold,target,category,...``) and ``audio/``;
- ESC-10 as first published: ``001 - Dog bark/1-100032-A.ogg``, where the file's first number is its fold.

Neither the classes nor the number of folds or clips is fixed.
"""

import re
from dataclasses import replace
from pathlib import Path

from epanns.data.clip import Clip
from epanns.data.datasets.class_folders import advice_on_urbansound
from epanns.data.datasets.sound_files import SoundsByStem, files_below, is_sound
from epanns.data.manifest import Manifest
from epanns.errors import ConfigError, DataError
from epanns.labels import LabelSet, composed, in_label_order
from epanns.text_files import SHORT_LIST, read_csv_table, whole_number

_CLASS_FOLDER = re.compile(r"([0-9]{1,9}) - (\S.*)")
_FOLD_FILE = re.compile(r"([0-9]{1,9})-.+")
_NEEDED = ("filename", "fold", "category")


def read_esc50(
    root: Path, *, name: str | None = None, val_fold: int | None = None, test_fold: int | None = None
) -> Manifest:
    """Read a data set in ESC-50's or ESC-10's layout.

    Args:
        root: The data set's folder.
        name: Name of the data set in results; default: the folder's name.
        val_fold: Fold that becomes the split ``val``.
        test_fold: Fold that becomes the split ``test``. With neither, each fold is a split: ``fold1``, ``fold2``, ...

    Raises:
        DataError: If `root` has neither layout, or a row is invalid.
        ConfigError: If a fold does not exist.
    """
    root = root.resolve()
    if advice := advice_on_urbansound(root):
        raise DataError(f"{root}: {advice}")
    manifest = _read_csv_layout(root) if (root / "meta").is_dir() else _read_folder_layout(root)
    if val_fold is not None or test_fold is not None:
        folds = sorted({clip.fold for clip in (*manifest.clips, *manifest.missing) if clip.fold is not None})
        for option, fold in (("--val-fold", val_fold), ("--test-fold", test_fold)):
            if fold is not None and fold not in folds:
                raise ConfigError(f"{option} {fold}: {manifest.dataset} has the folds {', '.join(map(str, folds))}")
        if val_fold == test_fold:
            raise ConfigError(f"--val-fold and --test-fold are both {val_fold}: choose on one fold, report on another")
        split_of = dict.fromkeys(folds, "train") | {val_fold: "val", test_fold: "test"}
        clips, missing = (
            tuple(replace(clip, split=split_of[clip.fold]) for clip in part)
            for part in (manifest.clips, manifest.missing)
        )
        manifest = replace(manifest, clips=clips, missing=missing)
    return replace(manifest, dataset=name or root.name)


def _read_csv_layout(root: Path) -> Manifest:
    meta = root / "meta"
    tables = [meta / "esc50.csv"] if (meta / "esc50.csv").is_file() else sorted(meta.glob("*.csv"))
    if len(tables) != 1:
        found = ", ".join(table.name for table in tables) or "none"
        raise DataError(f"{meta}: must hold esc50.csv or exactly one CSV file, found {found}")
    table = tables[0]
    columns, table_rows = read_csv_table(table, SHORT_LIST)
    rows = list(table_rows)
    lacking = [column for column in _NEEDED if column not in columns]
    if lacking:
        raise DataError(f"{table}: no column {', '.join(lacking)}; ESC-50's layout has {','.join(_NEEDED)}")
    sounds = SoundsByStem(root / "audio")
    named = {row["filename"] for row in rows}
    targets: dict[str, int] = {}  # category -> number
    clips: list[Clip] = []
    missing: list[Clip] = []
    for number, row in enumerate(rows, start=1):
        where = f"{table}, row {number}"
        filename, category, fold = row["filename"], composed(row["category"]), row["fold"]
        number_of_fold = whole_number(fold)
        if not filename or not category or number_of_fold is None:
            given = f"filename {filename[:80]!r}, category {category[:80]!r}, fold {fold[:80]!r}"
            raise DataError(f"{where}: {given}: give all three, the fold as a whole number")
        text = row.get("target") or "0"
        target = whole_number(text)
        if target is None or targets.setdefault(category, target) != target:
            raise DataError(f"{where}: target {text[:40]!r} of {category[:80]!r}: one number per category")
        path = sounds.find(filename, where, named=named)
        place = path or f"{root}/audio/{filename}"
        clip = Clip(filename, place, (category,), f"fold{number_of_fold}", fold=number_of_fold)
        (clips if path else missing).append(clip)
    n_ignored = sounds.n_files - len({clip.path for clip in clips})
    labels = LabelSet.of(sorted(in_label_order(targets), key=targets.__getitem__))  # without targets, by name
    return Manifest(root.name, labels, tuple(clips), tuple(missing), n_ignored)


def _read_folder_layout(root: Path) -> Manifest:
    numbered: dict[int, tuple[Path, str]] = {}
    for path in sorted(root.iterdir() if root.is_dir() else []):
        match = _CLASS_FOLDER.fullmatch(path.name)
        if match and path.is_dir():
            other, _ = numbered.setdefault(int(match[1]), (path, composed(match[2])))
            if other != path:
                raise DataError(f"{root}: {other.name!r} and {path.name!r} have the same number; give each its own")
    if not numbered:
        raise DataError(
            f"{root}: neither ESC-50's layout (meta/esc50.csv and audio/) nor ESC-10's (folders like "
            "'001 - Dog bark'); for one folder per class without folds use `epanns data folder`"
        )
    categories = {path.name: category for _, (path, category) in sorted(numbered.items())}
    clips: list[Clip] = []
    missing: list[Clip] = []
    n_ignored = 0
    for file, is_there in files_below(root):
        folder, _, name = file.partition("/")
        if folder not in categories or "/" in name or not is_sound(file):
            n_ignored += folder in categories or is_sound(file)
            continue
        match = _FOLD_FILE.fullmatch(name)
        if not match:
            raise DataError(f"{root}/{file}: the name must begin with the fold's number, as in 1-100032-A.ogg")
        fold = int(match[1])
        clip = Clip(file, f"{root}/{file}", (categories[folder],), f"fold{fold}", fold=fold)
        (clips if is_there else missing).append(clip)
    return Manifest(root.name, LabelSet.of(list(categories.values())), tuple(clips), tuple(missing), n_ignored)
