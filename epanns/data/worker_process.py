"""A process that fills rows in memory it shares with its parent, and the parent's way to it."""

import contextlib
import mmap
import multiprocessing
import os
import threading
import traceback
from collections import deque
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from epanns.data.contained import how_it_ended
from epanns.data.system_limits import is_want_of_resources
from epanns.errors import DataError
from epanns.signals import blocking_signals

Item = TypeVar("Item")
Result = TypeVar("Result")
Rows = NDArray[np.int16]
READY = "ready"  # the first message of a worker; each of the others is a row and its outcome
_SECONDS_TO_END = 5.0  # a process that waits for a hung disk ends when the disk answers
_LARGEST_LEARNT = (32 << 20) - (1 << 16)  # bytes, below the limit with what malloc adds


class Failure:
    """What an item met instead of a result, as text: not every exception can pass to another process.

    Attributes:
        is_want: Whether the system lacked memory or another resource, which is no fault of the item.
    """

    def __init__(self, error: Exception) -> None:
        self.is_want = is_want_of_resources(error)
        self._text = " ".join(f"{type(error).__name__}: {error}".split())
        self._traceback = "".join(traceback.format_exception(error))

    def error_at(self, name: str) -> DataError:
        """Return the error to raise for the item of this name."""
        if self.is_want:
            error = DataError(
                f"{name}: the system lacks memory or another resource for it, also when nothing else is worked on "
                f"({self._text}); free memory or raise the limit, then run the same command again: what is finished "
                "is kept"
            )
        else:
            error = DataError(f"{name}: {self._text}; remove the clip, or see with --debug where it happens")
        error.add_note(self._traceback)
        return error


class Worker:
    """A process and the way to it.

    Attributes:
        tasks: The rows and items that it has, the one it works on first.
        is_ready: Whether it has started and sent `READY`.
    """

    is_ready: bool
    pipe: Connection
    _process: SpawnProcess

    def __init__(self, function: Callable[[Any, Rows], Any], shape: tuple[int, int], descriptor: int) -> None:
        self._function, self._shape, self._descriptor = function, shape, descriptor
        self.tasks: deque[tuple[int, Any]] = deque()
        self._start()

    def _start(self) -> None:
        self.is_ready = False
        context = multiprocessing.get_context("spawn")  # a fork would copy the locks of torch's and HDF5's threads
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, self._function, self._shape), daemon=True)
        resource_tracker.ensure_running()  # it would unblock signals when it is started, with the first process
        with theirs, blocking_signals():
            self._process.start()
        with contextlib.suppress(ConnectionError):  # it is dead already, which the next one to ask it will see
            send_handle(self.pipe, self._descriptor, self._process.pid or 0)

    def restart(self) -> None:
        """Replace the process, dead or alive, by a new one."""
        self.end()
        self._start()

    def end(self) -> None:
        """Kill the process: it holds nothing that could be lost."""
        self.pipe.close()
        if self._process.pid is not None:
            self._process.kill()
            self._process.join(_SECONDS_TO_END)

    def how_it_ended(self) -> str:
        """Return in words how a process ended that closed its pipe."""
        self._process.join(_SECONDS_TO_END)
        return how_it_ended(self._process.exitcode)


def rows_in(descriptor: int, n_rows: int, length: int) -> Rows:
    """Return shared memory as ``(n_rows, length)``."""
    return np.frombuffer(mmap.mmap(descriptor, 2 * n_rows * length), np.int16).reshape(n_rows, length)


def _work(pipe: Connection, function: Callable[[Item, Rows], Result], shape: tuple[int, int]) -> None:
    """Be a worker process: fill rows until the parent is gone."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent.sentinel,), daemon=True).start()
    reuse_freed_arrays()
    with contextlib.suppress(EOFError, ConnectionError):  # nobody is there to be told
        rows = rows_in(recv_handle(pipe), *shape)
        pipe.send(READY)
        while True:
            row, item = pipe.recv()
            _answer(pipe, row, outcome_of(function, item, rows[row]))


def _answer(pipe: Connection, row: int, outcome: Result | Failure) -> None:
    try:
        pipe.send((row, outcome))
    except ConnectionError:
        raise
    except Exception as error:  # the outcome cannot pass to another process
        pipe.send((row, Failure(error)))


def reuse_freed_arrays() -> None:
    """Let arrays of a few megabytes reuse memory, where each of them would be asked of the system again.

    Of less than `epanns.heap.keep_freed_memory`: glibc learns from the largest block that was freed what it should keep
    ("dynamic mmap threshold", at most 32 MB). Memory that is never written to costs nothing.
    """
    np.empty(_LARGEST_LEARNT, np.uint8)


def outcome_of(function: Callable[[Item, Rows], Result], item: Item, row: Rows) -> Result | Failure:
    """Return what a function says of an item, or what it raised."""
    try:
        return function(item, row)
    except Exception as error:
        return Failure(error)


def _end_after(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
