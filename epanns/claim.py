"""An output folder belongs to one configuration: the same goes on in it, another is refused."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from epanns.atomic import is_free_for, write_json
from epanns.errors import OutputError

Value = TypeVar("Value")
_ABSENT: Any = object()  # what is at its default may be left out of a configuration


@dataclass(frozen=True)
class Work:
    """How the errors about a folder speak of what is done in it.

    Attributes:
        absent: Said of a folder with something else in it, as ``is no training run``.
        held: Said of one of another configuration, before the first difference, as ``holds a run with``.
        to_choose: What can be done about another configuration.
        to_replace: What can be done about a file that cannot be read.
    """

    absent: str
    held: str
    to_choose: str = "repeat its options to go on, --fresh to start over, or another --out"
    to_replace: str = "give --fresh or another --out"


def claim(
    file: Path,
    asked: Mapping[str, Any],
    work: Work,
    *,
    first: Mapping[str, Any],
    read: Callable[[Any], tuple[Any, Value]],
) -> Value | None:
    """Claim the folder of `file` for a configuration, or find it claimed for the same one.

    Args:
        file: The first file of the folder, JSON, which says what the folder belongs to.
        asked: The configuration, in JSON values.
        work: The words of the errors.
        first: What is written to the file if the folder is free: not there, or empty.
        read: Returns the configuration and a value of its own from the file's content; what is wrong is an
            AttributeError, KeyError, TypeError or ValueError.

    Returns:
        The value that `read` gave, None if the folder was free.

    Raises:
        OutputError: If the folder belongs to another configuration, or holds something else.
    """
    if not file.exists():
        if is_free_for(file):
            write_json(file, first)
            return None
        require_claimable(file, work)
    return require_same(file, asked, work, read=read)


def require_claimable(file: Path, work: Work) -> None:
    """Refuse a folder that is neither free nor claimed by its first file; call it before long work.

    Raises:
        OutputError: If the folder holds something else.
    """
    if not is_free_for(file) and not file.exists():
        raise OutputError(f"{file.parent} exists already and {work.absent}: choose another --out")


def require_same(
    file: Path, asked: Mapping[str, Any], work: Work, *, read: Callable[[Any], tuple[Any, Value]]
) -> Value:
    """Return the value that `read` gives of a folder that is claimed; the arguments are those of `claim`.

    Raises:
        OutputError: If the folder belongs to another configuration, or its first file cannot be read.
    """
    try:
        before, value = read(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise OutputError(f"{file}: cannot be read ({error}): {work.to_replace}") from error
    if before != asked:
        raise OutputError(f"{file.parent} {work.held} {first_difference(before, asked)}: {work.to_choose}")
    return value


def first_difference(before: Any, asked: Any, prefix: str = "") -> str:
    """Say where two configurations first differ, as ``training.batch_size=32, not 16``."""
    left, right = (asked if before is _ABSENT else before), (before if asked is _ABSENT else asked)
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        one, other = ({} if each is _ABSENT else each for each in (before, asked))
        for key in sorted({*one, *other}):
            inner = one.get(key, _ABSENT), other.get(key, _ABSENT)
            if inner[0] != inner[1]:
                return first_difference(*inner, f"{prefix}.{key}" if prefix else key)
    given = f"{prefix} left out" if before is _ABSENT else f"{prefix}={before!r}"
    return f"{given}, not {'left out' if asked is _ABSENT else repr(asked)}"
