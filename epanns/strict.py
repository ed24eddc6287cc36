"""Validate tables of settings from TOML, JSON or Python, and report every problem at once.

A `Rule` describes the values of one key; a dictionary of rules describes a table. Rules accept values of any type, so
that a wrong type gives a message and never a traceback. The rules of a dataclass are checked in its ``__post_init__``,
and `from_table` makes the dataclass of a table::

    RULES = {"epochs": integer(1), "sampler": one_of(("balanced", "shuffled")), "rate": or_none(POSITIVE)}

    @dataclass(frozen=True)
    class Settings:
        epochs: int
        sampler: str = "balanced"
        rate: float | None = None

        def __post_init__(self) -> None:
            check_fields(self, RULES)

    settings = from_table(Settings, parse_toml(text, "run.toml"), RULES, what="run.toml: ")

    Settings(epochs=0, sampler="balancd")
    # ConfigError: epochs=0: must be a whole number >= 1; sampler='balancd' (did you mean 'balanced'?): must be one ...

`TableReader` reads several tables of one file. `epanns.text_files` reads the files.
"""

import math
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, TypeVar

from epanns.errors import ConfigError, EpannsError, did_you_mean
from epanns.safe_text import printable

T = TypeVar("T")

_LONGEST_PATH = 4096
_MOST_BITS = 64  # longer integers are not printed
_SHOWN = 60  # characters of a value in a message


@dataclass(frozen=True)
class Rule:
    """Which values a key may have.

    Attributes:
        text: Completes "must be" in a message.
        holds: Returns whether a value is valid; accepts values of any type.
        choices: The valid values of an enumeration; a message suggests the nearest one.
        is_number: Whether 1 and 1.0 are the same value.
        item: The rule of each item, if the value is a list.
    """

    text: str
    holds: Callable[[Any], bool]
    choices: Collection[str] = ()
    is_number: bool = False
    item: "Rule | None" = None

    def problem(self, name: str, value: object, hint: str = "") -> str | None:
        """Return the message about an invalid value, or None if the value is valid; `hint` is appended to it."""
        if self.holds(value):
            return None
        if self.item is not None and isinstance(value, list | tuple):
            for place, each in enumerate(value):
                if (found := self.item.problem(f"{name}[{place}]", each, hint)) is not None:
                    return found
        nearest = did_you_mean(value, self.choices) if isinstance(value, str) else ""
        return f"{name}={shown(value)}{nearest}: must be {self.text}{hint}"


BOOLEAN = Rule("true or false", lambda value: type(value) is bool)
TEXT = Rule("text that is not empty", lambda value: isinstance(value, str) and value != "")
ANY_TEXT = Rule("text", lambda value: isinstance(value, str))
TABLE = Rule("a table", lambda value: isinstance(value, Mapping))
LIST = Rule("a list", lambda value: isinstance(value, list | tuple))
WHOLE = Rule("a whole number", lambda value: type(value) is int)
PATH = Rule(
    f"a path of at most {_LONGEST_PATH:,} characters, without NUL",
    lambda value: isinstance(value, str) and 0 < len(value) <= _LONGEST_PATH and "\0" not in value,
)

SHA256 = Rule(
    "64 hexadecimal digits",
    lambda value: isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef"),
)


def integer(least: int, most: int | None = None) -> Rule:
    """Return the rule of whole numbers >= `least` and, unless it is None, <= `most`."""
    text = f"a whole number >= {least}" if most is None else f"a whole number in [{least}, {most}]"
    return Rule(text, lambda value: type(value) is int and least <= value and (most is None or value <= most))


def number(text: str, holds: Callable[[float], bool]) -> Rule:
    """Return a rule of finite numbers, booleans excluded; `holds` receives finite numbers only."""
    return Rule(text, lambda value: is_finite(value) and holds(value), is_number=True)


def is_finite(value: object) -> bool:
    """Return whether a value is a number (no boolean) within the range of float64."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) if isinstance(value, float) else abs(value) <= sys.float_info.max


FINITE = number("a finite number", lambda value: True)
POSITIVE = number("a finite number > 0", lambda value: value > 0)
FRACTION = number("a number in [0, 1]", lambda value: 0 <= value <= 1)
RATIO = number("a number in [0, 1)", lambda value: 0 <= value < 1)


def one_of(choices: Collection[str]) -> Rule:
    """Return the rule of an enumeration of strings."""
    return Rule(f"one of {', '.join(choices)}", lambda value: isinstance(value, str) and value in choices, choices)


def or_none(rule: Rule) -> Rule:
    """Return the rule with None as a further valid value."""
    return replace(rule, holds=lambda value: value is None or rule.holds(value))


def list_of(item: Rule, text: str, *, least: int = 0) -> Rule:
    """Return the rule of lists and tuples of valid items, at least `least`; messages have "a list of" and `text`."""

    def holds(value: object) -> bool:
        return isinstance(value, list | tuple) and len(value) >= least and all(item.holds(each) for each in value)

    return Rule(f"a list of {text}" if least == 0 else f"a list of {text}, at least {least}", holds, item=item)


def shown(value: object) -> str:
    """Return a value of any type as text for a message: at most 60 characters, one line, printable."""
    if type(value) is int and value.bit_length() > _MOST_BITS:
        return f"an integer of {value.bit_length():,} bits"
    try:
        text = repr(list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, Mapping) else value)
    except (ValueError, RecursionError):  # an integer too long to print, lists nested too deeply
        return f"a {type(value).__name__}"
    text = printable(text)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def table_problems(
    table: Mapping[str, Any],
    rules: Mapping[str, Rule],
    *,
    required: Collection[str] = (),
    prefix: str = "",
    hint: Callable[[str], str] = lambda name: "",
) -> list[str]:
    """Return one message for each unknown key, missing key and invalid value of a table.

    Args:
        table: The values by key.
        rules: The rule of each known key.
        required: Keys that must be present.
        prefix: Put before each key in a message, such as ``stages[0].``.
        hint: Returns the end of the message about a key, such as the command-line option that sets it.
    """
    unknown = [
        f"unknown key {shown(f'{prefix}{key}')}{did_you_mean(key, rules) if isinstance(key, str) else ''}"
        for key in table
        if key not in rules
    ]
    missing = [f"missing key {prefix + name!r}" for name in rules if name in required and name not in table]
    return [*unknown, *missing, *value_problems(table, rules, prefix=prefix, hint=hint)]


def value_problems(
    values: Mapping[str, Any],
    rules: Mapping[str, Rule],
    *,
    prefix: str = "",
    hint: Callable[[str], str] = lambda name: "",
) -> list[str]:
    """Return one message for each invalid value of a table; see `table_problems`, which also checks the keys."""
    found = (rule.problem(prefix + name, values[name], hint(name)) for name, rule in rules.items() if name in values)
    return [problem for problem in found if problem is not None]


def error_messages(*calls: Callable[[], object]) -> list[str]:
    """Return the message of each call that raises an `EpannsError`."""
    found = []
    for call in calls:
        try:
            call()
        except EpannsError as error:
            found.append(str(error))
    return found


def field_values(settings: Any) -> dict[str, Any]:
    """Return the fields of a dataclass by name, without conversion of nested dataclasses."""
    return {field.name: getattr(settings, field.name) for field in fields(settings)}


def required_fields(cls: Any) -> tuple[str, ...]:
    """Return the names of the fields of a dataclass that have no default."""
    return tuple(field.name for field in fields(cls) if field.default is MISSING and field.default_factory is MISSING)


def check_fields(
    settings: object, rules: Mapping[str, Rule], *, what: str = "", error: type[EpannsError] = ConfigError
) -> None:
    """Raise `error` with every invalid field of a dataclass; for its ``__post_init__``; `what` starts the message."""
    if problems := value_problems(field_values(settings), rules):
        raise error(what + "; ".join(problems))


def from_table(
    cls: Callable[..., T],
    table: object,
    rules: Mapping[str, Rule],
    *,
    what: str = "",
    hint: Callable[[str], str] = lambda name: "",
    error: type[EpannsError] = ConfigError,
) -> T:
    """Return a dataclass made of a table, with tuples for lists; `what` starts the message, `hint` ends each problem.

    Raises:
        EpannsError: Of class `error`, with every problem of the table.
    """
    if not isinstance(table, Mapping):
        raise error(f"{what}must be a table, is {shown(table)}")
    if problems := table_problems(table, rules, required=required_fields(cls), hint=hint):
        raise error(what + "; ".join(problems))
    return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in table.items()})


class TableReader:
    """Makes dataclasses of the tables of a file and collects the problems of all of them for one error.

    Attributes:
        source: Name of the file; starts the message.
        problems: The problems found so far, one line each, with the name of the table.
    """

    def __init__(self, source: str, *, error: type[EpannsError] = ConfigError) -> None:
        self.source = source
        self.problems: list[str] = []
        self._error = error

    def table(self, table: object, cls: Callable[..., T], rules: Mapping[str, Rule], where: str) -> T | None:
        """Return `cls` made of a table as in `from_table`, or None after adding the problems under ``[where]``."""
        if not isinstance(table, Mapping):
            self.problems.append(f"[{where}] must be a table, is {shown(table)}")
            return None
        found = table_problems(table, rules, required=required_fields(cls))
        self.problems += [f"[{where}] {problem}" for problem in found]
        return None if found else self.attempt(lambda: from_table(cls, table, rules), where)

    def tables(
        self, given: object, cls: Callable[..., T], rules: Mapping[str, Rule], where: str, *, alone: bool = False
    ) -> list[T | None]:
        """Return `cls` made of each table of a list; with `alone` one table, ``[where]``, may replace the list."""
        if alone and isinstance(given, Mapping):
            return [self.table(given, cls, rules, where)]
        if not isinstance(given, list | tuple):
            self.problems.append(f"[[{where}]] must be a list of tables, is {shown(given)}")
            return []
        names = [where] if alone and len(given) == 1 else [f"{where} {number}" for number in range(1, len(given) + 1)]
        return [self.table(each, cls, rules, name) for each, name in zip(given, names, strict=True)]

    def attempt(self, call: Callable[[], T], where: str) -> T | None:
        """Return the result of a call, or None after adding the message of its `EpannsError` under ``[where]``."""
        try:
            return call()
        except EpannsError as error:
            self.problems.append(f"[{where}] {error}")
        return None

    def require(self, holds: bool, problem: str) -> None:
        """Add a problem unless a condition holds."""
        if not holds:
            self.problems.append(problem)

    def finish(self) -> None:
        """Raise one error with every problem, if there is one."""
        if self.problems:
            raise self._error(f"{self.source}: " + "; ".join(self.problems))
