"""The lists beside a pack's shards: of the clips without a row, and of the rows that differ from their clips."""

import csv
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from epanns import atomic
from epanns.data.pack_format import NOTES, NOTES_FILE, REJECTS_FILE, PackCounts

_REJECTS = ("clip_id", "path", "reason")
_NOTES = ("clip_id", "path", *NOTES)
LIST_ERRORS = (OSError, ValueError, csv.Error)  # of a list that is gone or damaged


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
    listed = dict.fromkeys(NOTES, 0)
    for row in _rows_of(pack / NOTES_FILE, _NOTES):
        for name, value in zip(NOTES, row[2:], strict=True):
            listed[name] += int(value) > 0
    for name, number in listed.items():
        if number != getattr(counts, name):
            return f"lists {number} clips as {name}, pack.json counts {getattr(counts, name)}"
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
