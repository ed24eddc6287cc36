"""JSON of unknown origin, read through one door: bounded in length, depth and numbers, or refused in one line."""

import json
import math
from pathlib import Path
from typing import Any

from epanns.errors import EpannsError
from epanns.text_file import read_text

LONGEST = 8 << 20  # bytes of a file; what epanns writes is shorter by far
_DEEPEST = 64  # tables and lists in each other
_LARGEST = 2**64  # whole numbers beyond it are no counts, sizes or seeds, and no float can hold the longest ones

_REMEDY = "correct the file or write it again"


def read_json(path: Path, *, error: type[EpannsError], limit: int = LONGEST, remedy: str = _REMEDY) -> Any:
    """Return the value of a JSON file.

    Args:
        path: The file, in UTF-8.
        error: Class of the error to raise.
        limit: Largest length of the file, in bytes.
        remedy: The last words of each message: what to do.

    Raises:
        EpannsError: Of class `error`, in one line, if the file cannot be read or breaks a rule of `parse_json`.
    """
    return parse_json(read_text(path, error=error, limit=limit, remedy=remedy), str(path), error=error, remedy=remedy)


def parse_json(text: str, source: str, *, error: type[EpannsError], remedy: str = _REMEDY) -> Any:
    """Return the value of a JSON text.

    Stricter than `json.loads`: NaN, infinity, floats beyond float64, whole numbers of 2**64 and more, a key that a
    table has twice, half a character (a lone surrogate, which cannot be printed) and more than 64 tables and lists in
    each other are refused.

    Args:
        text: The text.
        source: Name of the text in messages, such as its path or its path and line.
        error: Class of the error to raise.
        remedy: The last words of each message: what to do.

    Raises:
        EpannsError: Of class `error`, in one line, if the text is not JSON or breaks a rule.
    """
    try:
        value = json.loads(
            text, object_pairs_hook=_table, parse_constant=_constant, parse_float=_finite, parse_int=_bounded
        )
        _check(value)
    except RecursionError as failure:
        raise error(f"{source}: cannot be read as JSON ({_too_deep()}): {remedy}") from failure
    except ValueError as failure:  # of json.loads and of the functions below
        raise error(f"{source}: cannot be read as JSON ({failure}): {remedy}") from failure
    return value


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        seen = set[str]()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {_shown(twice)} stands twice in one table")
    return table


def _constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{_shown(digits)} is beyond the range of float64")
    return value


def _bounded(digits: str) -> int:
    # Lengths are compared first: Python refuses to convert thousands of digits, with a hint for programmers.
    if len(digits) > 21 or abs(value := int(digits)) >= _LARGEST:
        raise ValueError(f"{_shown(digits)} is a whole number of 2**64 or more")
    return value


def _check(value: Any) -> None:
    """Refuse what is nested too deep and text that cannot be encoded, without recursion."""
    level = [value]
    for depth in range(_DEEPEST + 1):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, str):
                _check_text(item)
            elif isinstance(item, dict | list) and depth == _DEEPEST:
                raise ValueError(_too_deep())
            elif isinstance(item, dict):
                inner += [*item, *item.values()]
            elif isinstance(item, list):
                inner += item
        level = inner


def _check_text(text: str) -> None:
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(f"{_shown(text)} holds half a character")


def _too_deep() -> str:
    return f"more than {_DEEPEST} tables and lists in each other"


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 40 else text[:40] + "...")
