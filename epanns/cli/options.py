"""What every command shares: configuration files, JSON output, progress, option types."""

import errno
import functools
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from epanns.atomic import refuse_existing
from epanns.cli.config_file import fill_defaults, option_name
from epanns.cli.terminal import json_text, write_message, write_result
from epanns.distributed import process_group, rank, started_by_torchrun
from epanns.errors import ConfigError, EpannsError
from epanns.feedback import notes_to
from epanns.heap import keep_freed_memory
from epanns.safe_text import printable
from epanns.workfolder import locked_file


class _PathType(click.Path):
    """A path that can be used: neither empty nor with a NUL character, which a TOML file may hold."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path, or refuse it."""
        text = os.fspath(value)
        if not text or "\0" in text:
            raise ConfigError(f"{_named(param)} {text!r}: must be neither empty nor hold a NUL character; name a path")
        return super().convert(value, param, ctx)


class _OutputType(_PathType):
    """A path to write at.

    It has a name, its links end somewhere, and its full path is UTF-8: files that are written there name the path.
    ``.``, ``..`` and paths that end so become full paths.
    """

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path, or refuse it."""
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

SEED = click.IntRange(0, 2**63 - 1)  # what files keep as a whole number

T = TypeVar("T")
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class EpannsCommand(click.Command):
    """A command with `--config` and `--debug`; precedence is option, environment, file, default."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for item in self.params:
            # The environment too goes by the names people type: EPANNS_TRAIN_VAL, not EPANNS_TRAIN_VAL_PACKS.
            if isinstance(item, click.Option) and item.envvar is None and option_name(item) != item.name:
                item.envvar = f"EPANNS_{self.name}_{option_name(item)}".upper().replace("-", "_")
        self.params += [
            click.Option(
                ["--config"],
                type=EXISTING_FILE,
                is_eager=True,
                expose_value=False,
                callback=fill_defaults,
                help="TOML file that fills options; options given here win.",
            ),
            click.Option(["--debug"], is_flag=True, expose_value=False, help="Show a traceback when something fails."),
        ]

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, but not several times at once where it knows nothing of other processes.

        Notes of the library become lines on stderr.
        """
        if started_by_torchrun() and not hasattr(self.callback, "runs_in_process_group"):
            raise ConfigError(
                f"epanns {self.name} works in one process: start it without torchrun, which is for train, finetune and "
                "evaluate"
            )
        try:
            with notes_to(log):
                return super().invoke(ctx)
        except (BrokenPipeError, EOFError) as error:  # not of stdout, which `write_result` answers for
            raise EpannsError(
                f"a process that worked for this one has ended ({type(error).__name__}): run the command again, "
                "with fewer processes if memory is short"
            ) from error


def json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--json``, which the command receives as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print exactly one JSON object on stdout.")(function)


def out_option(help_text: str, *, required: bool = True) -> Decorator:
    """Add ``--out``, a path that the command writes to."""
    return click.option("--out", type=OUTPUT, required=required, help=help_text)


def device_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--device``; `torch_device` checks its value."""
    text = "Device that computes: cpu, cuda or cuda:N."
    return click.option("--device", default="cpu", show_default=True, help=text)(function)


def in_process_group(function: Callable[..., Any]) -> Callable[..., Any]:
    """Run a command with ``--device`` together with the other processes of `torchrun`, on this process's device."""

    @functools.wraps(function)
    def run(*, device: str, **options: Any) -> None:
        keep_freed_memory()
        with process_group(torch_device(device)) as own:
            function(device=own, **options)

    run.__dict__["runs_in_process_group"] = True
    return run


def emit(result: Mapping[str, Any], text: str, as_json: bool) -> None:
    """Print the result of a command, one JSON object or text for people; of several processes the first one prints.

    Control characters of both are made visible; a name within `text` that could hold a line feed is made `printable`
    by the caller.

    Raises:
        OutputError: If stdout is closed or full.
    """
    if rank() == 0:
        write_result(json_text(result) if as_json else printable(text, lines=True))


def progress_bar(items: Iterable[T], *, description: str, total: int | None = None, unit: str = "it") -> Iterator[T]:
    """Pass items on while drawing a progress bar on stderr; silent where stderr is no terminal."""
    from tqdm import tqdm

    yield from tqdm(items, desc=description, total=total, unit=unit, disable=not sys.stderr.isatty(), file=sys.stderr)


@contextmanager
def progress_counter(description: str, unit: str) -> Iterator[Callable[[int, int | None], None]]:
    """Yield a function of (done, total) that draws a progress bar on stderr.

    What is done at the first call was done before: it counts in neither the rate nor the remaining time.
    """
    from tqdm import tqdm

    bars: list[tqdm[None]] = []

    def show(done: int, total: int | None) -> None:
        if not bars:
            bars.append(
                tqdm(
                    desc=description,
                    unit=unit,
                    initial=done,
                    total=total,
                    disable=not sys.stderr.isatty() or rank() > 0,
                    file=sys.stderr,
                    unit_scale=True,
                )
            )
        bars[0].total = total
        bars[0].update(done - bars[0].n)

    try:
        yield show
    finally:
        for bar in bars:
            bar.close()


def log(message: str) -> None:
    """Write one line for people to stderr; of several processes the first one writes."""
    if rank() == 0:
        write_message(printable(message))


def reserve(out: Path) -> None:
    """Refuse a file or folder that exists, and keep other processes from writing it until the command ends.

    Raises:
        OutputError: If something is there already, or another process writes it.
    """
    refuse_existing(out)
    click.get_current_context().with_resource(locked_file(out))


def resuming_command() -> str:
    """Return the command line of this process without ``--fresh``: the command that resumes its work."""
    return shlex.join(["epanns", *(argument for argument in sys.argv[1:] if argument != "--fresh")])


def report_once(error: EpannsError) -> None:
    """Write on stderr what went wrong, unless that was done: a command may do so before it tidies up."""
    if not error.is_reported:
        write_error(str(error))
        error.is_reported = True


def write_error(message: str) -> None:
    """Write one line on stderr that begins with the name of the program."""
    write_message(printable(f"{speaker()}: {message}"))


def speaker() -> str:
    """Return who says what went wrong: of several processes any may, and what the others say follows from it."""
    return f"epanns (process {os.environ.get('RANK')})" if started_by_torchrun() else "epanns"


def torch_device(name: str) -> str:
    """Return a device name that torch knows and this machine has.

    Raises:
        ConfigError: If it does not.
    """
    import torch

    if not re.fullmatch(r"cpu|cuda(:(0|[1-9]\d*))?", name):
        raise ConfigError(f"--device {name!r}: must be cpu, cuda or cuda:N")
    if name == "cpu":
        return name
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not there:
        raise ConfigError(f"--device {name!r}: this machine has no CUDA device that torch can use; use --device cpu")
    if ":" in name and int(name.split(":")[1]) >= there:
        has = "1 CUDA device, cuda:0" if there == 1 else f"{there} CUDA devices, cuda:0 to cuda:{there - 1}"
        raise ConfigError(f"--device {name!r}: this machine has {has}; use one that is there")
    return name
