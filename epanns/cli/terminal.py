"""The program's standard streams: closed, full or given up by their reader, and of any encoding."""

import contextlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import click

from epanns.errors import EpannsError, OutputError
from epanns.safe_text import printable, printable_json


class ReaderGone(EpannsError):  # noqa: N818 - no failure of the work
    """The reader of standard output has closed it, as ``head`` does: the program ends without a line."""

    exit_code = 141  # 128 + SIGPIPE, as of a program that the signal ends
    is_reported = True


def prepare_streams() -> None:
    """Make the standard streams fit to be written to.

    A closed descriptor is opened on the null device, so that no file of the program takes its number and receives what
    libraries print. Messages to a closed stderr are dropped. A character that the encoding of a stream lacks is
    written as an escape.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            _open_null_as(descriptor)
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - as long as the program
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def write_message(text: str, *, stream: TextIO | None = None) -> None:
    """Write text for people, by default to stderr; where the stream takes nothing any more, the text is dropped."""
    with contextlib.suppress(OSError):
        click.echo(printable(text, lines=True), file=stream or sys.stderr)


def write_result(text: str) -> None:
    """Write the result of a command to stdout.

    Raises:
        ReaderGone: If the reader of stdout has closed it.
        OutputError: If stdout is closed or its disk is full.
    """
    if sys.stdout is None:
        raise OutputError("stdout is closed, the result was not printed: open it, or redirect it to /dev/null")
    try:
        click.echo(text)
    except OSError as error:
        # What is left in the buffer would fail once more when Python ends.
        with contextlib.suppress(OSError, ValueError):
            _open_null_as(sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise ReaderGone from error
        raise OutputError(
            f"stdout: {error.strerror or error}, the result was not printed: free the disk or redirect stdout"
        ) from error


def json_text(value: Mapping[str, Any]) -> str:
    """Return a JSON text that stdout can encode and in which control characters are escaped."""
    text = printable_json(json.dumps(value, ensure_ascii=False, allow_nan=False))
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False)
    return text


def _open_null_as(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    if null != descriptor:
        os.dup2(null, descriptor)
        os.close(null)
