"""A function in a process of its own with a limit to its memory: if it crashes, that is an answer.

What comes back is JSON, never a pickle: a process that a hostile file has taken over can still say only words.
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

from epanns.progress import Progress

_SECONDS_BETWEEN_REPORTS = 0.1
_LONGEST_MESSAGE = 1 << 28  # bytes


class Crashed(Exception):  # noqa: N818 - an outcome, which the caller turns into words
    """The process ended without an answer; the text says how."""


def run_contained(
    function: Callable[..., Any],
    *arguments: object,
    memory_limit: int,
    progress: Progress | None = None,
    with_progress: bool = False,
) -> Any:
    """Return what a function returns, called in a new process.

    Args:
        function: A function of a module; it returns what JSON can hold.
        *arguments: Its arguments; they are pickled on their way in.
        memory_limit: Bytes of memory that it may take beyond what its modules take.
        progress: Called in this process with what the function reports.
        with_progress: Whether the function takes `progress`.

    Raises:
        Crashed: If the process ends by a signal, by an exception, or for want of memory.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(
        target=_answer, args=(theirs, function, arguments, memory_limit, with_progress), daemon=True
    )
    process.start()
    theirs.close()
    try:
        return _listen(ours, progress or _ignore)
    except EOFError:
        process.join()
        raise Crashed(_how_it_ended(process.exitcode or 0)) from None
    finally:
        process.kill()
        process.join()
        ours.close()


def _listen(connection: Connection, progress: Progress) -> Any:
    while True:
        kind, value = json.loads(connection.recv_bytes(_LONGEST_MESSAGE))
        if kind == "answer":
            return value
        if kind == "failure":
            raise Crashed(str(value))
        progress(*value)


def _how_it_ended(exit_code: int) -> str:
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        return f"crashed with signal {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"crashed with signal {-exit_code}"


def _answer(
    connection: Connection, function: Callable[..., Any], arguments: tuple[Any, ...], limit: int, with_progress: bool
) -> None:
    """Run in the new process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends this one
    _limit_memory(limit)
    try:
        reporter = {"progress": _Reporter(connection)} if with_progress else {}
        message = json.dumps(["answer", function(*arguments, **reporter)])
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
    """Sends progress to the parent, now and then; ends with it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._reported = 0.0

    def __call__(self, done: int, total: int | None) -> None:
        now = time.monotonic()
        if done == total or now - self._reported >= _SECONDS_BETWEEN_REPORTS:
            self._reported = now
            self._connection.send_bytes(json.dumps(["progress", [done, total]]).encode())


def _ignore(done: int, total: int | None) -> None:
    pass
