"""TOML tables to dataclasses, strictly: every unknown, missing or mistyped key is reported, and all at once."""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from epanns.errors import ConfigError, did_you_mean

T = TypeVar("T")


class TableReader:
    """Collects what is wrong in a configuration file, so that a person mends it once.

    Attributes:
        problems: One line per problem, with the table's name.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.problems: list[str] = []

    def read(self, table: object, cls: Callable[..., T], where: str) -> T | None:
        """Return `cls` made from a table, or None after noting the problems; `where` names the table."""
        if not isinstance(table, Mapping):
            self.problems.append(f"[{where}] must be a table, is {table!r}")
            return None
        known = {field.name: field for field in fields(cls)}  # type: ignore[arg-type]
        found = [f"[{where}] unknown key {key!r}{did_you_mean(key, known)}" for key in table if key not in known]
        found += [
            f"[{where}] missing key {name!r}"
            for name, field in known.items()
            if name not in table and field.default is MISSING and field.default_factory is MISSING
        ]
        self.problems += found
        if found:
            return None
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
        return self.attempt(lambda: cls(**values), where)

    def attempt(self, make: Callable[[], T], where: str) -> T | None:
        """Return what `make` returns, or None after noting its `ConfigError`."""
        try:
            return make()
        except ConfigError as error:
            self.problems.append(f"[{where}] {error}")
        return None

    def note(self, holds: bool, problem: str) -> None:
        """Note a problem unless a rule holds."""
        if not holds:
            self.problems.append(problem)

    def finish(self) -> None:
        """Raise `ConfigError` with every problem, if there is any."""
        if self.problems:
            raise ConfigError(f"{self.source}: " + "; ".join(self.problems))


def all_of(values: object, rule: Callable[[Any], bool]) -> bool:
    """Tell whether `values` is a non-empty list whose items all obey a rule."""
    return isinstance(values, list | tuple) and len(values) > 0 and all(rule(value) for value in values)


def is_text(value: object) -> bool:
    """Tell whether a value is non-empty text."""
    return isinstance(value, str) and value != ""


def is_number(value: object) -> bool:
    """Tell whether a value is a number and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_count(value: object) -> bool:
    """Tell whether a value is a whole number >= 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
