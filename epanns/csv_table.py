"""Read CSV files of unknown origin: bounded, in UTF-8, and every row as long as the first line."""

import csv
import io
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TextIO

from epanns.errors import DataError, EpannsError
from epanns.text_files import NotRegularFileError, open_regular_file

LONGEST_LINE = 1 << 20
"""Characters of a line, its end included."""

_LONGEST_NUMBER = 9  # digits of a fold, a class index or a count


@dataclass(frozen=True)
class CsvKind:
    """Limits and wording of the messages for one kind of CSV file.

    Attributes:
        name: With its article, as in "cannot be read as a label list".
        error: Class of the errors.
        limit: Largest size in bytes; None for a file of any size, which is read as a stream.
        need: Why `limit` is enough.
        remedy: End of the message about a file that cannot be read; may be empty.
        blanks_after_commas: Whether blanks after a comma are ignored.
    """

    name: str = "CSV"
    error: type[EpannsError] = DataError
    limit: int | None = 1 << 30
    need: str = "ten million rows of 100 bytes"
    remedy: str = ""
    blanks_after_commas: bool = False

    def unreadable(self, source: object, reason: object) -> EpannsError:
        """Return the error about a file that cannot be read for a reason."""
        remedy = f"; {self.remedy}" if self.remedy else ""
        return self.error(f"{source}: cannot be read as {self.name} ({reason}){remedy}")


CLIP_LIST = CsvKind()
ANY_LENGTH = CsvKind(limit=None)
SHORT_LIST = CsvKind(limit=1 << 24, need="100,000 rows of 160 bytes")


def read_csv_rows(path: Path, kind: CsvKind = CLIP_LIST) -> Iterator[list[str]]:
    """Yield the rows of a CSV file in UTF-8, with or without a byte order mark and with any line ends.

    Blank lines are skipped. Memory does not grow with the file.

    Raises:
        EpannsError: Of the kind's class, if the file cannot be read, is no regular file, is longer than the kind's
            limit, is not UTF-8, has a NUL character, a line of more than 2**20 or a field of more than 131,072
            characters, or has a quote that is not closed.
    """
    try:
        with open_regular_file(path) as content, io.TextIOWrapper(content, "utf-8-sig", newline="") as file:
            size = os.fstat(content.fileno()).st_size
            if kind.limit is not None and size > kind.limit:
                raise kind.error(
                    f"{path}: {size:,} bytes are too many for {kind.name}; at most {kind.limit:,} are read, "
                    f"enough for {kind.need}; give the right file"
                )
            yield from _rows(file, str(path), kind)
    except NotRegularFileError:
        raise kind.error(f"{path}: cannot be read as {kind.name} (no regular file); give a file on disk") from None
    except UnicodeDecodeError as failure:
        raise kind.error(f"{path}: cannot be read as {kind.name} ({failure}); save it as UTF-8") from failure
    except (OSError, ValueError) as failure:  # a path with a NUL character is a ValueError
        raise kind.unreadable(path, getattr(failure, "strerror", None) or failure) from failure


def csv_rows_of(text: str, source: str, kind: CsvKind = CLIP_LIST) -> Iterator[list[str]]:
    """Yield the rows of a CSV text named `source`, by the rules of `read_csv_rows` without the limit."""
    yield from _rows(io.StringIO(text, newline=""), source, kind)


def read_csv_table(path: Path, kind: CsvKind = CLIP_LIST) -> tuple[list[str], Iterator[dict[str, str]]]:
    """Return the column names in a CSV file's first line, and an iterator over its rows by column.

    Raises:
        EpannsError: By the rules of `read_csv_rows` and `as_table`; errors of rows are raised by the iterator.
    """
    return as_table(read_csv_rows(path, kind), str(path), kind)


def as_table(
    rows: Iterator[list[str]], source: str, kind: CsvKind = CLIP_LIST
) -> tuple[list[str], Iterator[dict[str, str]]]:
    """Return the column names, from the first row, and an iterator over the other rows by column.

    `source` names the file in messages. A first column without a name is ignored, because some programs number the rows
    in it; another column without a name must be empty.

    Raises:
        EpannsError: Of the kind's class, if a column name occurs twice, a row has more or fewer fields than the first
            line, or a column without a name holds a value; the message gives the row.
    """
    columns = next(rows, [])
    repeated = [name for name, count in Counter(map(str.strip, columns)).items() if name and count > 1]
    if repeated:
        raise kind.error(f"{source}: its first line names the column {repeated[0]!r} twice; remove or rename one")

    def by_column() -> Iterator[dict[str, str]]:
        unnamed = [place for place, name in enumerate(columns) if place and not name.strip()]
        for number, row in enumerate(rows, start=1):
            require_fields(row, columns, source, number, kind.error)
            for place in unnamed:
                if row[place].strip():
                    raise kind.error(
                        f"{source}, row {number}: has {row[place][:40]!r} in column {place + 1}, which the first line "
                        "does not name; put a field that holds a comma in quotes, or name the column"
                    )
            yield dict(zip(columns, row, strict=True))

    return columns, by_column()


def require_fields(
    row: Sequence[str], columns: Sequence[str], source: str, number: int, error: type[EpannsError] = DataError
) -> None:
    """Raise an error of class `error` unless a row has one field for each column; rows are numbered from 1."""
    if len(row) != len(columns):
        raise error(
            f"{source}, row {number}: has {len(row)} fields, must have {len(columns)}: {','.join(columns)[:120]}; "
            "put a field that holds a comma in quotes"
        )


def whole_number(text: str) -> int | None:
    """Return the number that one to nine decimal digits represent, or None for any other text."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _LONGEST_NUMBER else None


def _rows(file: TextIO, source: str, kind: CsvKind) -> Iterator[list[str]]:
    def lines() -> Iterator[str]:
        for number, line in enumerate(iter(partial(file.readline, LONGEST_LINE), ""), start=1):
            if "\0" in line:
                raise kind.error(f"{source}: cannot be read as {kind.name} (line {number} holds a NUL character)")
            if len(line) == LONGEST_LINE and not line.endswith(("\n", "\r")):
                rule = f"line {number} is longer than {LONGEST_LINE:,} characters"
                raise kind.error(f"{source}: cannot be read as {kind.name} ({rule})")
            yield line

    reader = csv.reader(lines(), strict=True, skipinitialspace=kind.blanks_after_commas)
    try:
        yield from filter(None, reader)
    except csv.Error as failure:
        reason = f"line {reader.line_num}: {failure}" if reader.line_num else str(failure)
        raise kind.unreadable(source, reason) from failure
