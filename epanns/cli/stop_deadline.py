"""The time that a command has after a signal, before its process ends whatever it waits for."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from epanns.cli.terminal import write_message
from epanns.signals import STOPPING

SECONDS = 5.0


@contextmanager
def ends_soon_after_signal(state: str) -> Iterator[None]:
    """End this process `SECONDS` after the first signal that ends a program, unless the block ended before.

    A block that notices signals ends at its next safe point, and a file on a hung disk may keep it from there. It must
    be one that may be killed at any moment. Outside the main thread nothing changes.

    Args:
        state: What the process leaves and how to resume, for the line on stderr.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ended = threading.Event()
    numbers, woken = socket.socketpair()
    woken.setblocking(False)
    former = signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(numbers, ended, state), daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(former)
        woken.close()


def _watch(numbers: socket.socket, ended: threading.Event, state: str) -> None:
    """Wait for the byte that the interpreter writes for each signal, even where its main thread is not free."""
    with numbers:
        number = 0
        while number not in STOPPING:
            received = numbers.recv(1)
            if not received:
                return  # the block ended
            number = received[0]
    if not ended.wait(SECONDS):
        write_message(f"epanns: stopped by signal {number}; {state}")
        os._exit(128 + number)
