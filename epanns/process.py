"""This process: stop a long command on a signal at its next safe point, and reuse freed memory."""

import ctypes
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Ctrl-C, the usual signal to end a process, and Slurm's early warning (``--signal=USR1@120``).
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Stopped(Exception):  # noqa: N818 - no error, but a request
    """Raised at a safe point after a signal; the command turns it into `errors.Interrupted`."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


class StopRequest:
    """Whether a signal has requested to stop.

    Attributes:
        signal_number: The first signal received, or None.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def raise_if_stopped(self) -> None:
        """Raise `Stopped` if a signal was received."""
        if self.signal_number is not None:
            raise Stopped(self.signal_number)


@contextmanager
def catching_signals() -> Iterator[StopRequest]:
    """Record the signals of `STOPPING` instead of ending the process; restore the former handlers on exit.

    Does nothing outside the main thread, where Python sets no handlers.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handle(number: int, _frame: FrameType | None) -> None:
        if request.signal_number is None:
            request.signal_number = number

    former = {number: signal.signal(number, handle) for number in STOPPING}
    try:
        yield request
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextmanager
def blocking_signals() -> Iterator[None]:
    """Block the signals of `STOPPING` in the processes that are started in a block."""
    former = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # numbers of the two settings in glibc


def keep_freed_memory() -> bool:
    """Make this process reuse the memory it frees instead of returning it to the system, until it ends.

    glibc returns blocks above 32 MiB to the system, which fills every page of the next block with zeros. Training
    allocates maps and gradients of this size at each step, in the same sizes, so the peak of the process hardly grows;
    if blocks grow from step to step, gaps remain between them and the peak can be larger. The commands that train or
    score call this function; the library does not, since it does not own the process.

    Returns:
        Whether the C library supports it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))


_LARGEST_KEPT = (32 << 20) - (1 << 16)  # bytes; glibc's largest dynamic threshold, without what malloc adds


def keep_freed_arrays() -> None:
    """Let this process reuse the memory of freed arrays of up to 32 MB, and return larger ones to the system.

    glibc raises its threshold to the size of the largest block that was freed. Unlike after `keep_freed_memory`, the
    peak does not grow with gaps between large blocks. Memory that is never written costs nothing.
    """
    import numpy as np  # not needed to print help

    np.empty(_LARGEST_KEPT, np.uint8)
