"""CSV files of unknown origin, read through one door: bounded, and every row as long as the first line, or refused."""

import csv
import io
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TextIO

from epanns.errors import DataError, EpannsError

LONGEST_LINE = 1 << 20
"""Characters of a line, its end included."""

_LONGEST_NUMBER = 9  # digits of a fold, a class index or a count


@dataclass(frozen=True)
class CsvKind:
    """What a CSV file is, for its limits and its messages.

    Attributes:
        name: With its article, as in "cannot be read as a label list".
        error: Class of the errors that are raised.
        limit: Largest length in bytes; None for a file that is read as a stream.
        need: Why `limit` is enough, in words.
        remedy: Last words of the message on a file that cannot be read; may be empty.
        blanks_after_commas: Whether blanks after a comma are left out.
    """

    name: str = "CSV"
    error: type[EpannsError] = DataError
    limit: int | None = 1 << 30
    need: str = "ten million rows of 100 bytes"
    remedy: str = ""
    blanks_after_commas: bool = False


CLIP_LIST = CsvKind()
ANY_LENGTH = CsvKind(limit=None)
SHORT_LIST = CsvKind(limit=1 << 24, need="100,000 rows of 160 bytes")


def read_csv_rows(path: Path, kind: CsvKind = CLIP_LIST) -> Iterator[list[str]]:
    """Yield the rows of a CSV file in UTF-8, with or without a byte order mark and with any line ends.

    Blank lines are left out. Memory does not grow with the file.

    Args:
        path: The file.
        kind: What it is.

    Raises:
        EpannsError: Of the kind's class, in one line, if the file cannot be read, is no regular file, is longer than
            the kind's limit, is not UTF-8, holds a NUL character, a line of more than 2**20 or a field of more than
            131,072 characters, or has a quote that is not closed.
    """
    try:
        # Opening a FIFO waits for its writer, unless it is opened without blocking.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, encoding="utf-8-sig", newline="") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise kind.error(f"{path}: cannot be read as {kind.name} (no regular file); give a file on disk")
            if kind.limit is not None and status.st_size > kind.limit:
                raise kind.error(
                    f"{path}: {status.st_size:,} bytes are too many for {kind.name}; at most {kind.limit:,} are read, "
                    f"enough for {kind.need}; give the right file"
                )
            yield from _rows(file, str(path), kind)
    except UnicodeDecodeError as failure:
        raise kind.error(f"{path}: cannot be read as {kind.name} ({failure}); save it as UTF-8") from failure
    except (OSError, ValueError) as failure:  # a path with a NUL character is a ValueError
        reason = getattr(failure, "strerror", None) or failure
        raise kind.error(f"{path}: cannot be read as {kind.name} ({reason}){_and(kind.remedy)}") from failure


def csv_rows_of(text: str, source: str, kind: CsvKind = CLIP_LIST) -> Iterator[list[str]]:
    """Yield the rows of a text in CSV by the rules of `read_csv_rows`.

    Args:
        text: The text.
        source: Its name in messages.
        kind: What it is; its limit does not count.
    """
    yield from _rows(io.StringIO(text, newline=""), source, kind)


def read_csv_table(path: Path, kind: CsvKind = CLIP_LIST) -> tuple[list[str], Iterator[dict[str, str]]]:
    """Return the column names in a CSV file's first line, and an iterator over its rows by column.

    Raises:
        EpannsError: By the rules of `read_csv_rows` and `as_table`; of the rows, when the iterator reaches them.
    """
    return as_table(read_csv_rows(path, kind), str(path), kind)


def as_table(
    rows: Iterator[list[str]], source: str, kind: CsvKind = CLIP_LIST
) -> tuple[list[str], Iterator[dict[str, str]]]:
    """Return the column names, from the first row, and an iterator over the other rows by column.

    A column without a name is left out: the first one, which some programs number the rows in, and others as long as
    they are empty.

    Args:
        rows: Those of the file.
        source: Name of the file, for messages.
        kind: What it is.

    Raises:
        EpannsError: Of the kind's class, if a column is named twice, a row has more or fewer fields than the first
            line, or a field stands in a column without a name; the row is named.
    """
    columns = next(rows, [])
    repeated = [name for name, count in Counter(map(str.strip, columns)).items() if name and count > 1]
    if repeated:
        raise kind.error(f"{source}: its first line names the column {repeated[0]!r} twice; remove or rename one")
    return columns, _by_column(rows, columns, source, kind)


def require_fields(
    row: Sequence[str], columns: Sequence[str], source: str, number: int, error: type[EpannsError] = DataError
) -> None:
    """Raise an error of class `error` unless a row has one field for each column; `number` is the row's, from 1."""
    if len(row) != len(columns):
        raise error(
            f"{source}, row {number}: has {len(row)} fields, must have {len(columns)}: {','.join(columns)[:120]}; "
            "put a field that holds a comma in quotes"
        )


def whole_number(text: str) -> int | None:
    """Return the number that at most nine digits from 0 to 9 write, or None for any other text."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _LONGEST_NUMBER else None


def _by_column(rows: Iterable[list[str]], columns: list[str], source: str, kind: CsvKind) -> Iterator[dict[str, str]]:
    unnamed = [place for place, name in enumerate(columns) if place and not name.strip()]
    for number, row in enumerate(rows, start=1):
        require_fields(row, columns, source, number, kind.error)
        for place in unnamed:
            if row[place].strip():
                raise kind.error(
                    f"{source}, row {number}: has {row[place][:40]!r} in column {place + 1}, which the first line does "
                    "not name; put a field that holds a comma in quotes, or name the column"
                )
        yield dict(zip(columns, row, strict=True))


def _rows(file: TextIO, source: str, kind: CsvKind) -> Iterator[list[str]]:
    reader = csv.reader(_lines(file, source, kind), strict=True, skipinitialspace=kind.blanks_after_commas)
    try:
        yield from filter(None, reader)
    except csv.Error as failure:
        reason = f"line {reader.line_num}: {failure}" if reader.line_num else str(failure)
        raise kind.error(f"{source}: cannot be read as {kind.name} ({reason}){_and(kind.remedy)}") from failure


def _lines(file: TextIO, source: str, kind: CsvKind) -> Iterator[str]:
    for number, line in enumerate(iter(partial(file.readline, LONGEST_LINE), ""), start=1):
        if "\0" in line:
            raise kind.error(f"{source}: cannot be read as {kind.name} (line {number} holds a NUL character)")
        if len(line) == LONGEST_LINE and not line.endswith(("\n", "\r")):
            rule = f"line {number} is longer than {LONGEST_LINE:,} characters"
            raise kind.error(f"{source}: cannot be read as {kind.name} ({rule})")
        yield line


def _and(remedy: str) -> str:
    return remedy and f"; {remedy}"
