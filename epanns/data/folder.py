"""One's own recordings -> manifest: one folder per class, or a CSV of paths and labels."""

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from epanns.csv_table import read_csv_table, whole_number
from epanns.data.clip import LABEL_SEPARATOR, Clip
from epanns.data.drawn_splits import WHOLE, SplitDraw, draw_splits
from epanns.data.layouts import SPLIT_FOLDERS, doubts, refuse_other_layouts
from epanns.data.manifest import Manifest, without_manifests
from epanns.data.sound_files import files_below, is_sound
from epanns.errors import ConfigError, DataError
from epanns.labels import LabelSet, composed, in_label_order, names_read_alike

_MOST_ROWS = 10_000_000


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

    Folders: ``ROOT/CLASS/**/*.wav``, or ``ROOT/train/CLASS/...`` with splits above the classes; folders without sound
    are passed over, links are followed, and one that leads nowhere is a missing clip. CSV: the columns `path`
    (relative to the CSV's folder) and `labels` (separated by ``;``), and if wanted `split` and `fold`. Classes are
    ordered by name, or by value where all names are numbers. Names of classes are put into composed Unicode (NFC).

    Args:
        root: The folder, or the CSV file.
        name: What results will call the data set; the folder's or file's name where not given.
        val_fraction: Share of the clips, 0..1, drawn for the split ``val``, class by class.
        test_fraction: Share drawn for ``test``; the rest is ``train``.
        seed: Of the draw.
        group_pattern: Regular expression that finds each clip's group, see `epanns.data.groups`; no group is then in
            two splits.
        group_column: Column of the CSV file that names each clip's group.

    Raises:
        DataError: If there is nothing to read, a row breaks a rule, the folders are folds or splits and no classes, or
            a clip has no group.
        ConfigError: If the fractions leave nothing to train on, the data set has splits of its own, or the groups
            cannot be used.
    """
    root, draw = root.resolve(), SplitDraw(val_fraction, test_fraction, seed, group_pattern, group_column)
    if draw.group_column and not root.is_file():
        raise ConfigError(f"--group-column {draw.group_column}: {root} is no CSV file; use --group-pattern for folders")
    groups: dict[str, str] = {}
    manifest = _read_table(root, draw, groups) if root.is_file() else _read_class_folders(root)
    if draw.is_asked_for:
        manifest = draw_splits(manifest, draw, groups)
    alike = [" and ".join(map(repr, names)) for names in names_read_alike(manifest.labels.names)]
    notes = tuple(f"classes {names} differ only in case, blanks, _, - or commas: are they one?" for names in alike)
    return replace(manifest, dataset=name or root.stem, notes=(*manifest.notes, *notes))


def _read_class_folders(root: Path) -> Manifest:
    files = {tuple(path.split("/")): is_there for path, is_there in files_below(root)}
    sounds = {parts: is_there for parts, is_there in files.items() if is_sound("/".join(parts))}
    has_splits = _has_splits(root, sounds)
    depth = 1 if has_splits else 0
    clips: list[Clip] = []
    missing: list[Clip] = []
    for parts, is_there in sounds.items():
        if len(parts) >= depth + 2:
            path = "/".join(parts)
            split = SPLIT_FOLDERS[parts[0].lower()] if has_splits else WHOLE
            clip = Clip(path, f"{root}/{path}", (composed(parts[depth]),), split)
            (clips if is_there else missing).append(clip)
    if not clips:
        raise DataError(f"{root}: no audio files in class folders; expected such as {root.name}/dog/barking.wav")
    labels = _labels_of([*clips, *missing])
    paths = list(map("/".join, files))
    refuse_other_layouts(root, labels.names, paths)
    n_ignored = len(without_manifests(paths)) - len(clips) - len(missing)
    return Manifest(root.name, labels, tuple(clips), tuple(missing), n_ignored, tuple(doubts(labels.names)))


def _has_splits(root: Path, sounds: Iterable[tuple[str, ...]]) -> bool:
    """Whether the folders at the top that hold sound are splits; in doubt whether they are, refuse."""
    inside = [parts for parts in sounds if len(parts) > 1]
    others = [parts[0] for parts in inside if parts[0].lower() not in SPLIT_FOLDERS]
    # A class may be called `train`; with folders of its own it can hardly be one.
    splits = [parts[0] for parts in inside if parts[0].lower() in SPLIT_FOLDERS and len(parts) > 2]
    if others and splits:
        raise DataError(
            f"{root}: {splits[0]!r} looks like a split, {others[0]!r} like a class; give either CLASS/*.wav or "
            "train/CLASS/*.wav, val/CLASS/*.wav, ... with nothing but splits at the top"
        )
    return bool(inside) and not others


def _labels_of(clips: list[Clip]) -> LabelSet:
    return LabelSet.of(in_label_order(label for clip in clips for label in clip.labels))


def _read_table(table: Path, draw: SplitDraw, groups: dict[str, str]) -> Manifest:
    """Read a CSV file; add to `groups` the group of each clip id where a column names it."""
    columns, rows = read_csv_table(table)
    if not {"path", "labels"} <= set(columns):
        raise DataError(f"{table}: first line is {','.join(columns)[:80]!r}, must name the columns path and labels")
    if draw.group_column and draw.group_column not in columns:
        raise ConfigError(f"--group-column {draw.group_column}: {table} has the columns {', '.join(columns)[:120]}")
    clips: list[Clip] = []
    for number, row in enumerate(rows, start=1):
        if number > _MOST_ROWS:
            raise DataError(f"{table}: has more than {_MOST_ROWS:,} rows; write a manifest, which may have any length")
        clips.append(_clip_of(row, table, number))
        if draw.group_column:
            groups[clips[-1].clip_id] = _group_of(row, draw.group_column, table, number)
    if not clips:
        raise DataError(f"{table}: holds no clips; write one row per clip below the first line")
    _refuse_shared_files(clips, table, drawn=draw.is_asked_for)
    found: list[Clip] = []
    missing: list[Clip] = []
    for clip in clips:
        # Unlike `Path.is_file` it returns False for a name that is too long.
        (found if os.path.isfile(clip.path) else missing).append(clip)  # noqa: PTH113
    return Manifest(table.stem, _labels_of(clips), tuple(found), tuple(missing))


def _group_of(row: dict[str, str], column: str, table: Path, number: int) -> str:
    group = row[column].strip()
    if not group:
        raise DataError(f"{table}, row {number}: {column} is empty; name the group of each clip")
    return group


def _refuse_shared_files(clips: list[Clip], table: Path, *, drawn: bool) -> None:
    """Raise if one file, however its path is written, is in two splits, or in two rows of which each may be drawn."""
    first_rows: dict[str, int] = {}
    for number, clip in enumerate(clips, start=1):
        row = first_rows.setdefault(os.path.realpath(clip.path), number)
        if drawn and row != number:
            raise DataError(
                f"{table}, rows {row} and {number}: one file, which may be drawn into two splits; list it once"
            )
        if clips[row - 1].split != clip.split:
            splits = f"{clips[row - 1].split!r} and {clip.split!r}"
            raise DataError(
                f"{table}, rows {row} and {number}: one file in the splits {splits}: a leak; keep it in one"
            )


def _clip_of(row: dict[str, str], table: Path, number: int) -> Clip:
    path, labels, fold = (row.get(column, "") for column in ("path", "labels", "fold"))
    names = tuple(composed(label.strip()) for label in labels.split(LABEL_SEPARATOR) if label.strip())
    number_of_fold = whole_number(fold) if fold else None
    if not path or not names or (fold and number_of_fold is None):
        rule = "path and labels must be given, fold must be a whole number or empty"
        given = f"path {path[:80]!r}, labels {labels[:80]!r}, fold {fold[:80]!r}"
        raise DataError(f"{table}, row {number}: {given}: {rule}")
    return Clip(path, str(table.parent / path), names, row.get("split") or WHOLE, fold=number_of_fold)
