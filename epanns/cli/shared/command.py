"""The class of all commands: ``--config FILE.toml``, ``--debug``, notes on stderr, and the refusal of torchrun."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from epanns.cli.shared.options import EXISTING_FILE
from epanns.cli.shared.terminal import log
from epanns.distributed import started_by_torchrun
from epanns.errors import ConfigError, EpannsError, did_you_mean
from epanns.feedback import notes_to
from epanns.strict import ANY_TEXT, BOOLEAN, PATH, Rule, list_of, number, one_of, shown
from epanns.text_files import read_toml


class EpannsCommand(click.Command):
    """A command with ``--config`` and ``--debug``.

    The value of an option comes from the command line, else from the environment, else from the file, else it is the
    default.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for item in self.params:
            # Environment variables have the names of options: EPANNS_TRAIN_VAL, not EPANNS_TRAIN_VAL_PACKS.
            if isinstance(item, click.Option) and item.envvar is None and option_name(item) != item.name:
                item.envvar = f"EPANNS_{self.name}_{option_name(item)}".upper().replace("-", "_")
        self.params += [
            click.Option(
                ["--config"],
                type=EXISTING_FILE,
                is_eager=True,
                expose_value=False,
                callback=_fill_defaults,
                help="TOML file of options; the command line takes precedence.",
            ),
            click.Option(["--debug"], is_flag=True, expose_value=False, help="Show the traceback of an error."),
        ]

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; refuse torchrun unless the command supports it, and write notes to stderr."""
        if started_by_torchrun() and not hasattr(self.callback, "runs_in_process_group"):
            raise ConfigError(
                f"epanns {self.name} works in one process: start it without torchrun, which is for train, finetune and "
                "evaluate"
            )
        try:
            with notes_to(log):
                return super().invoke(ctx)
        except (BrokenPipeError, EOFError) as error:  # not of stdout, whose errors `emit` handles
            raise EpannsError(
                f"a process that worked for this one has ended ({type(error).__name__}): run the command again, "
                "with fewer processes if memory is short"
            ) from error


def option_name(parameter: click.Parameter) -> str:
    """Return the name of an option as it is typed: ``train`` of ``--train``, also if its variable differs."""
    return max(parameter.opts, key=len).lstrip("-").replace("-", "_")


def _fill_defaults(context: click.Context, parameter: click.Parameter, path: Path | None) -> None:
    """Read the defaults of options from a TOML file.

    Raises:
        ConfigError: If the file cannot be read, or with every unknown or repeated key and every value of a wrong type.
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


def _rule_of(parameter: click.Parameter) -> Rule:
    """Return the rule of an option's values; click alone would convert 2.7 to 2 and a date to text."""
    if getattr(parameter, "is_flag", False):
        return BOOLEAN
    kind = parameter.type
    if isinstance(kind, click.types.IntParamType):
        rule = Rule("a whole number" + _limits_of(kind), lambda value: type(value) is int and _is_accepted(kind, value))
    elif isinstance(kind, click.types.FloatParamType):
        rule = number("a number" + _limits_of(kind), lambda value: _is_accepted(kind, value))
    elif isinstance(kind, click.Choice):
        rule = one_of([str(choice) for choice in kind.choices])
    else:
        rule = PATH if isinstance(kind, click.Path) else ANY_TEXT
    several = getattr(parameter, "multiple", False) or parameter.nargs == -1
    return list_of(rule, "values") if several else rule


def _limits_of(kind: "click.ParamType[Any]") -> str:
    if not isinstance(kind, click.IntRange | click.FloatRange):
        return ""
    limits = ((">" if kind.min_open else ">=", kind.min), ("<" if kind.max_open else "<=", kind.max))
    return "".join(f" {sign} {limit}" for sign, limit in limits if limit is not None)


def _is_accepted(kind: "click.ParamType[Any]", value: float) -> bool:
    try:
        kind.convert(value, None, None)
    except click.BadParameter:
        return False
    return True


class SectionedCommand(EpannsCommand):
    """A command whose help shows options in sections; the remaining options come last, under "Options".

    Args:
        sections: Title -> names of options on the command line without dashes, in the order of the help.
    """

    def __init__(self, *args: Any, sections: Mapping[str, Sequence[str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        known = {name for item in self.params for name in item.opts}
        unknown = [name for names in sections.values() for name in names if f"--{name}" not in known]
        assert not unknown, f"{self.name}: unknown options in the sections of the help: {unknown}"
        self.sections = sections

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections, then the remaining options."""
        options = {name: item for item in self.get_params(ctx) if isinstance(item, click.Option) for name in item.opts}
        shown = {title: [options[f"--{name}"] for name in names] for title, names in self.sections.items()}
        placed = {item for items in shown.values() for item in items}
        rest = [item for item in dict.fromkeys(options.values()) if item not in placed]
        for title, items in (*shown.items(), ("Options", rest)):
            records = [item.get_help_record(ctx) for item in items]
            with formatter.section(title):
                formatter.write_dl([record for record in records if record is not None])
