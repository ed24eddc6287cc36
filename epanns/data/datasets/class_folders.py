"""Read the user's own recordings into a manifest: one folder per class, or a CSV file of paths and labels."""

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from epanns.data.clip import LABEL_SEPARATOR, Clip
from epanns.data.datasets.sound_files import files_below, is_sound
from epanns.data.datasets.splits import UNSPLIT, SplitSettings, draw_splits
from epanns.data.datasets.urbansound8k import advice_on_urbansound8k
from epanns.data.manifest import Manifest, without_manifests
from epanns.errors import ConfigError, DataError
from epanns.labels import LabelSet, composed, in_label_order, names_read_alike
from epanns.text_files import read_csv_table, whole_number

_MOST_ROWS = 10_000_000
_SPLIT_FOLDERS = {  # name of a folder in lower case -> the split it holds
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
_CSV_FORM = "write a CSV with the columns path, labels and fold or split, and give it to `epanns data folder FILE.csv`"
_FOLD = re.compile(r"(folds?|k?fold|cv|split|part|f)[\W_]*([0-9]{1,3})", re.IGNORECASE)
_SPLIT = re.compile(
    rf"(\w+\.)?(audio_)?({'|'.join(_SPLIT_FOLDERS)})[\W_]*(audio|set|data|clips?|files?|wavs?|sounds?|split|curated|noisy)?"
    r"[\W_]*[0-9]*",
    re.IGNORECASE,
)
_STORE = re.compile(r"(audio|wave?|mp3|flac|ogg|sound|clip|recording|data)[\W_]*(files?|clips?|data)?s?", re.IGNORECASE)
_FSD50K = re.compile(r"(FSD50K\.)?(dev|eval)_audio", re.IGNORECASE)
_AUDIOSET = re.compile(r"((un)?balanced_train|eval)(_segments|_audio|_wavs?)*(_part[0-9]+)?", re.IGNORECASE)


def read_folder(
    root: Path,
    *,
    name: str | None = None,
    val_fraction: float = 0.0,
    test_fraction: float = 0.0,
    seed: int = 0,
    group_pattern: str = "",
    group_column: str = "",
) -> Manifest:
    """Read class folders, or a CSV file.

    Folders: ``ROOT/CLASS/**/*.wav``, or ``ROOT/train/CLASS/...`` with splits above the classes. Folders without audio
    are skipped, symbolic links are followed, and a broken link is a missing clip. CSV: the columns `path` (relative to
    the CSV's folder) and `labels` (separated by ``;``), and optionally `split` and `fold`. Classes are ordered by name,
    or by value if all names are numbers. Class names are converted to composed Unicode (NFC).

    Args:
        root: The folder, or the CSV file.
        name: Name of the data set in results; default: the folder's or file's name.
        val_fraction: Fraction of the clips, 0..1, drawn for the split ``val``, stratified by class.
        test_fraction: Fraction drawn for ``test``; the rest is ``train``.
        seed: Seed of the draw.
        group_pattern: Regular expression that finds each clip's group, see `splits.groups_by_pattern`; all clips of a
            group get the same split.
        group_column: Column of the CSV file with each clip's group.

    Raises:
        DataError: If there are no clips, a row is invalid, the folders are folds or splits instead of classes, or a
            clip has no group.
        ConfigError: If the fractions leave no training clips, the data set has its own splits, or the groups cannot be
            used.
    """
    root = root.resolve()
    settings = SplitSettings(val_fraction, test_fraction, seed, group_pattern, group_column)
    if group_column and not root.is_file():
        raise ConfigError(f"--group-column {group_column}: {root} is no CSV file; use --group-pattern for folders")
    groups: dict[str, str] = {}
    manifest = _read_table(root, settings, groups) if root.is_file() else _read_class_folders(root)
    if settings.held_out:
        manifest = draw_splits(manifest, settings, groups)
    alike = [" and ".join(map(repr, names)) for names in names_read_alike(manifest.labels.names)]
    notes = tuple(f"classes {names} differ only in case, blanks, _, - or commas: are they one?" for names in alike)
    return replace(manifest, dataset=name or root.stem, notes=(*manifest.notes, *notes))


def _read_class_folders(root: Path) -> Manifest:
    files = {tuple(path.split("/")): is_there for path, is_there in files_below(root)}
    sounds = {parts: is_there for parts, is_there in files.items() if is_sound("/".join(parts))}
    inside = [parts for parts in sounds if len(parts) > 1]
    others = [parts[0] for parts in inside if parts[0].lower() not in _SPLIT_FOLDERS]
    # A class may be named `train`; with subfolders it is a split.
    splits = [parts[0] for parts in inside if parts[0].lower() in _SPLIT_FOLDERS and len(parts) > 2]
    if others and splits:
        raise DataError(
            f"{root}: {splits[0]!r} looks like a split, {others[0]!r} like a class; give either CLASS/*.wav or "
            "train/CLASS/*.wav, val/CLASS/*.wav, ... with nothing but splits at the top"
        )
    has_splits = bool(inside) and not others
    depth = 1 if has_splits else 0
    clips: list[Clip] = []
    missing: list[Clip] = []
    for parts, is_there in sounds.items():
        if len(parts) >= depth + 2:
            path = "/".join(parts)
            split = _SPLIT_FOLDERS[parts[0].lower()] if has_splits else UNSPLIT
            clip = Clip(path, f"{root}/{path}", (composed(parts[depth]),), split)
            (clips if is_there else missing).append(clip)
    if not clips:
        raise DataError(f"{root}: no audio files in class folders; expected such as {root.name}/dog/barking.wav")
    labels = _labels_of([*clips, *missing])
    paths = list(map("/".join, files))
    names = sorted(labels.names)
    problem = _problem_of_folders(root, names, [path for path in paths if path.lower().endswith((".csv", ".tsv"))])
    if problem:
        listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise DataError(f"{root}: the classes would be {listed}, which {problem}")
    n_ignored = len(without_manifests(paths)) - len(clips) - len(missing)
    folds = [name for name in labels.names if (match := _FOLD.fullmatch(name)) and "fold" in match[1].lower()]
    stores = [name for name in names if len(names) == 1 and _STORE.fullmatch(name)]
    notes = (
        *(f"the class {name} is called like a fold; its folder may hold sounds of all classes" for name in folds),
        *(f"the only class is called {name}; its folder may hold sounds of all classes" for name in stores),
    )
    return Manifest(root.name, labels, tuple(clips), tuple(missing), n_ignored, notes)


def _problem_of_folders(root: Path, names: list[str], tables: list[str]) -> str:
    """Return what the folders are and what to do if, by their names, they are no classes; empty if they are classes.

    Args:
        root: The data set's folder.
        names: Names of the folders that would become the classes, sorted.
        tables: Paths of CSV and TSV files, relative to `root`.
    """
    folds = [match for match in map(_FOLD.fullmatch, names) if match]
    if len(folds) == len(names):
        numbers = sorted(int(match[2]) for match in folds)
        # f1 and f2 may be two voices: names without "fold" are folds if they are three or more in a row, from 0 or 1.
        is_row = len(numbers) > 2 and numbers[0] < 2 and numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        if is_row or all("fold" in match[1].lower() for match in folds):
            return f"are folds: {advice_on_urbansound8k(root) or _CSV_FORM}"
    if all(map(_FSD50K.fullmatch, names)):
        return "are parts of FSD50K: read the folder above them with `epanns data fsd50k`"
    if len(names) > 1 and all(map(_AUDIOSET.fullmatch, names)):
        return "are parts of AudioSet: read the folder above them with `epanns data audioset`"
    if all(map(_SPLIT.fullmatch, names)) and not _SPLIT_FOLDERS.keys() >= set(map(str.lower, names)):
        return f"are splits: call them train, val and test, with the class folders inside, or {_CSV_FORM}"
    if len(names) == 1 and tables and _STORE.fullmatch(names[0]):
        has_meta = any(path.startswith("meta/") for path in tables)
        advice = "read it with `epanns data esc50`" if has_meta else advice_on_urbansound8k(root) or _CSV_FORM
        return f"is the folder of all sound, beside {tables[0]}: {advice}"
    return ""


def _labels_of(clips: list[Clip]) -> LabelSet:
    return LabelSet.of(in_label_order(label for clip in clips for label in clip.labels))


def _read_table(table: Path, settings: SplitSettings, groups: dict[str, str]) -> Manifest:
    """Read a CSV file; with a group column, add the group of each clip id to `groups`."""
    clips = list(_table_clips(table, settings.group_column, groups))
    if not clips:
        raise DataError(f"{table}: holds no clips; write one row per clip below the first line")
    first_rows: dict[str, int] = {}
    found: list[Clip] = []
    missing: list[Clip] = []
    for number, clip in enumerate(clips, start=1):
        row = first_rows.setdefault(os.path.realpath(clip.path), number)
        where = f"{table}, rows {row} and {number}"
        if settings.held_out and row != number:
            raise DataError(f"{where}: one file, which may be drawn into two splits; list it once")
        if clips[row - 1].split != clip.split:
            splits = f"{clips[row - 1].split!r} and {clip.split!r}"
            raise DataError(f"{where}: one file in the splits {splits}: a leak; keep it in one")
        # Unlike `Path.is_file` it returns False for a name that is too long.
        (found if os.path.isfile(clip.path) else missing).append(clip)  # noqa: PTH113
    return Manifest(table.stem, _labels_of(clips), tuple(found), tuple(missing))


def _table_clips(table: Path, group_column: str, groups: dict[str, str]) -> Iterator[Clip]:
    """Yield the clips of a CSV file; with a group column, add their groups to `groups`."""
    columns, rows = read_csv_table(table)
    if not {"path", "labels"} <= set(columns):
        raise DataError(f"{table}: first line is {','.join(columns)[:80]!r}, must name the columns path and labels")
    if group_column and group_column not in columns:
        raise ConfigError(f"--group-column {group_column}: {table} has the columns {', '.join(columns)[:120]}")
    for number, row in enumerate(rows, start=1):
        if number > _MOST_ROWS:
            raise DataError(f"{table}: has more than {_MOST_ROWS:,} rows; write a manifest, which may have any length")
        where = f"{table}, row {number}"
        path, labels, fold = (row.get(column, "") for column in ("path", "labels", "fold"))
        names = tuple(composed(label.strip()) for label in labels.split(LABEL_SEPARATOR) if label.strip())
        number_of_fold = whole_number(fold) if fold else None
        if not path or not names or (fold and number_of_fold is None):
            rule = "path and labels must be given, fold must be a whole number or empty"
            raise DataError(f"{where}: path {path[:80]!r}, labels {labels[:80]!r}, fold {fold[:80]!r}: {rule}")
        if group_column:
            groups[path] = row[group_column].strip()
            if not groups[path]:
                raise DataError(f"{where}: {group_column} is empty; name the group of each clip")
        yield Clip(path, str(table.parent / path), names, row.get("split") or UNSPLIT, fold=number_of_fold)
