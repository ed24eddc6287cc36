"""The class of all commands, and the options and types of options that several commands share."""

import errno
import functools
import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from epanns.atomic import refuse_existing
from epanns.cli.shared.terminal import log
from epanns.distributed import process_group, started_by_torchrun
from epanns.errors import ConfigError, EpannsError, did_you_mean
from epanns.feedback import notes_to
from epanns.models.files.included import included_folder
from epanns.process import keep_freed_memory
from epanns.strict import ANY_TEXT, BOOLEAN, Rule, list_of, number, one_of, shown
from epanns.strict import PATH as PATH_RULE
from epanns.text_files import read_toml
from epanns.workfolder import locked_file

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class _PathType(click.Path):
    """A path that is neither empty nor has a NUL character, which a TOML file can contain."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path, or raise `ConfigError`."""
        text = os.fspath(value)
        if not text or "\0" in text:
            raise ConfigError(f"{_named(param)} {text!r}: must be neither empty nor hold a NUL character; name a path")
        return super().convert(value, param, ctx)


class _OutputType(_PathType):
    """A path to write at: with a name, without a circle of links, and in UTF-8, because files contain the path.

    ``.``, ``..`` and paths that end so become full paths.
    """

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path, or raise `ConfigError`."""
        path = Path(super().convert(value, param, ctx))
        try:
            path.stat()
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise ConfigError(
                    f"{_named(param)} {os.fspath(path)!r}: leads in a circle of links; choose another path"
                ) from error
        if path.name in ("", ".."):
            path = path.resolve()
        if not path.name:
            raise ConfigError(f"{_named(param)} {os.fspath(value)!r}: must have a name; give a path in a folder")
        try:
            str(path.absolute()).encode()
        except UnicodeEncodeError as error:
            raise ConfigError(
                f"{_named(param)} {str(path.absolute())!r}: its full path must be UTF-8; choose another path"
            ) from error
        return path


def _named(parameter: click.Parameter | None) -> str:
    return "path" if parameter is None else max(parameter.opts, key=len)


class _CheckpointType(_PathType):
    """A path that exists, or the name of an included checkpoint, which gives its folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path."""
        return included_folder(value) or super().convert(value, param, ctx)


EXISTING = _PathType(exists=True, path_type=Path)
CHECKPOINT = _CheckpointType(exists=True, path_type=Path)
EXISTING_FILE = _PathType(exists=True, dir_okay=False, path_type=Path)
PATH = _PathType(path_type=Path)
OUTPUT = _OutputType(path_type=Path)


class _SeedType(click.IntRange):
    """A seed; files store it as a 64-bit integer."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the seed, or refuse it with the whole range."""
        seed: int = click.INT.convert(value, param, ctx)
        if not 0 <= seed < 2**63:
            self.fail(f"{seed} is not in the range 0<=x<={2**63 - 1}.", param, ctx)
        return seed

    def _describe_range(self) -> str:
        return "x>=0"  # the help needs no 19 digits


SEED = _SeedType(0, 2**63 - 1)


def json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--json``, which the command receives as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")(function)


def out_option(help_text: str, *, required: bool = True) -> Decorator:
    """Add ``--out``, a path that the command writes to."""
    return click.option("--out", type=OUTPUT, required=required, help=help_text)


def device_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--device``, which `torch_device` checks."""
    text = "Device of the computation: cpu, cuda or cuda:N."
    return click.option("--device", default="cpu", show_default=True, help=text)(function)


def bounded_option(name: str, help_text: str, *, least: int | None) -> Decorator:
    """Add an option for a number of processes or threads, bounded by the number of cores.

    Args:
        name: Such as ``--jobs``.
        help_text: The unit of the number; the bound is added.
        least: Smallest value and default; None for a default of the computing library.
    """
    settings = (
        {"type": int} if least is None else {"type": click.IntRange(least), "default": least, "show_default": True}
    )
    return click.option(name, **settings, callback=at_most_cores, help=f"{help_text}; at most the number of cores.")


def at_most_cores(context: click.Context, parameter: click.Parameter, value: int | None) -> int | None:
    """Return the value of an option such as ``--jobs``, at most the number of cores that this process may use.

    A lower number than the given one is reported on stderr. It is the `callback` of every option for a number of
    processes or threads.
    """
    cores = len(os.sched_getaffinity(0))
    if value is None or value <= cores:
        return value
    name = max(parameter.opts, key=len)
    log(f"{name} {value}: bounded to {cores}, the number of cores that this process may use")
    return cores


def in_process_group(function: Callable[..., Any]) -> Callable[..., Any]:
    """Run a command with ``--device`` in the process group of torchrun, on the device of this process."""

    @functools.wraps(function)
    def run(*, device: str, **options: Any) -> None:
        keep_freed_memory()
        with process_group(torch_device(device)) as own:
            function(device=own, **options)

    run.__dict__["runs_in_process_group"] = True
    return run


def torch_device(name: str) -> str:
    """Return the name of a device of torch on this machine.

    Raises:
        ConfigError: If the name is invalid or this machine lacks the device.
    """
    import torch

    if not re.fullmatch(r"cpu|cuda(:(0|[1-9]\d*))?", name):
        raise ConfigError(f"--device {name!r}: must be cpu, cuda or cuda:N")
    if name == "cpu":
        return name
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise ConfigError(f"--device {name!r}: this machine has no CUDA device that torch can use; use --device cpu")
    if ":" in name and int(name.split(":")[1]) >= count:
        has = "1 CUDA device, cuda:0" if count == 1 else f"{count} CUDA devices, cuda:0 to cuda:{count - 1}"
        raise ConfigError(f"--device {name!r}: this machine has {has}; choose one of them")
    return name


def reserve(out: Path) -> None:
    """Refuse a file or folder that exists, and keep other processes from writing it until the command ends.

    Raises:
        OutputError: If it exists, or another process writes it.
    """
    refuse_existing(out)
    click.get_current_context().with_resource(locked_file(out))


def resuming_command() -> str:
    """Return the command line of this process without ``--fresh``: the command that resumes its work."""
    return shlex.join(["epanns", *(argument for argument in sys.argv[1:] if argument != "--fresh")])


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
        rule = PATH_RULE if isinstance(kind, click.Path) else ANY_TEXT
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
