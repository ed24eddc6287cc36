"""What a setting may be: rules that are data, so that all settings are checked alike and every breach is named."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from epanns.errors import did_you_mean


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        text: What goes after "must be".
        holds: Tells whether a value of any type obeys.
        choices: The values, where they can be listed; the nearest is offered for a wrong one.
        is_number: Whether 1 and 1.0 are the same value.
    """

    text: str
    holds: Callable[[Any], bool]
    choices: Collection[str] = ()
    is_number: bool = False


TRUTH = Rule("true or false", lambda value: type(value) is bool)


def whole(least: int) -> Rule:
    """Return the rule of whole numbers from `least` on."""
    return Rule(f"a whole number >= {least}", lambda value: type(value) is int and value >= least)


def number(text: str, holds: Callable[[float], bool]) -> Rule:
    """Return a rule of numbers, truth values excluded; `holds` sees no other value."""

    def is_one(value: object) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and holds(value)

    return Rule(text, is_one, is_number=True)


def one_of(choices: Collection[str]) -> Rule:
    """Return the rule of names in a list."""
    return Rule(f"one of {', '.join(choices)}", lambda value: value in choices, choices)


def or_none(rule: Rule) -> Rule:
    """Return a rule that None obeys too."""
    return replace(rule, holds=lambda value: value is None or rule.holds(value))


def breaches(values: Mapping[str, Any], rules: Mapping[str, Rule]) -> list[str]:
    """Return a line for each value that breaks its rule; it names the key and the option of the command line."""
    return [
        f"{name}={values[name]!r}{did_you_mean(str(values[name]), rule.choices)}: "
        f"must be {rule.text} ({option_of(name)})"
        for name, rule in rules.items()
        if not rule.holds(values[name])
    ]


def option_of(name: str) -> str:
    """Return the option of the command line that says a setting."""
    return f"--{name.replace('_', '-')}"
