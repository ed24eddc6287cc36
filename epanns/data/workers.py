"""Rows of samples computed by several processes: in order, bounded, handed over in memory that all of them share."""

import contextlib
import gc
import itertools
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from multiprocessing.connection import wait
from typing import Generic, TypeVar

import numpy as np

from epanns.data.worker_process import READY, Failure, Rows, Worker, outcome_of, reuse_freed_arrays, rows_in
from epanns.errors import ConfigError, DataError

Item = TypeVar("Item")
Result = TypeVar("Result")
_ROWS_PER_JOB = 8  # that may be worked on or wait for their turn, for each process; fewer where a row is large
_MOST_BYTES = 64 << 20  # of all rows together, as long as each process has two
_MOST_CRASHES = 5  # items in a row that end their process: then it is not the items
_MOST_STARTS = 5  # of one process that ends before it is ready for an item
_SECONDS_BETWEEN_CHECKS = 0.1


def _no_check() -> None:
    pass


def ordered_rows(
    function: Callable[[Item, Rows], Result],
    items: Iterable[Item],
    jobs: int,
    length: int,
    *,
    name: Callable[[Item], str] = str,
    crashed: Callable[[Item, str], Result] | None = None,
    check: Callable[[], None] = _no_check,
) -> Generator[tuple[Result, Rows], None, None]:
    """Yield ``function(item, row)`` and the row it filled, in the order of `items`, computed by `jobs` processes.

    A row holds until the next one is asked for. No more than a few items per process are taken before their turn, so
    memory does not grow with them. One job means a thread of this process. The processes do not notice the signals that
    end a program: they end with this one, even where it is killed. Where one dies, as it does when memory runs out or a
    decoder crashes, its item is tried once more, in a new process and while no other is worked on, and given up if that
    process dies too. An item for which the system lacks memory is tried once more in the same way, and is never given
    up: if memory is still wanting, the error is raised.

    Args:
        function: Fills ``(length,)`` int16 and returns what else there is to say; must pass to other processes.
        items: What to call it with.
        jobs: Processes.
        length: Samples of a row.
        name: What to call an item in messages.
        crashed: Gives the result of an item that is given up, from the item and how its process ended; its row holds
            anything. With one job there is no such item: what crashes ends this process.
        check: Called several times a second while an item is waited for; what it raises ends the rows.

    Raises:
        DataError: If `function` raises, whatever it is; if an item is given up and there is no `crashed`, or several
            are in a row; if processes end as they start. The item is named.
        ConfigError: If there is no memory for the rows.
    """
    reuse_freed_arrays()  # here too: the process that writes the shards
    if jobs <= 1:
        with closing(_Thread(function)) as thread:
            row = np.empty(length, np.int16)
            for item in items:
                outcome = thread.outcome(item, row, check)
                if isinstance(outcome, Failure):
                    raise outcome.error_at(name(item))
                yield outcome, row
        return
    n_rows = jobs * max(2, min(_ROWS_PER_JOB, _MOST_BYTES // (2 * length * jobs)))
    with _shared_rows(n_rows, length) as (rows, descriptor), _started(function, jobs, rows, descriptor) as workers:
        yield from _Turns[Item, Result](workers, rows, name, crashed, check).run(items)


class _Thread(Generic[Item, Result]):
    """A thread that works on one item at a time; it ends with the process even where an item hangs."""

    def __init__(self, function: Callable[[Item, Rows], Result]) -> None:
        self._function = function
        self._asked: queue.SimpleQueue[tuple[Item, Rows] | None] = queue.SimpleQueue()
        self._outcomes: queue.SimpleQueue[Result | Failure] = queue.SimpleQueue()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while (task := self._asked.get()) is not None:
            self._outcomes.put(outcome_of(self._function, *task))

    def outcome(self, item: Item, row: Rows, check: Callable[[], None]) -> Result | Failure:
        """Work on an item, and once more where the system lacked memory for it; call `check` meanwhile."""
        outcome = self._outcome(item, row, check)
        if isinstance(outcome, Failure) and outcome.is_want:
            gc.collect()
            outcome = self._outcome(item, row, check)
        return outcome

    def _outcome(self, item: Item, row: Rows, check: Callable[[], None]) -> Result | Failure:
        self._asked.put((item, row))
        while True:
            try:
                return self._outcomes.get(timeout=_SECONDS_BETWEEN_CHECKS)
            except queue.Empty:
                check()

    def close(self) -> None:
        """Let the thread end after the item that it works on."""
        self._asked.put(None)


class _Turns(Generic[Item, Result]):
    """Who works on what, and whose turn it is."""

    def __init__(
        self,
        workers: list["Worker"],
        rows: Rows,
        name: Callable[[Item], str],
        crashed: Callable[[Item, str], Result] | None,
        check: Callable[[], None],
    ) -> None:
        self._workers, self._rows, self._name, self._crashed, self._check = workers, rows, name, crashed, check
        self._free = deque(range(len(rows)))
        self._waiting: deque[tuple[int, Item]] = deque()  # the rows that are handed out, in the order of their items
        self._outcomes: dict[int, Result | Failure] = {}
        self._n_crashes = 0  # in a row

    def run(self, items: Iterable[Item]) -> Iterator[tuple[Result, Rows]]:
        """Hand out items as rows become free, and yield the outcomes in the order of the items."""
        stream = iter(items)
        self._hand_out(stream)
        while self._waiting:
            row, item = self._waiting.popleft()
            while row not in self._outcomes:
                self._receive()
            outcome = self._outcomes.pop(row)
            if isinstance(outcome, Failure) and outcome.is_want:
                self._work_alone(self._workers[0], (row, item))
                outcome = self._outcomes.pop(row)
            if isinstance(outcome, Failure):
                raise outcome.error_at(self._name(item))
            yield outcome, self._rows[row]
            self._free.append(row)
            self._hand_out(stream)

    def _hand_out(self, stream: Iterator[Item]) -> None:
        for item in itertools.islice(stream, len(self._free)):
            row = self._free.popleft()
            self._waiting.append((row, item))
            self._give(min(self._workers, key=lambda worker: len(worker.tasks)), (row, item))

    def _give(self, worker: "Worker", task: tuple[int, Item]) -> None:
        worker.tasks.append(task)
        try:
            worker.pipe.send(task)
        except ConnectionError:
            self._replace(worker)

    def _receive(self) -> None:
        """Take in what the workers have done since; wait for one where it is nothing."""
        busy = [worker for worker in self._workers if worker.tasks]
        ready = self._wait_for(busy)
        for worker in busy:
            if worker.pipe in ready and worker.tasks and not self._take_in(worker):
                self._replace(worker)

    def _wait_for(self, workers: list["Worker"]) -> list[object]:
        """Return the pipes of workers that have something to read; at least one."""
        while not (ready := wait([worker.pipe for worker in workers], _SECONDS_BETWEEN_CHECKS)):
            self._check()
        return list(ready)

    def _take_in(self, worker: "Worker") -> bool:
        """Take in one message of a worker; return whether it lives."""
        try:
            message = worker.pipe.recv()
        except (EOFError, OSError):
            return False
        if message == READY:
            worker.is_ready = True
            return True
        row, self._outcomes[row] = message
        worker.tasks.popleft()
        self._n_crashes = 0
        return True

    def _replace(self, worker: "Worker") -> None:
        """Start a process anew; the item that the former died at is tried once more, while no other is worked on."""
        suspect, *others = worker.tasks
        worker.tasks.clear()
        self._work_alone(worker, suspect)
        for task in others:
            self._give(worker, task)

    def _work_alone(self, worker: "Worker", task: tuple[int, Item]) -> None:
        """Work on one item in a new process, while no other is worked on; give it up if the process dies."""
        while any(other.tasks for other in self._workers):
            self._receive()
        for _ in range(_MOST_STARTS):
            worker.restart()
            worker.tasks.append(task)
            with contextlib.suppress(ConnectionError):
                worker.pipe.send(task)
            is_alive = True
            while is_alive and worker.tasks:
                self._wait_for([worker])
                is_alive = self._take_in(worker)
            worker.tasks.clear()
            if is_alive:
                return
            if worker.is_ready:
                self._give_up(*task, worker.how_it_ended())
                worker.restart()
                return
        raise DataError(
            f"{self._name(task[1])}: a process that was to work on it {worker.how_it_ended()} as it started, "
            f"{_MOST_STARTS} times in a row, perhaps for want of memory; run the same command again, with fewer --jobs"
        )

    def _give_up(self, row: int, item: Item, how_it_ended: str) -> None:
        self._n_crashes += 1
        if self._crashed is None or self._n_crashes == _MOST_CRASHES:
            before = f", as at {self._n_crashes - 1} items before it" if self._n_crashes > 1 else ""
            raise DataError(
                f"{self._name(item)}: two worker processes died at it{before}, perhaps for want of memory; run the "
                "same command again, with fewer --jobs; remove the clip if it stays"
            )
        self._outcomes[row] = self._crashed(item, how_it_ended)


@contextmanager
def _shared_rows(n_rows: int, length: int) -> Iterator[tuple[Rows, int]]:
    """Yield ``(n_rows, length)`` of memory without a name, so that nothing is left of it whoever dies."""
    descriptor = os.memfd_create("epanns")
    try:
        try:
            os.posix_fallocate(descriptor, 0, 2 * n_rows * length)  # later, want of memory would be a crash
        except OSError as error:
            raise ConfigError(
                f"no memory for {2 * n_rows * length >> 20} MiB of rows that are worked on ({error.strerror}): use "
                "fewer --jobs or shorter --seconds"
            ) from error
        yield rows_in(descriptor, n_rows, length), descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _started(
    function: Callable[[Item, Rows], Result], jobs: int, rows: Rows, descriptor: int
) -> Iterator[list[Worker]]:
    """Start the processes, and kill them at the end."""
    workers: list[Worker] = []
    try:
        for _ in range(jobs):
            workers.append(Worker(function, (len(rows), rows.shape[1]), descriptor))
        yield workers
    finally:
        for worker in workers:
            worker.end()
