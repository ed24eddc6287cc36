"""Settings that come from files or callers: every rule as data, every mistake reported at once.

A `Rule` states what a value may be, and holds or does not hold for a value of any kind. `table_problems` compares a
table with rules; `from_table` and `Reader` make dataclasses of tables. Files are read by `toml_file` and `json_file`.
"""

import math
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, TypeVar

from epanns.errors import ConfigError, EpannsError, did_you_mean
from epanns.printable import printable

T = TypeVar("T")

_LONGEST_PATH = 4096
_MOST_BITS = 64  # a longer integer is not printed
_SHOWN = 60  # characters of a value in a message


@dataclass(frozen=True)
class Rule:
    """What a value may be.

    Attributes:
        text: What follows "must be" in a message.
        holds: Whether a value obeys; accepts values of any kind.
        choices: The values, where they can be listed; a message offers the nearest.
        is_number: Whether 1 and 1.0 are the same value.
        item: The rule of the items, where the value is a list.
    """

    text: str
    holds: Callable[[Any], bool]
    choices: Collection[str] = ()
    is_number: bool = False
    item: "Rule | None" = None

    def problem(self, name: str, value: object, hint: str = "") -> str | None:
        """Return the line that reports a value under a name, or None where the value obeys; `hint` ends the line."""
        if self.holds(value):
            return None
        if self.item is not None and isinstance(value, list | tuple):
            for place, each in enumerate(value):
                if (found := self.item.problem(f"{name}[{place}]", each, hint)) is not None:
                    return found
        nearest = did_you_mean(value, self.choices) if isinstance(value, str) else ""
        return f"{name}={shown(value)}{nearest}: must be {self.text}{hint}"


TRUTH = Rule("true or false", lambda value: type(value) is bool)
TEXT = Rule("text that is not empty", lambda value: isinstance(value, str) and value != "")
ANY_TEXT = Rule("text", lambda value: isinstance(value, str))
TABLE = Rule("a table", lambda value: isinstance(value, Mapping))
PATH = Rule(
    f"a path of at most {_LONGEST_PATH:,} characters, without NUL",
    lambda value: isinstance(value, str) and 0 < len(value) <= _LONGEST_PATH and "\0" not in value,
)


def whole(least: int, most: int | None = None) -> Rule:
    """Return the rule of whole numbers from `least` on, up to `most` where that is given."""
    text = f"a whole number >= {least}" if most is None else f"a whole number in [{least}, {most}]"
    return Rule(text, lambda value: type(value) is int and least <= value and (most is None or value <= most))


def number(text: str, holds: Callable[[float], bool]) -> Rule:
    """Return a rule of finite numbers; `holds` is called with nothing else, truth values excluded."""
    return Rule(text, lambda value: is_finite(value) and holds(value), is_number=True)


def is_finite(value: object) -> bool:
    """Return whether a value is a number, not a truth value, that float64 holds."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) if isinstance(value, float) else abs(value) <= sys.float_info.max


FINITE = number("a finite number", lambda value: True)
POSITIVE = number("a finite number > 0", lambda value: value > 0)


def one_of(choices: Collection[str]) -> Rule:
    """Return the rule of names in a list."""
    return Rule(f"one of {', '.join(choices)}", lambda value: isinstance(value, str) and value in choices, choices)


def or_none(rule: Rule) -> Rule:
    """Return a rule that None obeys too."""
    return replace(rule, holds=lambda value: value is None or rule.holds(value))


def list_of(item: Rule, text: str, *, least: int = 0) -> Rule:
    """Return the rule of lists (or tuples) of at least `least` items that each obey a rule; `text` describes them."""

    def holds(value: object) -> bool:
        return isinstance(value, list | tuple) and len(value) >= least and all(item.holds(each) for each in value)

    return Rule(f"a list of {text}" if least == 0 else f"a list of {text}, at least {least}", holds, item=item)


def shown(value: object) -> str:
    """Return a value of any kind as a message shows it: short, on one line, without control characters."""
    if type(value) is int and value.bit_length() > _MOST_BITS:
        return f"an integer of {value.bit_length():,} bits"
    try:
        text = repr(list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, Mapping) else value)
    except (ValueError, RecursionError):  # an integer too long to print, lists too deep
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
    """Return one line for every unknown key, missing key and broken rule of a table.

    Args:
        table: The values by key.
        rules: The rule of every key there may be.
        required: Keys there must be.
        prefix: Put before a key's name, such as ``stages[0].``.
        hint: Ends the line about a key, such as the option of the command line that sets it.
    """
    unknown = [f"unknown key {shown(f'{prefix}{key}')}{_nearest(key, rules)}" for key in table if key not in rules]
    missing = [f"missing key {prefix + name!r}" for name in rules if name in required and name not in table]
    return [*unknown, *missing, *breaches(table, rules, prefix=prefix, hint=hint)]


def breaches(
    values: Mapping[str, Any],
    rules: Mapping[str, Rule],
    *,
    prefix: str = "",
    hint: Callable[[str], str] = lambda name: "",
) -> list[str]:
    """Return one line for each value that breaks its rule; arguments as in `table_problems`."""
    found = (rule.problem(prefix + name, values[name], hint(name)) for name, rule in rules.items() if name in values)
    return [problem for problem in found if problem is not None]


def problems_of(*makes: Callable[[], object]) -> list[str]:
    """Return the messages of the errors that some calls end in; nothing where all return."""
    found = []
    for make in makes:
        try:
            make()
        except EpannsError as error:
            found.append(str(error))
    return found


def values_of(settings: Any) -> dict[str, Any]:
    """Return the fields of a dataclass by name, as they are."""
    return {field.name: getattr(settings, field.name) for field in fields(settings)}


def refuse_breaches(settings: object, rules: Mapping[str, Rule], *, what: str = "") -> None:
    """Raise `ConfigError` with every field of a dataclass that breaks its rule; for ``__post_init__``.

    Args:
        settings: The dataclass.
        rules: Field -> rule.
        what: Begins the message, such as ``recovery: ``.
    """
    if problems := breaches(values_of(settings), rules):
        raise ConfigError(what + "; ".join(problems))


def required_of(cls: Any) -> tuple[str, ...]:
    """Return the fields of a dataclass that have no default."""
    return tuple(field.name for field in fields(cls) if field.default is MISSING and field.default_factory is MISSING)


def from_table(
    cls: Callable[..., T],
    table: object,
    rules: Mapping[str, Rule],
    *,
    what: str = "",
    hint: Callable[[str], str] = lambda name: "",
) -> T:
    """Return a dataclass made of one table.

    Args:
        cls: The dataclass; lists are given to it as tuples.
        table: A value of any kind.
        rules: The rule of each of its fields.
        what: Begins the message, such as ``recovery: ``.
        hint: As in `table_problems`.

    Raises:
        ConfigError: With every problem.
    """
    if not isinstance(table, Mapping):
        raise ConfigError(f"{what}must be a table, is {shown(table)}")
    if problems := table_problems(table, rules, required=required_of(cls), hint=hint):
        raise ConfigError(what + "; ".join(problems))
    return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in table.items()})


class Reader:
    """Makes settings of the tables of a file and collects every problem, so that a user corrects the file once.

    Attributes:
        source: Name of the file, which begins the message.
        problems: One line for each problem found so far, with the table's name.
    """

    def __init__(self, source: str, *, error: type[EpannsError] = ConfigError) -> None:
        self.source = source
        self.problems: list[str] = []
        self._error = error

    def table(self, table: object, cls: Callable[..., T], rules: Mapping[str, Rule], where: str) -> T | None:
        """Return `cls` made of a table as in `from_table`, or None after noting the problems under ``[where]``."""
        if not isinstance(table, Mapping):
            self.problems.append(f"[{where}] must be a table, is {shown(table)}")
            return None
        found = table_problems(table, rules, required=required_of(cls))
        self.problems += [f"[{where}] {problem}" for problem in found]
        return None if found else self.attempt(lambda: from_table(cls, table, rules), where)

    def tables(
        self, given: object, cls: Callable[..., T], rules: Mapping[str, Rule], where: str, *, alone: bool = False
    ) -> list[T | None]:
        """Return `cls` made of each table of a list; `alone` accepts one table in place of a list of one.

        Args:
            given: A value of any kind.
            cls: As in `table`.
            rules: As in `table`.
            where: Names the tables, with their number from 1.
            alone: Whether ``[where]`` is as good as ``[[where]]``.
        """
        if alone and isinstance(given, Mapping):
            return [self.table(given, cls, rules, where)]
        if not isinstance(given, list | tuple):
            self.problems.append(f"[[{where}]] must be a list of tables, is {shown(given)}")
            return []
        names = [where] if alone and len(given) == 1 else [f"{where} {number}" for number in range(1, len(given) + 1)]
        return [self.table(each, cls, rules, name) for each, name in zip(given, names, strict=True)]

    def attempt(self, make: Callable[[], T], where: str) -> T | None:
        """Return what `make` returns, or None after noting its error under ``[where]``."""
        try:
            return make()
        except EpannsError as error:
            self.problems.append(f"[{where}] {error}")
        return None

    def note(self, holds: bool, problem: str) -> None:
        """Note a problem unless a rule holds."""
        if not holds:
            self.problems.append(problem)

    def finish(self) -> None:
        """Raise one error with every problem, if there is any."""
        if self.problems:
            raise self._error(f"{self.source}: " + "; ".join(self.problems))


def _nearest(key: object, known: Collection[str]) -> str:
    return did_you_mean(key, known) if isinstance(key, str) else ""
