"""Rows of samples computed by a pool of processes: in order, bounded, in memory that the processes share.

Samples are not sent through the pool's pipes: a process that is killed while it sends a long message would leave half
of it there, and the pool would wait for the rest.
"""

import gc
import itertools
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from epanns.data.shared_array import SharedArray
from epanns.errors import ConfigError, DataError
from epanns.process import blocking_signals, keep_freed_arrays

Item = TypeVar("Item")
Result = TypeVar("Result")
Row = NDArray[np.int16]
_ROWS_PER_JOB = 8  # of each process, in work or finished before their turn; fewer where a row is large
_MOST_BYTES = 64 << 20  # of all rows together, as long as each process has two
_SECONDS_BETWEEN_CHECKS = 0.1


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
    not grow with the number of items. With one job the function runs in this process, otherwise in processes that end
    with this one, even if it is killed. An item whose process dies, as it does when memory runs out or a decoder
    crashes, is computed once more in a new process while no other item is in work; if that process dies too, the item
    gets the result of `crashed`. An item for which the function raises `MemoryError` is computed once more in the same
    way; if memory is still lacking, the error is raised.

    Args:
        function: Fills ``(length,)`` int16 and returns the rest of the result; it must be picklable.
        items: Arguments of the function.
        jobs: Number of processes.
        length: Samples of a row.
        name: Returns the name of an item for messages.
        crashed: Returns the result of an item whose process died twice, from the item and a description of how the
            process ended. Not called with one job, where a crash ends this process.
        check: Called before each item and several times a second during a wait; an exception that it raises ends the
            generator.

    Raises:
        DataError: If the function raises an exception, or a process dies as it starts; the message names the item.
        ConfigError: If there is no memory for the rows.
    """
    keep_freed_arrays()  # in this process too, which writes the shards
    if jobs > 1:
        yield from _Pool(function, jobs, length, name, crashed, check).run(items)
        return
    row = np.empty(length, np.int16)
    for item in items:
        check()
        try:
            try:
                result = function(item, row)
            except MemoryError:
                gc.collect()
                result = function(item, row)
        except Exception as error:
            raise _error_about(name(item), error) from error
        yield result, row


def _error_about(name: str, error: BaseException) -> DataError:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    if isinstance(error, MemoryError):
        return DataError(
            f"{name}: the system lacks memory or another resource for it, also when nothing else is decoded ({text}); "
            "free memory or raise the limit, then run the same command again: what is finished is kept"
        )
    return DataError(f"{name}: {text}; remove the clip, or see with --debug where it happens")


def describe_exit(exit_code: int | None) -> str:
    """Return a description of how a process ended, from the exit code of `multiprocessing`."""
    if exit_code is None or exit_code >= 0:
        return f"ended with exit code {exit_code}"
    names = {int(each): each.name for each in signal.Signals}
    return f"crashed with signal {names.get(-exit_code, -exit_code)}"


class _MarkedRows:
    """Rows of samples, and a mark for each of them, in memory that the processes share."""

    def __init__(self, n_rows: int, length: int) -> None:
        try:
            self._memory = SharedArray((n_rows, length + 1), reserve=True)  # a later lack of memory would be a crash
        except OSError as error:
            raise ConfigError(
                f"no memory for {2 * n_rows * length >> 20} MiB of rows that are decoded at a time ({error.strerror}): "
                "use fewer --jobs or shorter --seconds"
            ) from error

    @property
    def values(self) -> NDArray[np.int16]:
        """``(rows, length)``: the rows."""
        return self._memory.values[:, :-1]

    @property
    def is_begun(self) -> NDArray[np.int16]:
        """``(rows,)``: 1 where a process has begun to fill a row."""
        return self._memory.values[:, -1]

    def close(self) -> None:
        """Close the file; the memory stays until its last array is deleted."""
        self._memory.close()


_function: Callable[[Any, Row], Any]
_rows: _MarkedRows


def _begin(function: Callable[[Any, Row], Any], rows: _MarkedRows) -> None:
    """Prepare a process of the pool; it ends when its parent does."""
    global _function, _rows
    _function, _rows = function, rows
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: wait([parent.sentinel]) and os._exit(1), daemon=True).start()
    keep_freed_arrays()


def _compute(batch: Sequence[tuple[Any, int]]) -> list[Any]:
    """Fill some rows, and return for each of them the pickled result or the exception of the function."""
    outcomes: list[Any] = []
    for item, row in batch:
        _rows.is_begun[row] = True
        try:
            outcomes.append(pickle.dumps(_function(item, _rows.values[row])))
        except Exception as error:
            error.add_note(traceback.format_exc())  # the traceback itself cannot be sent
            outcomes.append(error)
    return outcomes


class _Processes:
    """A `ProcessPoolExecutor` whose processes share rows, do not receive signals, and can be killed."""

    def __init__(self, function: Callable[..., Any], jobs: int, rows: _MarkedRows) -> None:
        self._rows, self._jobs, self._former = rows, jobs, multiprocessing.active_children()
        self._children: list[BaseProcess] = []
        context = multiprocessing.get_context("spawn")  # a fork would copy the locks of torch's and HDF5's threads
        self._executor = ProcessPoolExecutor(jobs, context, _begin, (function, rows))

    def submit(self, tasks: Sequence["_Task[Any]"]) -> None:
        """Compute some tasks, one after the other in one process; in a broken pool their future has an exception."""
        for task in tasks:
            self._rows.is_begun[task.row] = False
        future: Future[list[Any]] = Future()
        try:
            with blocking_signals():  # for good in a process that this starts; `kill` ends it
                future = self._executor.submit(_compute, [(task.item, task.row) for task in tasks])
        except BrokenProcessPool as error:
            future.set_exception(error)
        for place, task in enumerate(tasks):
            task.future, task.place, task.is_submitted = future, place, True
        if len(self._children) < self._jobs:
            self._children += {*multiprocessing.active_children()} - {*self._former, *self._children}

    def kill(self) -> str:
        """End all processes, and return how the first one ended."""
        for child in self._children:
            child.kill()
        self._executor.shutdown(wait=True, cancel_futures=True)
        return describe_exit(self._children[0].exitcode if self._children else None)


@dataclass(eq=False)
class _Task(Generic[Item]):
    """An item with its row, and the place of its outcome in the result of a future."""

    item: Item
    row: int
    future: Future[list[Any]] = field(default_factory=Future)
    place: int = 0
    is_submitted: bool = False


class _Pool(Generic[Item, Result]):
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
        rows_per_job = max(2, min(_ROWS_PER_JOB, _MOST_BYTES // (2 * length * jobs)))
        self._batch_size = rows_per_job // 2  # a process has the next batch while the first one is yielded
        self._rows = _MarkedRows(jobs * rows_per_job, length)
        self._processes: _Processes | None = None
        self._tasks: deque[_Task[Item]] = deque()  # in the order of the items

    def run(self, items: Iterable[Item]) -> Iterator[tuple[Result, Row]]:
        """Submit items as rows become free, and yield the results in the order of the items."""
        stream, free = iter(items), deque(range(len(self._rows.values)))
        try:
            while True:
                if len(free) >= self._batch_size:
                    self._tasks.extend(_Task(item, free.popleft()) for item in itertools.islice(stream, len(free)))
                waiting = [task for task in self._tasks if not task.is_submitted]
                for first in range(0, len(waiting), self._batch_size):
                    self._processes = self._processes or _Processes(self._function, self._jobs, self._rows)
                    self._processes.submit(waiting[first : first + self._batch_size])
                if not self._tasks:
                    return
                task = self._tasks[0]
                outcome = self._outcome_of(task)
                if isinstance(outcome, BrokenProcessPool | MemoryError):
                    self._retry()
                    outcome = self._outcome_of(task)
                if isinstance(outcome, BaseException):
                    raise _error_about(self._name(task.item), outcome) from outcome
                yield outcome, self._rows.values[task.row]
                free.append(self._tasks.popleft().row)
        finally:
            if self._processes is not None:
                self._processes.kill()
            self._rows.close()

    def _outcome_of(self, task: _Task[Item]) -> Any:
        """Wait for an item, and return its result or the exception of its computation."""
        while True:
            try:
                error = task.future.exception(_SECONDS_BETWEEN_CHECKS)
            except TimeoutError:
                self._check()
                continue
            outcome = error or task.future.result()[task.place]
            return pickle.loads(outcome) if isinstance(outcome, bytes) else outcome

    def _retry(self) -> None:
        """Compute items whose process died or lacked memory again, one at a time with no other item in work."""
        outcomes = [self._outcome_of(task) for task in self._tasks]
        if self._processes is not None:
            self._processes.kill()
            self._processes = None
        is_begun, alone = self._rows.is_begun, None
        try:
            for task, outcome in zip(self._tasks, outcomes, strict=True):
                if task is not self._tasks[0] and isinstance(outcome, BrokenProcessPool) and not is_begun[task.row]:
                    task.is_submitted = False  # no process died at it: it is submitted again
                    continue
                if not isinstance(outcome, BrokenProcessPool | MemoryError):
                    continue
                alone = alone or _Processes(self._function, 1, self._rows)
                alone.submit([task])
                if not isinstance(self._outcome_of(task), BrokenProcessPool):
                    continue
                how_it_ended, alone = alone.kill(), None
                if not is_begun[task.row]:
                    raise DataError(
                        f"{self._name(task.item)}: the process that was to decode it {how_it_ended} as it started, "
                        "perhaps for want of memory; run the same command again, with fewer --jobs"
                    )
                task.future, task.place = Future(), 0
                task.future.set_result([pickle.dumps(self._crashed(task.item, how_it_ended))])
        finally:
            if alone is not None:
                alone.kill()
