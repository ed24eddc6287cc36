"""TOML of unknown origin, read in one place: bounded in length, depth and numbers, or refused in one line."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from epanns.errors import ConfigError, EpannsError
from epanns.text_file import read_text

LONGEST = 4 << 20  # bytes of a file
_DEEPEST = 64  # levels of tables and lists
_LARGEST = 2**63  # TOML's own limit of whole numbers

_TOO_LARGE = "a whole number does not fit in 64 bits"
_TOO_DEEP = f"more than {_DEEPEST} tables and lists in each other"


def read_toml(path: Path, *, error: type[EpannsError] = ConfigError) -> dict[str, Any]:
    """Return the table of a TOML file.

    Args:
        path: The file, in UTF-8.
        error: Class of the error to raise.

    Raises:
        EpannsError: Of class `error`, in one line, if the file cannot be read or breaks a rule of `parse_toml`.
    """
    return parse_toml(read_text(path, error=error, limit=LONGEST, remedy="correct the file"), str(path), error=error)


def parse_toml(text: str, source: str, *, error: type[EpannsError] = ConfigError) -> dict[str, Any]:
    """Return the table of a TOML text.

    Stricter than `tomllib.loads`: whole numbers beyond 64 bits and more than 64 levels of tables and lists are refused.

    Args:
        text: The text.
        source: Name of the text in messages, such as its path.
        error: Class of the error to raise.

    Raises:
        EpannsError: Of class `error`, in one line, if the text is not TOML or breaks a rule.
    """
    try:
        table = tomllib.loads(text)
        reason = _extreme(table)
    except RecursionError:
        reason = _TOO_DEEP
    except tomllib.TOMLDecodeError as failure:
        reason = " ".join(str(failure).split())
    except ValueError:  # Python refuses to convert thousands of digits
        reason = _TOO_LARGE
    if reason:
        raise error(f"{source}: cannot be read as TOML ({reason}): correct the file")
    return table


def _extreme(table: Mapping[str, Any]) -> str:
    """Return which limit a table exceeds, or nothing; without recursion."""
    level: list[Any] = [table]
    for _ in range(_DEEPEST + 1):
        if any(type(item) is int and not -_LARGEST <= item < _LARGEST for item in level):
            return _TOO_LARGE
        level = [
            inner
            for item in level
            if isinstance(item, dict | list)
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
    return _TOO_DEEP if level else ""
