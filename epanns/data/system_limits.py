"""Errors that the limits of the system cause: want of memory, processes, threads or open files.

Such an error says nothing about the file that was read when it came.
"""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from epanns.errors import OutputError

_ERRNOS = frozenset({errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE})
# libsndfile's: no memory; no FLAC decoder could be made; the FLAC decoder could not be initialised, for want of memory.
_LIBSNDFILE_CODES = frozenset({17, 156, 157})
_WORDS = re.compile(r"\bmalloc\b|out of memory|cannot allocate|can't start new thread|bad_alloc", re.IGNORECASE)


def is_want_of_resources(error: BaseException) -> bool:
    """Return whether an error, or an error that it was raised from, is the want of a resource of the system."""
    return any(_is_want(cause) for cause in _causes(error))


def is_memory_short(n_bytes: int) -> bool:
    """Return whether this process cannot get so many bytes of memory."""
    try:
        np.empty(n_bytes, np.uint8)  # never written to, so that only its address space is taken
    except MemoryError:
        return True
    return False


@contextmanager
def output_errors(out: Path, jobs: int) -> Iterator[None]:
    """Name what helps when the disk is full, `out` may not be written to, or the system has no more to give.

    Raises:
        OutputError: If that is so.
    """
    try:
        yield
    except (OSError, MemoryError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        if is_want_of_resources(error):
            fewer = " or give fewer --jobs" if jobs > 1 else ""
            raise OutputError(
                f"{out}: the system has no more memory, processes or open files to give ({reason}); free some{fewer}, "
                "and run the same command again: finished shards are kept"
            ) from error
        if not isinstance(error, OSError):
            raise
        raise OutputError(
            f"{out}: cannot be written ({reason}); make room or choose another --out, then run the "
            "same command again: finished shards are kept"
        ) from error


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        yield cause
        seen.append(cause)
        cause = cause.__cause__


def _is_want(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in _ERRNOS
    if isinstance(error, RuntimeError):
        return getattr(error, "code", None) in _LIBSNDFILE_CODES or _WORDS.search(str(error)) is not None
    return isinstance(error, MemoryError)
