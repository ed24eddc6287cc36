"""Read text, TOML, JSON and CSV from untrusted files: bounded in length, nesting and numbers; errors have one line."""

import csv
import io
import json
import math
import os
import re
import stat
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from epanns.errors import ConfigError, DataError, EpannsError

LONGEST_TOML = 4 << 20  # bytes of a file
LONGEST_JSON = 8 << 20
_DEEPEST = 64  # nested tables and lists
_TOML_LIMIT = 2**63  # of whole numbers, as TOML itself has it
_JSON_LIMIT = 2**64  # larger numbers are no counts, sizes or seeds, and the largest exceed float64

_LONG_NUMBER = re.compile(r"[0-9]{20}")  # shorter numbers are below `_JSON_LIMIT`
_TOO_DEEP = f"tables and lists are nested more than {_DEEPEST} deep"
_TOO_LARGE = "a whole number does not fit in 64 bits"
_TOML_REMEDY = "correct the file"
_JSON_REMEDY = "correct the file or write it again"


class NotRegularFileError(Exception):
    """A FIFO, a device or a folder in place of a file."""


def open_regular_file(path: Path) -> BinaryIO:
    """Open a file for reading; a FIFO does not block, and nothing is read of a FIFO, a device or a folder.

    Raises:
        NotRegularFileError: If it is no regular file.
        OSError: If it cannot be opened.
        ValueError: If the path has a NUL character.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotRegularFileError(path)
    return os.fdopen(descriptor, "rb")


def read_text(path: Path, *, error: type[EpannsError], limit: int, remedy: str) -> str:
    """Return the text of a regular file in UTF-8, with or without a byte order mark; messages end with `remedy`.

    Raises:
        EpannsError: Of class `error`, if the file cannot be read, is no regular file, is longer than `limit` or is not
            UTF-8.
    """
    try:
        with open_regular_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            content = file.read(limit + 1) if size <= limit else b""
    except NotRegularFileError:
        raise error(f"{path}: no regular file: {remedy}") from None
    except (OSError, ValueError) as failure:
        raise error(f"{path}: cannot be read ({getattr(failure, 'strerror', None) or failure}): {remedy}") from failure
    if (length := max(size, len(content))) > limit:
        raise error(f"{path}: {length:,} bytes, must be at most {limit:,}: {remedy}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as failure:
        raise error(f"{path}: byte {failure.start:,} is not UTF-8: {remedy}") from failure


def read_toml(path: Path, *, error: type[EpannsError] = ConfigError) -> dict[str, Any]:
    """Return the table of a TOML file in UTF-8; errors are those of `read_text` and `parse_toml`."""
    text = read_text(path, error=error, limit=LONGEST_TOML, remedy=_TOML_REMEDY)
    return parse_toml(text, str(path), error=error)


def parse_toml(text: str, source: str, *, error: type[EpannsError] = ConfigError) -> dict[str, Any]:
    """Return the table of a TOML text; `source` names the text in messages.

    Raises:
        EpannsError: Of class `error`, if the text is not TOML, has a whole number beyond 64 bits, or nests more than 64
            tables and lists.
    """
    try:
        table = tomllib.loads(text)
        too_large = any(type(item) is int and not -_TOML_LIMIT <= item < _TOML_LIMIT for item in _items_of(table))
        reason = _TOO_LARGE if too_large else ""
    except RecursionError:
        reason = _TOO_DEEP
    except tomllib.TOMLDecodeError as failure:
        reason = " ".join(str(failure).split())
    except ValueError as failure:  # nested too deeply, or a number of thousands of digits
        reason = _TOO_DEEP if _TOO_DEEP in failure.args else _TOO_LARGE
    if reason:
        raise error(f"{source}: cannot be read as TOML ({reason}): {_TOML_REMEDY}")
    return table


def read_json(path: Path, *, error: type[EpannsError], limit: int = LONGEST_JSON, remedy: str = _JSON_REMEDY) -> Any:
    """Return the value of a JSON file in UTF-8; errors are those of `read_text` and `parse_json`."""
    return parse_json(read_text(path, error=error, limit=limit, remedy=remedy), str(path), error=error, remedy=remedy)


def parse_json(text: str, source: str, *, error: type[EpannsError], remedy: str = _JSON_REMEDY) -> Any:
    """Return the value of a JSON text; messages begin with `source` and end with `remedy`.

    Raises:
        EpannsError: Of class `error`, if the text is not JSON, or has NaN, infinity, a float beyond float64, a whole
            number of 2**64 or more, a key twice in one table, a lone surrogate, or more than 64 nested tables and
            lists.
    """
    try:
        # Most texts, such as the lines of a journal, need neither each number nor each item to be checked in Python.
        integer = _number if _LONG_NUMBER.search(text) else int
        value = json.loads(
            text, object_pairs_hook=_table, parse_constant=_number, parse_float=_number, parse_int=integer
        )
        is_flat = text.count("{") + text.count("[") <= _DEEPEST and text.isascii() and "\\u" not in text
        for item in () if is_flat else _items_of(value):
            if isinstance(item, str) and not item.isascii() and any("\ud800" <= letter <= "\udfff" for letter in item):
                raise ValueError(f"{_shown(item)} has a lone surrogate")  # which no encoding can write
    except RecursionError:
        raise error(f"{source}: cannot be read as JSON ({_TOO_DEEP}): {remedy}") from None
    except ValueError as failure:  # of json.loads and of the functions below
        raise error(f"{source}: cannot be read as JSON ({failure}): {remedy}") from failure
    return value


def _items_of(value: Any) -> Iterator[Any]:
    """Yield a value, the keys and values of its tables and the items of its lists, level by level.

    Raises:
        ValueError: If tables and lists are nested too deeply.
    """
    level = [value]
    for depth in range(_DEEPEST + 1):
        inner: list[Any] = []
        for item in level:
            yield item
            if isinstance(item, dict):
                inner += [*item, *item.values()]
            elif isinstance(item, list):
                inner += item
            if depth == _DEEPEST and isinstance(item, dict | list):
                raise ValueError(_TOO_DEEP)
        level = inner


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        seen = set[str]()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {_shown(twice)} occurs twice in one table")
    return table


def _number(digits: str) -> int | float:
    """Return the number of a JSON text, or raise ValueError if it is beyond the range that files may have."""
    if digits in ("NaN", "Infinity", "-Infinity"):
        raise ValueError(f"{digits} is no number of JSON")
    if digits.removeprefix("-").isdigit():
        # Lengths are compared first: Python refuses to convert thousands of digits, with a hint for programmers.
        if len(digits) > 21 or abs(int(digits)) >= _JSON_LIMIT:
            raise ValueError(f"{_shown(digits)} is a whole number of 2**64 or more")
        return int(digits)
    if not math.isfinite(float(digits)):
        raise ValueError(f"{_shown(digits)} is beyond the range of float64")
    return float(digits)


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 40 else text[:40] + "...")


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
        delimiter: The character between two fields.
    """

    name: str = "CSV"
    error: type[EpannsError] = DataError
    limit: int | None = 1 << 30
    need: str = "ten million rows of 100 bytes"
    remedy: str = ""
    blanks_after_commas: bool = False
    delimiter: str = ","

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

    reader = csv.reader(lines(), strict=True, skipinitialspace=kind.blanks_after_commas, delimiter=kind.delimiter)
    try:
        yield from filter(None, reader)
    except csv.Error as failure:
        reason = f"line {reader.line_num}: {failure}" if reader.line_num else str(failure)
        raise kind.unreadable(source, reason) from failure
