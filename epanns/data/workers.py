"""Rows of samples computed by several processes: in order, bounded, handed over in memory that all of them share."""

import contextlib
import itertools
import mmap
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from multiprocessing.reduction import recv_handle, send_handle
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from epanns.errors import DataError
from epanns.signals import STOPPING

Item = TypeVar("Item")
Result = TypeVar("Result")
Rows = NDArray[np.int16]
_ROWS_PER_JOB = 8  # that may be worked on or wait for their turn, for each process; fewer where a row is large
_MOST_BYTES = 64 << 20  # of all rows together, as long as each process has two
_LARGEST_LEARNT = (32 << 20) - (1 << 16)  # bytes, below the limit with what malloc adds


def ordered_rows(
    function: Callable[[Item, Rows], Result],
    items: Iterable[Item],
    jobs: int,
    length: int,
    *,
    name: Callable[[Item], str] = str,
) -> Generator[tuple[Result, Rows], None, None]:
    """Yield ``function(item, row)`` and the row it filled, in the order of `items`, computed by `jobs` processes.

    A row holds until the next one is asked for. No more than a few items per process are taken before their turn, so
    memory does not grow with them. One job means this process. The processes do not notice the signals that end a
    program: they end with this one, even where it is killed.

    Args:
        function: Fills ``(length,)`` int16 and returns what else there is to say; must pass to other processes.
        items: What to call it with.
        jobs: Processes.
        length: Samples of a row.
        name: What to call an item in messages.

    Raises:
        DataError: If a process dies, as it does when memory runs out or a decoder crashes; its item is named.
        OSError: If there is no memory for the rows.
    """
    if jobs <= 1:
        _keep_freed_memory()
        row = np.empty(length, np.int16)
        for item in items:
            yield function(item, row), row
        return
    n_rows = jobs * max(2, min(_ROWS_PER_JOB, _MOST_BYTES // (2 * length * jobs)))
    with _shared_rows(n_rows, length) as (rows, descriptor), _started(function, jobs, rows, descriptor) as workers:
        yield from _Turns[Item, Result](workers, rows, name).run(items)


class _Failure:
    """What an item met instead of a result; the parent raises it."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class _Turns(Generic[Item, Result]):
    """Who works on what, and whose turn it is."""

    def __init__(self, workers: list["_Worker"], rows: Rows, name: Callable[[Item], str]) -> None:
        self._workers = workers
        self._rows = rows
        self._name = name
        self._free = deque(range(len(rows)))
        self._waiting: deque[int] = deque()  # the rows that are handed out, in the order of their items
        self._outcomes: dict[int, Result | _Failure] = {}

    def run(self, items: Iterable[Item]) -> Iterator[tuple[Result, Rows]]:
        """Hand out items as rows become free, and yield the outcomes in the order of the items."""
        stream = iter(items)
        self._hand_out(stream)
        while self._waiting:
            row = self._waiting.popleft()
            while row not in self._outcomes:
                self._receive()
            outcome = self._outcomes.pop(row)
            if isinstance(outcome, _Failure):
                raise outcome.error
            yield outcome, self._rows[row]
            self._free.append(row)
            self._hand_out(stream)

    def _hand_out(self, stream: Iterator[Item]) -> None:
        for item in itertools.islice(stream, len(self._free)):
            row = self._free.popleft()
            worker = min(self._workers, key=lambda worker: len(worker.names))
            worker.names.append(self._name(item))
            with self._deaths(worker):
                worker.pipe.send((row, item))
            self._waiting.append(row)

    def _receive(self) -> None:
        """Take in what the workers have done since; wait for one where it is nothing."""
        busy = [worker for worker in self._workers if worker.names]
        ready = wait([worker.pipe for worker in busy])
        for worker in busy:
            if worker.pipe in ready:
                with self._deaths(worker):
                    row, outcome = worker.pipe.recv()
                self._outcomes[row] = outcome
                worker.names.popleft()

    @contextmanager
    def _deaths(self, worker: "_Worker") -> Iterator[None]:
        try:
            yield
        except (EOFError, ConnectionError) as error:
            raise DataError(
                f"{worker.names[0]}: one of {len(self._workers)} worker processes died at it, perhaps for want of "
                "memory; run the same command again, with fewer --jobs; remove the clip if it stays"
            ) from error


class _Worker:
    """A process and the way to it; `names` are those of the items that it has, the one it works on first."""

    def __init__(self, process: SpawnProcess, pipe: Connection) -> None:
        self.process, self.pipe = process, pipe
        self.names: deque[str] = deque()


@contextmanager
def _shared_rows(n_rows: int, length: int) -> Iterator[tuple[Rows, int]]:
    """Yield ``(n_rows, length)`` of memory without a name, so that nothing is left of it whoever dies."""
    descriptor = os.memfd_create("epanns")
    try:
        os.posix_fallocate(descriptor, 0, 2 * n_rows * length)  # now or never: later, want of memory would be a crash
        yield _rows_in(descriptor, n_rows, length), descriptor
    finally:
        os.close(descriptor)


def _rows_in(descriptor: int, n_rows: int, length: int) -> Rows:
    return np.frombuffer(mmap.mmap(descriptor, 2 * n_rows * length), np.int16).reshape(n_rows, length)


@contextmanager
def _started(
    function: Callable[[Item, Rows], Result], jobs: int, rows: Rows, descriptor: int
) -> Iterator[list[_Worker]]:
    """Start the processes, and kill them at the end: they hold nothing that could be lost."""
    context = multiprocessing.get_context("spawn")  # a fork would copy the locks of torch's and HDF5's threads
    workers: list[_Worker] = []
    try:
        with _signals_held_back():
            for _ in range(jobs):
                ours, theirs = context.Pipe()
                process = context.Process(target=_work, args=(theirs, function, rows.shape), daemon=True)
                workers.append(_Worker(process, ours))
                process.start()
                theirs.close()
        for worker in workers:
            send_handle(worker.pipe, descriptor, worker.process.pid or 0)
        yield workers
    finally:
        for worker in workers:
            worker.pipe.close()
            if worker.process.pid is not None:
                worker.process.kill()
                worker.process.join()


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Start processes in which the signals that end a program stay blocked from their first moment on."""
    resource_tracker.ensure_running()  # it would unblock them when it is started, with the first process
    former = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def _work(pipe: Connection, function: Callable[[Item, Rows], Result], shape: tuple[int, int]) -> None:
    """Be a worker process: fill rows until the parent is gone."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent.sentinel,), daemon=True).start()
    _keep_freed_memory()
    with contextlib.suppress(EOFError, ConnectionError):  # nobody is there to be told
        rows = _rows_in(recv_handle(pipe), *shape)
        while True:
            row, item = pipe.recv()
            pipe.send((row, _outcome_of(function, item, rows[row])))


def _keep_freed_memory() -> None:
    """Let arrays of a few megabytes reuse memory; for each of them asking the system again costs a seventh of the time.

    glibc learns from the largest block that was freed what it should keep ("dynamic mmap threshold", at most 32 MB).
    Memory that is never written to costs nothing.
    """
    np.empty(_LARGEST_LEARNT, np.uint8)


def _outcome_of(function: Callable[[Item, Rows], Result], item: Item, row: Rows) -> Result | _Failure:
    try:
        return function(item, row)
    except Exception as error:
        return _Failure(error)


def _end_after(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
