"""Read a CSV file with one row per clip and any column names into a manifest."""

import fnmatch
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from epanns.data.clip import LABEL_SEPARATOR, Clip
from epanns.data.datasets.splits import UNSPLIT, SplitSettings, notes_on_groups
from epanns.data.manifest import Manifest, read_seconds
from epanns.errors import ConfigError, DataError, did_you_mean
from epanns.labels import LabelSet, composed, in_label_order
from epanns.strict import ANY_TEXT, TEXT, Rule, check_fields, list_of, shown
from epanns.text_files import CLIP_LIST, read_csv_table

_MOST_ROWS = 10_000_000
_FOLD = re.compile(r"(?:fold)?[\W_]*([0-9]{1,9})", re.IGNORECASE)
_IS_CLASS = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False, "": False}
_PLAIN = {"path_column": "path", "split_column": "split", "fold_column": "fold"}  # default names
_PLAIN_LABELS = "labels"
_COLUMNS = list_of(TEXT, "names of columns")
TABLE_FORM_RULES: Mapping[str, Rule] = {
    "path_column": ANY_TEXT,
    "label_column": _COLUMNS,
    "one_hot_column": _COLUMNS,
    "label_separator": TEXT,
    "split_column": ANY_TEXT,
    "fold_column": ANY_TEXT,
    "start_column": ANY_TEXT,
    "duration_column": ANY_TEXT,
    "audio_root": ANY_TEXT,
}


@dataclass(frozen=True)
class TableForm:
    """How a CSV file lists clips; a name of a column that is empty stands for the default.

    Attributes:
        path_column: Column of the audio files' paths; default: ``path``.
        label_column: Columns of the classes, each with one or several; default: ``labels``, unless `one_hot_column` is
            given.
        one_hot_column: Columns with 1 for clips of a class and 0 or nothing for others, or patterns with ``*`` that
            match several. The name of such a column is the class.
        label_separator: Separates classes in a label column.
        split_column: Column of the splits; default: ``split``, if there is one.
        fold_column: Column of the folds' numbers, also as ``fold3``; default: ``fold``, if there is one. Without a
            split column, each fold is a split.
        start_column: Column of each clip's start in its file, in seconds, which may be empty; default: none.
        duration_column: Column of each clip's duration in seconds, which may be empty; default: none.
        audio_root: Folder that paths are relative to; default: the folder of the CSV file.

    Raises:
        ConfigError: If a value has another type, or the separator is empty.
    """

    path_column: str = ""
    label_column: tuple[str, ...] = ()
    one_hot_column: tuple[str, ...] = ()
    label_separator: str = LABEL_SEPARATOR
    split_column: str = ""
    fold_column: str = ""
    start_column: str = ""
    duration_column: str = ""
    audio_root: str = ""

    def __post_init__(self) -> None:
        check_fields(self, TABLE_FORM_RULES)


def read_table(table: Path, form: TableForm, settings: SplitSettings, groups: dict[str, str]) -> Manifest:
    """Read a CSV file, or a TSV file by its suffix.

    Args:
        table: The file.
        form: Its columns.
        settings: How splits are drawn of its clips.
        groups: Receives the group of each clip id, if `settings` has a group column or clips are parts of files.

    Raises:
        DataError: If there are no clips, a row is invalid, or a file is in two splits.
        ConfigError: If a column does not exist.
    """
    columns, rows = read_csv_table(table, replace(CLIP_LIST, delimiter="\t" if table.suffix == ".tsv" else ","))
    form = _with_names(form, columns, table, settings.group_column)
    clips = list(_clips(rows, form, table, settings, groups))
    if not clips:
        raise DataError(f"{table}: holds no clips; write one row per clip below the first line")
    first_rows: dict[tuple[str, float | None, float | None], int] = {}
    found: list[Clip] = []
    missing: list[Clip] = []
    for number, clip in enumerate(clips, start=1):
        row = first_rows.setdefault((os.path.realpath(clip.path), clip.start, clip.duration), number)
        where = f"{table}, rows {row} and {number}"
        if settings.held_out and row != number:
            raise DataError(f"{where}: one file, which may be drawn into two splits; list it once")
        if clips[row - 1].split != clip.split:
            splits = f"{clips[row - 1].split!r} and {clip.split!r}"
            raise DataError(f"{where}: one file in the splits {splits}: a leak; keep it in one")
        # Unlike `Path.is_file` it returns False for a name that is too long.
        (found if os.path.isfile(clip.path) else missing).append(clip)  # noqa: PTH113
    one_hot = [composed(column) for column in form.one_hot_column]
    others = {label for clip in clips for label in clip.labels} - set(one_hot)
    manifest = Manifest(table.stem, LabelSet.of([*one_hot, *in_label_order(others)]), tuple(found), tuple(missing))
    notes = notes_on_groups(manifest, {clip.clip_id: clip.path for clip in clips}, "file")
    if not found:
        remedy = "correct the column, or name the folder that paths are relative to with --audio-root"
        notes = (*notes, f"no file was found; the first would be {missing[0].path}: {remedy}")
    return replace(manifest, notes=notes)


def _with_names(form: TableForm, columns: Sequence[str], table: Path, group_column: str) -> TableForm:
    """Return the form with the names of the columns that are read, or raise if one does not exist."""
    listed = ", ".join(columns)[:120]
    given = {name: getattr(form, name) for name in ("path_column", "split_column", "fold_column")}
    given |= {"start_column": form.start_column, "duration_column": form.duration_column, "group_column": group_column}
    named = [(option, name) for option, name in given.items() if name]
    named += [("label_column", name) for name in form.label_column]
    for option, name in named:
        if name not in columns:
            shown_option = f"--{option.replace('_', '-')} {name}{did_you_mean(name, columns)}"
            raise ConfigError(f"{shown_option}: {table} has the columns {listed}")
    labels = form.label_column or (() if form.one_hot_column else (_PLAIN_LABELS,))
    wanted = (form.path_column or _PLAIN["path_column"], *labels)
    lacking = [f"{name}{did_you_mean(name, columns)}" for name in wanted if name not in columns]
    if lacking:
        raise DataError(
            f"{table}: first line is {','.join(columns)[:80]!r}, must name the columns path and labels, lacks "
            f"{' and '.join(lacking)}; name other columns with --path-column and --label-column"
        )
    names = {option: given[option] or (plain if plain in columns else "") for option, plain in _PLAIN.items()}
    read = {*names.values(), *given.values(), *labels}
    one_hot = tuple(
        dict.fromkeys(
            name
            for pattern in form.one_hot_column
            for name in _matching(pattern, [column for column in columns if column not in read], table)
        )
    )
    return replace(form, **names, label_column=labels, one_hot_column=one_hot)


def _matching(pattern: str, columns: Sequence[str], table: Path) -> list[str]:
    found = [pattern] if pattern in columns else fnmatch.filter(columns, pattern)
    if not found:
        raise ConfigError(
            f"--one-hot-column {pattern}{did_you_mean(pattern, columns)}: matches none of the other columns of "
            f"{table}: {', '.join(columns)[:120]}"
        )
    return found


def _clips(
    rows: Iterable[Mapping[str, str]], form: TableForm, table: Path, settings: SplitSettings, groups: dict[str, str]
) -> Iterator[Clip]:
    """Yield the clips, and add their groups to `groups`."""
    root = Path(form.audio_root).resolve() if form.audio_root else table.parent
    for number, row in enumerate(rows, start=1):
        if number > _MOST_ROWS:
            raise DataError(f"{table}: has more than {_MOST_ROWS:,} rows; write a manifest, which may have any length")
        where = f"{table}, row {number}"
        path, fold = row[form.path_column], row.get(form.fold_column, "")
        names = _labels(row, form, where)
        match = _FOLD.fullmatch(fold)
        if not path or not names or (fold and not match):
            labels = LABEL_SEPARATOR.join(row[column] for column in form.label_column)
            rule = "path and labels must be given, fold must be a whole number or empty"
            raise DataError(f"{where}: path {path[:80]!r}, labels {labels[:80]!r}, fold {fold[:80]!r}: {rule}")
        start, duration = (
            _seconds(row, column, least, where)
            for column, least in ((form.start_column, 0.0), (form.duration_column, 1e-6))
        )
        clip_id = path
        if start is not None or duration is not None:
            clip_id += f"@{start or 0.0!r}" + ("" if duration is None else f"+{duration!r}")
            groups[clip_id] = path
        if settings.group_column:
            groups[clip_id] = row[settings.group_column].strip()
            if not groups[clip_id]:
                raise DataError(f"{where}: {settings.group_column} is empty; name the group of each clip")
        of_fold = f"fold{int(match[1])}" if match and not form.split_column and not settings.held_out else UNSPLIT
        split = row.get(form.split_column) or of_fold
        yield Clip(clip_id, str(root / path), names, split, start, duration, int(match[1]) if match else None)


def _labels(row: Mapping[str, str], form: TableForm, where: str) -> tuple[str, ...]:
    """Return the classes of one row: of the one-hot columns, then of the label columns."""
    names = []
    for column in form.one_hot_column:
        is_class = _IS_CLASS.get(row[column].strip().lower())
        if is_class is None:
            raise DataError(
                f"{where}: {column} is {shown(row[column])}, must be 1 for clips of this class, 0 for others"
            )
        if is_class:
            names.append(composed(column))
    if form.one_hot_column and not form.label_column and not names:
        raise DataError(
            f"{where}: no class is 1; a clip needs a class: remove the row, or add a column such as none for such clips"
        )
    for column in form.label_column:
        names += [composed(label.strip()) for label in row[column].split(form.label_separator) if label.strip()]
    return tuple(names)


def _seconds(row: Mapping[str, str], column: str, least: float, where: str) -> float | None:
    if not column or not row[column].strip():
        return None
    try:
        return read_seconds(row[column], column, least=least)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error
