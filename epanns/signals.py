"""Signals that end a long command: noticed at once, obeyed at the next safe point."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """What the handler leaves behind.

    Attributes:
        signal_number: The signal received, or None.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self.signal_number = number


@contextmanager
def noticing_signals() -> Iterator[StopRequest]:
    """Note SIGINT and SIGTERM instead of dying of them; the former handlers come back on exit.

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
