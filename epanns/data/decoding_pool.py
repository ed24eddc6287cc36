"""Rows of samples computed by a pool of processes: in order, bounded, in memory that the processes share.

Samples are not sent through the pool's pipes: a process that is killed while it sends a long message would leave half
of it there, and the pool would wait for the rest.
"""

import gc
import itertools
import mmap
import multiprocessing
import os
import queue
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing.connection import wait as wait_for_process
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import DupFd
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from epanns.errors import ConfigError, DataError
from epanns.signals import blocking_signals

Item = TypeVar("Item")
Result = TypeVar("Result")
Row = NDArray[np.int16]
_ROWS_PER_JOB = 8  # of each process, in work or finished before their turn; fewer where a row is large
_MOST_BYTES = 64 << 20  # of all rows together, as long as each process has two
_MOST_CRASHES = 5  # consecutive items whose process dies: then the items are not the cause
_MOST_STARTS = 5  # attempts to start a process that dies before it is ready
_SECONDS_BETWEEN_CHECKS = 0.1
_LARGEST_KEPT = (32 << 20) - (1 << 16)  # bytes; glibc's largest dynamic threshold, without what malloc adds


def ordered_rows(
    function: Callable[[Item, Row], Result],
    items: Iterable[Item],
    jobs: int,
    length: int,
    *,
    name: Callable[[Item], str] = str,
    crashed: Callable[[Item, str], Result],
    check: Callable[[], None] = lambda: None,
) -> Generator[tuple[Result, Row], None, None]:
    """Yield ``function(item, row)`` and the row that it filled, in the order of the items.

    A row is valid until the next one is requested. A few items per process are taken before their turn, so memory does
    not grow with the number of items. With one job the function runs in a thread of this process, otherwise in
    processes that end with this one, even if it is killed. Where a process dies, as it does when memory runs out or a
    decoder crashes, its item is computed once more in a new process while no other item is in work; if that process
    dies too, the item gets the result of `crashed`. An item for which the function raises `MemoryError` is computed
    once more in the same way; if memory is still lacking, the error is raised.

    Args:
        function: Fills ``(length,)`` int16 and returns the rest of the result; it must be picklable.
        items: Arguments of the function.
        jobs: Number of processes.
        length: Samples of a row.
        name: Returns the name of an item for messages.
        crashed: Returns the result of an item whose process died twice, from the item and a description of how the
            process ended. Not called with one job, where a crash ends this process.
        check: Called several times a second during a wait; an exception that it raises ends the generator.

    Raises:
        DataError: If the function raises an exception, if the processes of several consecutive items die, or if
            processes die as they start. The message names the item.
        ConfigError: If there is no memory for the rows.
    """
    keep_freed_arrays()  # in this process too, which writes the shards
    if jobs > 1:
        yield from _Pooled(function, jobs, length, name, crashed, check).run(items)
        return
    row = np.empty(length, np.int16)
    for item in items:
        outcome = _in_thread(function, item, row, check)
        if isinstance(outcome, _Failure) and outcome.lacks_memory:
            gc.collect()
            outcome = _in_thread(function, item, row, check)
        if isinstance(outcome, _Failure):
            raise outcome.error_at(name(item))
        yield outcome, row


def describe_exit(exit_code: int | None) -> str:
    """Return a description of how a process ended, from the exit code of `multiprocessing`."""
    if exit_code is None or exit_code >= 0:
        return f"ended with exit code {exit_code}"
    known = {int(each): each.name for each in signal.Signals}
    return f"crashed with signal {known.get(-exit_code, -exit_code)}"


def keep_freed_arrays() -> None:
    """Let this process reuse the memory of freed arrays of a few megabytes instead of returning it to the system.

    glibc raises its threshold to the size of the largest block that was freed, up to 32 MB. Memory that is never
    written costs nothing.
    """
    np.empty(_LARGEST_KEPT, np.uint8)


@dataclass(frozen=True)
class _Failure:
    """An exception as text, since not every exception can be sent to another process.

    Attributes:
        text: Type and message on one line.
        trace: The traceback.
        lacks_memory: Whether it is a `MemoryError`, which is no fault of the item.
    """

    text: str
    trace: str
    lacks_memory: bool

    @classmethod
    def of(cls, error: BaseException) -> "_Failure":
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return cls(text, "".join(traceback.format_exception(error)), isinstance(error, MemoryError))

    def error_at(self, name: str) -> DataError:
        """Return the error about the item of this name."""
        if self.lacks_memory:
            error = DataError(
                f"{name}: the system lacks memory or another resource for it, also when nothing else is decoded "
                f"({self.text}); free memory or raise the limit, then run the same command again: what is finished "
                "is kept"
            )
        else:
            error = DataError(f"{name}: {self.text}; remove the clip, or see with --debug where it happens")
        error.add_note(self.trace)
        return error


def _in_thread(
    function: Callable[[Item, Row], Result], item: Item, row: Row, check: Callable[[], None]
) -> Result | _Failure:
    """Run a function in a thread that does not keep the process alive, and call `check` meanwhile."""
    outcomes: queue.SimpleQueue[Result | _Failure] = queue.SimpleQueue()

    def run() -> None:
        try:
            outcomes.put(function(item, row))
        except Exception as error:
            outcomes.put(_Failure.of(error))

    threading.Thread(target=run, daemon=True).start()
    while True:
        try:
            return outcomes.get(timeout=_SECONDS_BETWEEN_CHECKS)
        except queue.Empty:
            check()


class _SharedRows:
    """``(rows, length)`` int16 in an anonymous file, which disappears with its last process.

    Attributes:
        values: The rows.
        is_begun: ``(rows,)``, 1 where a process has begun to fill a row.
    """

    def __init__(self, n_rows: int, length: int) -> None:
        self._shape = n_rows, length + 1
        file = os.memfd_create("epanns")
        try:
            os.posix_fallocate(file, 0, 2 * n_rows * (length + 1))  # a later lack of memory would be a crash
        except OSError as error:
            os.close(file)
            raise ConfigError(
                f"no memory for {2 * n_rows * length >> 20} MiB of rows that are decoded at a time ({error.strerror}): "
                "use fewer --jobs or shorter --seconds"
            ) from error
        self._open(file)

    def _open(self, file: int) -> None:
        self._file = file
        memory = np.frombuffer(mmap.mmap(file, 0), np.int16).reshape(self._shape)
        self.values, self.is_begun = memory[:, :-1], memory[:, -1]

    def __getstate__(self) -> tuple[tuple[int, int], Any]:
        return self._shape, DupFd(self._file)  # valid while a process is spawned

    def __setstate__(self, state: tuple[tuple[int, int], Any]) -> None:
        self._shape, file = state
        self._open(file.detach())

    def close(self) -> None:
        """Close the file; the memory stays until its last array is deleted."""
        os.close(self._file)


class _Processes:
    """A process pool whose processes share rows and can be killed.

    Attributes:
        ready: Done when a process has started, or the pool is broken.
    """

    def __init__(self, function: Callable[..., Any], jobs: int, rows: _SharedRows) -> None:
        self._rows, self._former = rows, multiprocessing.active_children()
        self._children: list[BaseProcess] = []
        context = multiprocessing.get_context("spawn")  # a fork would copy the locks of torch's and HDF5's threads
        self._pool, self._jobs = ProcessPoolExecutor(jobs, context, _start, (function, rows)), jobs
        self.ready = self._submit(os.getpid)

    def submit(self, item: object, row: int) -> Future[Any]:
        """Return the outcome to come of an item; that of a broken pool is an exception."""
        self._rows.is_begun[row] = False
        return self._submit(_compute, item, row)

    def _submit(self, function: Callable[..., Any], *arguments: object) -> Future[Any]:
        try:
            with blocking_signals():  # for good in a process that this starts; `kill` ends it
                future = self._pool.submit(function, *arguments)
        except BrokenProcessPool as error:
            future = Future()
            future.set_exception(error)
        if len(self._children) < self._jobs:
            self._children += {*multiprocessing.active_children()} - {*self._former, *self._children}
        return future

    def kill(self) -> str:
        """End all processes, which hold nothing that could be lost; return how the first one ended."""
        for child in self._children:
            child.kill()
        self._pool.shutdown(wait=True, cancel_futures=True)
        return describe_exit(self._children[0].exitcode if self._children else None)


_function: Callable[[Any, Row], Any]
_rows: _SharedRows


def _start(function: Callable[[Any, Row], Any], rows: _SharedRows) -> None:
    """Prepare a process of the pool."""
    global _function, _rows
    _function, _rows = function, rows
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: wait_for_process([parent.sentinel]) and os._exit(1), daemon=True).start()
    keep_freed_arrays()


def _compute(item: Any, row: int) -> Any:
    """Compute one item in a process of the pool."""
    _rows.is_begun[row] = True
    try:
        return _function(item, _rows.values[row])
    except Exception as error:
        return _Failure.of(error)


@dataclass(eq=False)
class _Task(Generic[Item]):
    item: Item
    row: int
    future: Future[Any] = field(default_factory=Future)
    is_given_up: bool = False

    @property
    def is_broken(self) -> bool:
        """Whether the pool broke before the item was finished."""
        return isinstance(self.future.exception(), BrokenProcessPool)

    @property
    def outcome(self) -> Any:
        """The result or `_Failure` of a finished item."""
        error = self.future.exception()  # of a result that cannot be sent to this process
        return self.future.result() if error is None else _Failure.of(error)

    @property
    def is_to_retry(self) -> bool:
        """Whether the item's process died or lacked memory."""
        return self.is_broken or (isinstance(self.outcome, _Failure) and self.outcome.lacks_memory)


class _Pooled(Generic[Item, Result]):
    """The items in work, and the retries of items whose process died or lacked memory."""

    def __init__(
        self,
        function: Callable[[Item, Row], Result],
        jobs: int,
        length: int,
        name: Callable[[Item], str],
        crashed: Callable[[Item, str], Result],
        check: Callable[[], None],
    ) -> None:
        self._function, self._jobs, self._name, self._crashed, self._check = function, jobs, name, crashed, check
        self._rows = _SharedRows(jobs * max(2, min(_ROWS_PER_JOB, _MOST_BYTES // (2 * length * jobs))), length)
        self._processes: _Processes | None = None
        self._tasks: deque[_Task[Item]] = deque()  # in the order of the items
        self._n_crashes = 0  # consecutive

    def run(self, items: Iterable[Item]) -> Iterator[tuple[Result, Row]]:
        """Submit items as rows become free, and yield the outcomes in the order of the items."""
        stream = iter(items)
        free = deque(range(len(self._rows.values)))
        try:
            while True:
                for item in itertools.islice(stream, len(free)):
                    self._tasks.append(_Task(item, free.popleft()))
                    self._submit(self._tasks[-1])
                if not self._tasks:
                    return
                task = self._tasks[0]
                self._wait_for(task.future)
                if task.is_to_retry:
                    self._retry()
                elif not task.is_given_up:
                    self._n_crashes = 0
                if isinstance(task.outcome, _Failure):
                    raise task.outcome.error_at(self._name(task.item))
                yield task.outcome, self._rows.values[task.row]
                free.append(self._tasks.popleft().row)
        finally:
            if self._processes is not None:
                self._processes.kill()
            self._rows.close()

    def _submit(self, task: _Task[Item]) -> None:
        if self._processes is None:
            self._processes = _Processes(self._function, self._jobs, self._rows)
        task.future = self._processes.submit(task.item, task.row)

    def _wait_for(self, future: Future[Any]) -> None:
        while not wait([future], _SECONDS_BETWEEN_CHECKS).done:
            self._check()

    def _retry(self) -> None:
        """Compute items again: those whose process died or lacked memory one at a time, with no other item in work."""
        for task in self._tasks:
            self._wait_for(task.future)
        if self._processes is not None:
            self._processes.kill()
            self._processes = None
        not_begun = [task for task in self._tasks if task.is_broken and not self._rows.is_begun[task.row]]
        alone: _Processes | None = None
        try:
            for task in self._tasks:
                if task.is_to_retry and task not in not_begun:
                    alone = self._compute_alone(task, alone)
                elif task not in not_begun:
                    self._n_crashes = 0
        finally:
            if alone is not None:
                alone.kill()
        for task in not_begun:
            self._submit(task)

    def _compute_alone(self, task: _Task[Item], alone: _Processes | None) -> _Processes | None:
        """Compute an item in a pool of one process; return the pool, or None if the process died."""
        alone = alone or self._start_one(task)
        task.future = alone.submit(task.item, task.row)
        try:
            self._wait_for(task.future)
        except BaseException:
            alone.kill()
            raise
        if not task.is_broken:
            self._n_crashes = 0
            return alone
        how_it_ended = alone.kill()
        self._n_crashes += 1
        if self._n_crashes == _MOST_CRASHES:
            raise DataError(
                f"{self._name(task.item)}: two processes died at it, as at {_MOST_CRASHES - 1} clips before it, "
                "perhaps for want of memory; run the same command again, with fewer --jobs; remove the clip if it stays"
            )
        task.future, task.is_given_up = Future(), True
        task.future.set_result(self._crashed(task.item, how_it_ended))
        return None

    def _start_one(self, task: _Task[Item]) -> _Processes:
        """Return a pool of one process, which has started."""
        how_it_ended = ""
        for _ in range(_MOST_STARTS):
            processes = _Processes(self._function, 1, self._rows)
            try:
                self._wait_for(processes.ready)
            except BaseException:
                processes.kill()
                raise
            if processes.ready.exception() is None:
                return processes
            how_it_ended = processes.kill()
        raise DataError(
            f"{self._name(task.item)}: the process that was to decode it {how_it_ended} as it started, {_MOST_STARTS} "
            "times in a row, perhaps for want of memory; run the same command again, with fewer --jobs"
        )
