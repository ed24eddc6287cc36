"""Output of the commands: results on stdout; messages, errors and progress on stderr; streams of any state."""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, TypeVar

import click

from epanns.distributed import rank, started_by_torchrun
from epanns.errors import EpannsError, OutputError
from epanns.safe_text import printable, printable_json

T = TypeVar("T")


class ReaderGone(EpannsError):  # noqa: N818 - no failure of the work
    """The reader of stdout has closed it, as ``head`` does: the program ends without a message."""

    exit_code = 141  # 128 + SIGPIPE, as if the signal had ended the program
    is_reported = True


def prepare_streams() -> None:
    """Make the standard streams safe to write to.

    A closed descriptor is opened on the null device, so that no file of the program gets its number and receives the
    output of libraries. Messages to a closed stderr are dropped. Characters that the encoding of a stream lacks are
    escaped.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            _open_null_as(descriptor)
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - open until the program ends
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def emit(result: Mapping[str, Any], text: str, as_json: bool) -> None:
    """Print the result of a command, as JSON or as text; under torchrun the first process prints.

    Control characters are escaped, apart from line feeds in `text`: the caller applies `printable` to names in it.

    Raises:
        ReaderGone: If the reader of stdout has closed it.
        OutputError: If stdout is closed or its disk is full.
    """
    if rank() > 0:
        return
    if sys.stdout is None:
        raise OutputError("stdout is closed, the result was not printed: open it, or redirect it to /dev/null")
    if as_json:
        shown = printable_json(json.dumps(result, ensure_ascii=False, allow_nan=False))
        try:
            shown.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
        except UnicodeEncodeError:
            shown = json.dumps(result, allow_nan=False)
    else:
        shown = printable(text, lines=True)
    try:
        click.echo(shown)
    except OSError as error:
        # The rest of the buffer would fail once more when Python ends.
        with contextlib.suppress(OSError, ValueError):
            _open_null_as(sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise ReaderGone from error
        raise OutputError(
            f"stdout: {error.strerror or error}, the result was not printed: free the disk or redirect stdout"
        ) from error


def _open_null_as(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    if null != descriptor:
        os.dup2(null, descriptor)
        os.close(null)


def write_message(text: str, *, stream: TextIO | None = None) -> None:
    """Write text to stderr or another stream; if that fails, drop the text."""
    with contextlib.suppress(OSError):
        click.echo(printable(text, lines=True), file=stream or sys.stderr)


def log(message: str) -> None:
    """Write one line to stderr; under torchrun the first process writes."""
    if rank() == 0:
        write_message(printable(message))


def write_error(message: str) -> None:
    """Write one line to stderr, after the name of the program and, under torchrun, the rank of the process."""
    program = f"epanns (process {os.environ.get('RANK')})" if started_by_torchrun() else "epanns"
    write_message(printable(f"{program}: {message}"))


def report_once(error: EpannsError) -> None:
    """Write the message of an error to stderr, unless a command has done so before its cleanup."""
    if not error.is_reported:
        write_error(str(error))
        error.is_reported = True


def progress_bar(items: Iterable[T], *, description: str, total: int | None = None, unit: str = "it") -> Iterator[T]:
    """Yield items and draw a progress bar on stderr, if that is a terminal."""
    from tqdm import tqdm

    yield from tqdm(items, desc=description, total=total, unit=unit, disable=not sys.stderr.isatty(), file=sys.stderr)


@contextmanager
def progress_counter(description: str, unit: str) -> Iterator[Callable[[int, int | None], None]]:
    """Yield a function of (done, total) that draws a progress bar on stderr, if that is a terminal.

    The work that is done at the first call counts neither in the rate nor in the remaining time.
    """
    from tqdm import tqdm

    bars: list[tqdm[Any]] = []

    def show(done: int, total: int | None) -> None:
        if not bars:
            bars.append(
                tqdm(
                    desc=description,
                    unit=unit,
                    initial=done,
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
