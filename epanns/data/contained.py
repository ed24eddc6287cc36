"""A function in a process of its own with a limit to its memory: if it crashes, that is an answer.

What comes back is JSON, never a pickle: a process that a hostile file has taken over can still say only words, of
bounded length and without control characters, and one that says nothing is ended.
"""

import json
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from epanns.feedback import Progress

_SECONDS_BETWEEN_REPORTS = 0.1
_LONGEST_MESSAGE = 1 << 22  # bytes
_LONGEST_LINE = 4000  # characters of what is shown to people
_SECONDS_TO_END = 10  # for a process that has closed its end
PATIENCE = 300.0  # seconds without a word; opening two million rows on a slow disk takes less


class Crashed(Exception):  # noqa: N818 - an outcome, which the caller turns into words
    """The process ended without an answer; the text says how."""


def run_contained(
    function: Callable[..., Any],
    *arguments: object,
    memory_limit: int,
    progress: Progress | None = None,
    log: Callable[[str], None] | None = None,
    patience: float = PATIENCE,
) -> Any:
    """Return what a function returns, called in a new process.

    Args:
        function: A function of a module; it returns what JSON can hold.
        *arguments: Its arguments; they are pickled on their way in.
        memory_limit: Bytes of memory that it may take beyond what its modules take.
        progress: Called in this process with what the function reports. With this or `log` the function takes both.
        log: Called in this process with each line that the function tells, as soon as it does.
        patience: Seconds without progress, a line or an answer after which the process is ended.

    Raises:
        Crashed: If the process ends by a signal, by an exception, for want of memory or of patience, or if what it
            says has no sense.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    reports = progress is not None or log is not None
    process = context.Process(target=_answer, args=(theirs, function, arguments, memory_limit, reports), daemon=True)
    process.start()
    theirs.close()
    try:
        return _listen(ours, progress or _ignore, log or _ignore, patience)
    except EOFError:
        process.join(_SECONDS_TO_END)
        raise Crashed(how_it_ended(process.exitcode)) from None
    finally:
        process.kill()
        process.join()
        ours.close()


def _listen(connection: Connection, progress: Callable[..., None], log: Callable[[str], None], patience: float) -> Any:
    while True:
        if not connection.poll(patience):
            raise Crashed(f"was ended after {patience:g} s without progress")
        kind, value = _received(connection)
        if kind == "answer":
            return value
        if kind == "failure":
            raise Crashed(value)
        if kind == "progress":
            progress(*value)
        else:
            log(value)


def _received(connection: Connection) -> tuple[str, Any]:
    """Return the next message, whose value has the type that its kind must have, save for an answer's."""
    try:
        kind, value = json.loads(connection.recv_bytes(_LONGEST_MESSAGE))
    except EOFError:
        raise
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise senseless() from error
    if kind == "answer":
        return kind, value
    if kind in ("failure", "line"):
        return kind, line_of(value)
    if kind == "progress" and isinstance(value, list) and len(value) == 2:  # noqa: PLR2004 - done, total
        done, total = value
        return kind, (count_of(done), None if total is None else count_of(total))
    raise senseless()


def senseless() -> Crashed:
    """Return the error for an answer that no honest process gives."""
    return Crashed("gave no sensible answer")


def line_of(value: object) -> str:
    """Return what must be text as one line of bounded length that a terminal shows and does not obey."""
    if not isinstance(value, str):
        raise senseless()
    shown = value if len(value) <= _LONGEST_LINE else f"{value[:_LONGEST_LINE]}..."
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in shown)


def count_of(value: object) -> int:
    """Return what must be a number of things."""
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise senseless()
    return value


def how_it_ended(exit_code: int | None) -> str:
    """Return how a process ended, in words, by the exit code that `multiprocessing` gives; None where it still runs."""
    if exit_code is None:
        return "closed its end without an answer"
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        return f"crashed with signal {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"crashed with signal {-exit_code}"


def _answer(
    connection: Connection, function: Callable[..., Any], arguments: tuple[Any, ...], limit: int, reports: bool
) -> None:
    """Run in the new process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends this one
    _limit_memory(limit)
    try:
        reporter = _Reporter(connection)
        ways: dict[str, Any] = {"progress": reporter.progress, "log": reporter.log} if reports else {}
        message = json.dumps(["answer", function(*arguments, **ways)])
    except MemoryError:
        message = json.dumps(["failure", f"needs more than {limit / 2**30:.3g} GiB of memory"])
    except Exception as error:  # whatever it is, the parent must hear of it
        message = json.dumps(["failure", f"failed with {type(error).__name__}: {error}"])
    connection.send_bytes(message.encode())


def _limit_memory(limit: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    taken = pages * os.sysconf("SC_PAGE_SIZE")
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    asked = taken + limit
    resource.setrlimit(resource.RLIMIT_AS, (asked if hard < 0 else min(asked, hard), hard))


class _Reporter:
    """Sends progress to the parent, now and then, and every line at once; ends with it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._reported = 0.0

    def log(self, line: str) -> None:
        """Send a line."""
        self._send("line", line)

    def progress(self, done: int, total: int | None) -> None:
        """Send how far it is, if the last time was a while ago or this is the end."""
        now = time.monotonic()
        if done == total or now - self._reported >= _SECONDS_BETWEEN_REPORTS:
            self._reported = now
            self._send("progress", [done, total])

    def _send(self, kind: str, value: object) -> None:
        self._connection.send_bytes(json.dumps([kind, value]).encode())


def _ignore(*_: object) -> None:
    pass
