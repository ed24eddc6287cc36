"""Read text, TOML and JSON from untrusted files: bounded in length, nesting and numbers, or one error of one line."""

import json
import math
import os
import re
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from epanns.errors import ConfigError, EpannsError

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
    """Return the text of a regular file in UTF-8, with or without a byte order mark.

    Args:
        path: The file.
        error: Class of the error.
        limit: Largest size of the file in bytes; a longer file is not read.
        remedy: End of each message: what to do.

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
    """Return the table of a TOML text.

    Args:
        text: The text.
        source: Name of the text in messages, such as its path.
        error: Class of the error.

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
    """Return the value of a JSON text.

    Args:
        text: The text.
        source: Name of the text in messages, such as its path, or its path and line.
        error: Class of the error.
        remedy: End of each message: what to do.

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
