"""The lists beside a pack's shards: of the clips without a row, and of the rows that differ from their clips."""

import csv
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from epanns import atomic
from epanns.csv_table import ANY_LENGTH, read_csv_table
from epanns.data.pack_format import NOTES, NOTES_FILE, PACK_FILE, REJECTS_FILE, PackCounts
from epanns.errors import DataError

_REJECTS = ("clip_id", "path", "reason")
_COUNTED = f"{PACK_FILE} counts"
_NOTES = ("clip_id", "path", *NOTES)


def write_rejects(pack: Path, rejects: Iterable[tuple[str, str, str]]) -> None:
    """Write clip id, path and reason of each reject."""
    _write(pack / REJECTS_FILE, _REJECTS, rejects)


def write_notes(pack: Path, notes: Iterable[tuple[str, str, Mapping[str, int]]]) -> None:
    """Write clip id, path and `NOTES` of each row that differs from its clip; a note that does not hold is 0."""
    rows = ((clip_id, path, *(held.get(name, 0) for name in NOTES)) for clip_id, path, held in notes)
    _write(pack / NOTES_FILE, _NOTES, rows)


def problem_of_rejects(pack: Path, counts: PackCounts) -> str | None:
    """Return how ``rejects.csv`` contradicts the counts of its pack.

    Raises:
        DataError: If it cannot be read.
    """
    file = pack / REJECTS_FILE
    n_rows = sum(1 for _ in _rows_of(file, _REJECTS))
    return None if n_rows == counts.rejected else f"{file}: lists {n_rows} clips, {_COUNTED} {counts.rejected} rejected"


def problem_of_notes(pack: Path, counts: PackCounts) -> str | None:
    """Return how ``notes.csv`` contradicts the counts of its pack; packs of earlier versions have none.

    Raises:
        DataError: If it cannot be read.
    """
    if counts.cut is None:
        return None
    file = pack / NOTES_FILE
    listed = dict.fromkeys(NOTES, 0)
    for row in _rows_of(file, _NOTES):
        for name in NOTES:
            listed[name] += row[name] != "0"
    for name, number in listed.items():
        if number != getattr(counts, name):
            return f"{file}: lists {number} clips as {name}, {_COUNTED} {getattr(counts, name)}"
    return None


def _write(path: Path, header: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    with atomic.replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _rows_of(path: Path, header: tuple[str, ...]) -> Iterator[dict[str, str]]:
    columns, rows = read_csv_table(path, ANY_LENGTH)
    if tuple(columns) != header:
        raise DataError(f"{path}: first line must be {','.join(header)}")
    return rows
