"""Read the tables of data sets with cross-validation folds, and turn folds into the splits train, val and test."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from epanns.data.manifest import Manifest
from epanns.errors import ConfigError, DataError, did_you_mean
from epanns.labels import LabelSet, composed, in_label_order
from epanns.text_files import SHORT_LIST, read_csv_table, whole_number


@dataclass(frozen=True)
class FoldColumns:
    """Names of the columns of a table of clips, folds and classes.

    Attributes:
        filename: Name of each clip's file.
        fold: Number of each clip's fold.
        category: Name of each clip's class.
        number: Number of the class, which orders the classes; the column may be absent.
        recording: Recording that the clip is cut from; the column may be absent.
    """

    filename: str
    fold: str
    category: str
    number: str
    recording: str = ""


@dataclass(frozen=True)
class ListedClip:
    """One row of the table.

    Attributes:
        filename: Name of the file.
        fold: Number of the fold.
        category: Name of the class.
        number: Number of the class; None if the table has no such column.
        recording: The recording; empty if the table has no such column.
        where: File and row, for messages.
    """

    filename: str
    fold: int
    category: str
    number: int | None
    recording: str
    where: str


def read_fold_table(
    folder: Path, usual: str, columns: FoldColumns, layout: str
) -> tuple[list[ListedClip], LabelSet, Path]:
    """Read the table of clips in a folder.

    Args:
        folder: Folder with the table.
        usual: Usual name of the table; without such a file, the only CSV file of the folder is read.
        columns: Names of its columns.
        layout: Name of the layout with its possessive, for messages: ``ESC-50's``.

    Returns:
        The rows; the classes in the order of their numbers, or of their names without numbers; and the table's path.

    Raises:
        DataError: If there is not one table, it lacks a column, or a row is invalid.
    """
    tables = [folder / usual]
    if not tables[0].is_file():
        tables = sorted(path for path in folder.glob("*.csv") if not path.name.startswith("."))
    if len(tables) != 1:
        found = ", ".join(table.name for table in tables) or "none"
        raise DataError(f"{folder}: must hold {usual} or exactly one CSV file, found {found}")
    names, rows = read_csv_table(tables[0], SHORT_LIST)
    needed = (columns.filename, columns.fold, columns.category)
    require_columns(tables[0], names, needed, layout)
    listed: list[ListedClip] = []
    numbers: dict[str, int] = {}  # class -> number
    for place, row in enumerate(rows, start=1):
        where = f"{tables[0]}, row {place}"
        filename, fold, category = row[columns.filename], row[columns.fold], composed(row[columns.category])
        number_of_fold = whole_number(fold)
        if not filename or not category or number_of_fold is None:
            given = ", ".join(f"{name} {row[name][:80]!r}" for name in (needed[0], needed[2], needed[1]))
            raise DataError(f"{where}: {given}: give all three, the fold as a whole number")
        text = row.get(columns.number) or ""
        number = whole_number(text or "0")
        if number is None or numbers.setdefault(category, number) != number:
            raise DataError(f"{where}: {columns.number} {text[:40]!r} of {category[:80]!r}: one number per category")
        recording = row.get(columns.recording, "")
        listed.append(ListedClip(filename, number_of_fold, category, number if text else None, recording, where))
    labels = LabelSet.of(sorted(in_label_order(numbers), key=numbers.__getitem__))  # without numbers, by name
    return listed, labels, tables[0]


def require_columns(table: Path, columns: Sequence[str], needed: Sequence[str], layout: str) -> None:
    """Raise `DataError` unless a table of a published layout has some columns; the message has the nearest names."""
    lacking = [f"{column}{did_you_mean(column, columns)}" for column in needed if column not in columns]
    if lacking:
        raise DataError(f"{table}: no column {', '.join(lacking)}; {layout} layout has {','.join(needed)}")


def with_fold_splits(manifest: Manifest, val_fold: int | None, test_fold: int | None) -> Manifest:
    """Return the data set with the splits ``train``, ``val`` and ``test`` instead of a split for each fold.

    Args:
        manifest: A data set in which each fold is a split.
        val_fold: Fold that becomes the split ``val``; None for no such split.
        test_fold: Fold that becomes the split ``test``. With neither, the data set is returned as it is.

    Raises:
        ConfigError: If a fold does not exist, both are the same, or clips are in other splits than those of folds.
    """
    if val_fold is None and test_fold is None:
        return manifest
    listed = (*manifest.clips, *manifest.missing)
    folds = sorted({clip.fold for clip in listed if clip.fold is not None})
    for option, fold in (("--val-fold", val_fold), ("--test-fold", test_fold)):
        if fold is not None and fold not in folds:
            held = f"has the folds {', '.join(map(str, folds))}" if folds else "has no folds"
            raise ConfigError(f"{option} {fold}: {manifest.dataset} {held}")
    if others := sorted({clip.split for clip in listed if clip.split != f"fold{clip.fold}"}):
        raise ConfigError(
            f"--val-fold and --test-fold: {manifest.dataset} has clips in other splits than its folds "
            f"({', '.join(others)[:120]}); leave them out, or give each clip a fold and no split"
        )
    if val_fold == test_fold:
        raise ConfigError(f"--val-fold and --test-fold are both {val_fold}: choose on one fold, report on another")
    split_of = dict.fromkeys(folds, "train") | {val_fold: "val", test_fold: "test"}
    clips, missing = (
        tuple(replace(clip, split=split_of[clip.fold]) for clip in part) for part in (manifest.clips, manifest.missing)
    )
    return replace(manifest, clips=clips, missing=missing)
