"""``--config``: a TOML file that fills the options of a command."""

from pathlib import Path
from typing import Any

import click

from epanns.errors import ConfigError, did_you_mean
from epanns.strict import ANY_TEXT, BOOLEAN, PATH, Rule, list_of, number, one_of, shown
from epanns.text_files import read_toml


def fill_defaults(context: click.Context, parameter: click.Parameter, path: Path | None) -> None:
    """Take options that neither the command line nor the environment gives from a TOML file.

    Raises:
        ConfigError: If the file cannot be read, or with every key that is unknown or given twice and every value of the
            wrong kind.
    """
    if path is None:
        return
    given = read_toml(path)
    known = {option_name(item): item for item in context.command.params if item.expose_value}
    names = {key: key.replace("-", "_") for key in given}
    problems = [
        f"unknown option {shown(key)}{did_you_mean(name, known)}" for key, name in names.items() if name not in known
    ]
    twice = [name for name in known if [*names.values()].count(name) > 1]
    problems += [f"{name} is given twice, with - and with _: give it once" for name in twice]
    problems += [
        problem
        for key, name in names.items()
        if name in known and (problem := _rule_of(known[name]).problem(name, given[key]))
    ]
    if problems:
        raise ConfigError(f"{path}: " + "; ".join(problems))
    values = {str(known[name].name): given[key] for key, name in names.items()}
    context.default_map = {**(context.default_map or {}), **values}


def option_name(parameter: click.Parameter) -> str:
    """Return the name of an option as users type it: ``train`` of ``--train``, also where its variable differs."""
    longest = max(parameter.opts, key=len)
    return longest.lstrip("-").replace("-", "_")


def _rule_of(parameter: click.Parameter) -> Rule:
    """Return the rule of an option's values; click alone would make 2 of 2.7 and text of a date."""
    if getattr(parameter, "is_flag", False):
        return BOOLEAN
    rule = _rule_of_type(parameter.type)
    several = getattr(parameter, "multiple", False) or parameter.nargs == -1
    return list_of(rule, "values") if several else rule


def _rule_of_type(kind: "click.ParamType[Any]") -> Rule:
    if isinstance(kind, click.types.IntParamType):
        return Rule("a whole number" + _limits_of(kind), lambda value: type(value) is int and _converts(kind, value))
    if isinstance(kind, click.types.FloatParamType):
        return number("a number" + _limits_of(kind), lambda value: _converts(kind, value))
    if isinstance(kind, click.Choice):
        return one_of([str(choice) for choice in kind.choices])
    return PATH if isinstance(kind, click.Path) else ANY_TEXT


def _limits_of(kind: "click.ParamType[Any]") -> str:
    if not isinstance(kind, click.IntRange | click.FloatRange):
        return ""
    limits = ((">" if kind.min_open else ">=", kind.min), ("<" if kind.max_open else "<=", kind.max))
    return "".join(f" {sign} {limit}" for sign, limit in limits if limit is not None)


def _converts(kind: "click.ParamType[Any]", value: float) -> bool:
    try:
        kind.convert(value, None, None)
    except click.BadParameter:
        return False
    return True
