"""Signals that end a long command: noticed at once, obeyed at the next safe point."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Ctrl-C; what ends a process; and Slurm's early warning (``--signal=USR1@120``).
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Stopped(Exception):  # noqa: N818 - not an error: what was asked for
    """A signal came, and this is a safe point; the command that notices it turns it into `errors.Interrupted`."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


class StopRequest:
    """What the handler leaves behind.

    Attributes:
        signal_number: The first signal received, or None.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def obey(self) -> None:
        """Raise `Stopped` if a signal came."""
        if self.signal_number is not None:
            raise Stopped(self.signal_number)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.signal_number is None:
            self.signal_number = number


@contextmanager
def noticing_signals() -> Iterator[StopRequest]:
    """Note the signals that end a program instead of dying of them; the former handlers come back on exit.

    Outside the main thread, where Python sets no handlers, nothing changes.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    former = {number: signal.signal(number, request._handle) for number in STOPPING}
    try:
        yield request
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextmanager
def signals_held_back() -> Iterator[None]:
    """Start processes in which the signals that end a program stay blocked from their first moment on."""
    former = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)
