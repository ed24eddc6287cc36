"""Options and types of options that several commands share."""

import errno
import functools
import os
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from epanns.atomic import refuse_existing
from epanns.cli.shared.terminal import log
from epanns.distributed import process_group
from epanns.errors import ConfigError
from epanns.process_memory import keep_freed_memory
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


EXISTING = _PathType(exists=True, path_type=Path)
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
