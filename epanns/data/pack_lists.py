"""The lists beside a pack's shards: of the clips without a row, and of the rows that differ from their clips."""

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

from epanns import atomic
from epanns.data.pack_format import NOTES_FILE, REJECTS_FILE, PackCounts

_REJECTS = ("clip_id", "path", "reason")
_NOTES = ("clip_id", "path", "padded", "cut", "silent", "clipped_samples")
LIST_ERRORS = (OSError, ValueError, csv.Error)  # of a list that is gone or damaged


def write_rejects(pack: Path, rejects: Iterable[tuple[str, str, str]]) -> None:
    """Write clip id, path and reason of each reject."""
    _write(pack / REJECTS_FILE, _REJECTS, rejects)


def write_notes(pack: Path, notes: Iterable[tuple[str, str, int, int, int, int]]) -> None:
    """Write each row that is not its clip as it was.

    Args:
        pack: The pack's folder.
        notes: Clip id and path; 1 or 0 for padded, cut and silent; the number of samples that were limited.
    """
    _write(pack / NOTES_FILE, _NOTES, notes)


def problem_of_rejects(pack: Path, counts: PackCounts) -> str | None:
    """Return how ``rejects.csv`` contradicts the counts of its pack.

    Raises:
        OSError, ValueError, csv.Error: If it cannot be read; see `LIST_ERRORS`.
    """
    n_rows = sum(1 for _ in _rows_of(pack / REJECTS_FILE, _REJECTS))
    return None if n_rows == counts.rejected else f"lists {n_rows} clips, pack.json counts {counts.rejected} rejected"


def problem_of_notes(pack: Path, counts: PackCounts) -> str | None:
    """Return how ``notes.csv`` contradicts the counts of its pack; packs of earlier versions have none.

    Raises:
        OSError, ValueError, csv.Error: If it cannot be read; see `LIST_ERRORS`.
    """
    if counts.cut is None:
        return None
    names = ("padded", "cut", "silent", "clipped")
    counted = (counts.short, counts.cut, counts.silent, counts.clipped)
    listed = [0] * len(names)
    for row in _rows_of(pack / NOTES_FILE, _NOTES):
        for column, value in enumerate(row[2:]):
            listed[column] += int(value) > 0
    for name, n_listed, n_counted in zip(names, listed, counted, strict=True):
        if n_listed != n_counted:
            return f"lists {n_listed} clips as {name}, pack.json counts {n_counted}"
    return None


def _write(path: Path, header: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    with atomic.replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _rows_of(path: Path, header: tuple[str, ...]) -> Iterator[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.reader(file)):
            if number == 0 and tuple(row) != header:
                raise ValueError(f"first line must be {','.join(header)}")
            if len(row) != len(header):
                raise ValueError(f"line {number + 1} has {len(row)} fields, must have {len(header)}")
            if number:
                yield row
