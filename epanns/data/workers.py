"""Ordered, bounded work in several processes."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import TypeVar

from epanns.errors import DataError

Item = TypeVar("Item")
Result = TypeVar("Result")
_WAITING_PER_JOB = 4  # results that may wait for their turn, for each process


def ordered_map(function: Callable[[Item], Result], items: Iterable[Item], jobs: int) -> Generator[Result, None, None]:
    """Yield ``function(item)`` in the order of `items`, computed by `jobs` processes.

    At most `_WAITING_PER_JOB` results per process exist at a time, so memory does not grow with the items.
    One job means this process.

    Raises:
        DataError: If a process dies, as it does when memory runs out.
    """
    if jobs <= 1:
        yield from map(function, items)
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy the locks of torch's and HDF5's threads
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin_worker) as executor:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(executor.submit(function, item))
                if len(waiting) >= jobs * _WAITING_PER_JOB:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise DataError(
                f"one of {jobs} worker processes died, perhaps for want of memory; "
                "run the same command again, with fewer --jobs"
            ) from error
        finally:
            executor.shutdown(wait=True, cancel_futures=True)


def _begin_worker() -> None:
    """Leave Ctrl-C to the parent, and end when the parent is gone, even if it was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent.sentinel,), daemon=True).start()


def _end_after(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
