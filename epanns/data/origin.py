"""The audio file that a row of a pack was made from: how it was then, and whether it still is."""

import functools
import os
from dataclasses import dataclass
from pathlib import Path

from epanns import atomic
from epanns.audio.waveform import require_regular_file
from epanns.errors import DataError


@dataclass(frozen=True, slots=True)
class Source:
    """State of an audio file when it was packed: size in bytes, time of change in ns, sha256 of its bytes."""

    size: int
    mtime_ns: int
    sha256: str


def read_source(path: str) -> Source:
    """Return the state of a file.

    Raises:
        DataError: If it cannot be read, or is no regular file.
    """
    try:
        status = require_regular_file(path)
        return Source(status.st_size, status.st_mtime_ns, _sha256_of(path, status.st_size, status.st_mtime_ns))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); correct the path or remove the clip") from error


def is_readable(path: str) -> bool:
    """Whether a regular file is there."""
    return _state_of(path) is not None


def is_unchanged(path: str, source: Source | None) -> bool:
    """Whether a file is as it was; None is one that could not be read.

    One of another time, as copies and checkouts have it, is read: it is the same where its bytes are.
    """
    state = _state_of(path)
    if source is None or state is None:
        return source is None and state is None
    size, mtime_ns = state
    if size != source.size or mtime_ns == source.mtime_ns:
        return size == source.size
    try:
        return _sha256_of(path, size, mtime_ns) == source.sha256
    except OSError:
        return False


def _state_of(path: str) -> tuple[int, int] | None:
    """Return size and time of change of a regular file, or None where there is none that may be read."""
    try:
        status = require_regular_file(path)
    except (OSError, DataError):
        return None
    if not os.access(path, os.R_OK):
        return None
    return status.st_size, status.st_mtime_ns


@functools.lru_cache(16)
def _sha256_of(path: str, _size: int, _mtime_ns: int) -> str:
    """Return the sha256 of a file in this state; many clips may be cut from one recording, which is read once."""
    return atomic.sha256_of(Path(path))
