"""Bytes at a place of a file, through descriptors that stay open, a bounded number of them in a process.

Reading says where, so no position is shared: a descriptor that a forked process inherits is as good there as here.
Nothing is inherited across spawn.
"""

import os
import resource
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from epanns.errors import PackError

_MOST_OPEN = 1024
_SHARE_OF_LIMIT = 0.25  # of the descriptors a process may have; torch's workers need some for each batch in flight


class Stamp(NamedTuple):
    """What changes when a file does: its size in bytes and its time of change in nanoseconds."""

    size: int
    changed: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Stamp":
        """Take it from a file's status."""
        return cls(status.st_size, status.st_mtime_ns)

    def require(self, path: Path, status: os.stat_result) -> None:
        """Raise `PackError` if the file is another by now."""
        if Stamp.of(status) != self:
            raise PackError(f"{path}: has changed since it was opened; start again")


class _Descriptor:
    """A file open for reading, closed when the last who reads from it lets go."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self.number)


_open: OrderedDict[str, _Descriptor] = OrderedDict()  # least recently used first


def read_at(path: Path, offset: int, out: NDArray[Any], *, stamp: Stamp | None = None) -> None:
    """Fill an array with the bytes at an offset of a file.

    Args:
        path: The file.
        offset: Where to begin, in bytes.
        out: C-contiguous, of any type.
        stamp: What the file must still be, where no checksum would tell that it has changed.

    Raises:
        PackError: If the file cannot be read, ends before, or is not as stamped.
    """
    try:
        descriptor = _descriptor_of(path)
        view = out.data.cast("B")
        done = 0
        while done < len(view):
            n_read = os.preadv(descriptor.number, [view[done:]], offset + done)
            if not n_read:
                raise PackError(f"{path}: ends before byte {offset + len(view)}: it was cut; copy the pack again")
            done += n_read
        if stamp is not None:
            stamp.require(path, os.fstat(descriptor.number))
    except OSError as error:
        raise PackError(f"{path}: cannot be read ({error.strerror or error}); copy the pack again") from error


def _descriptor_of(path: Path) -> _Descriptor:
    key = os.fspath(path)
    descriptor = _open.pop(key, None)
    if descriptor is None:
        descriptor = _Descriptor(os.open(key, os.O_RDONLY | os.O_CLOEXEC))
        while len(_open) >= most_open():
            _open.popitem(last=False)
    _open[key] = descriptor
    return descriptor


def most_open() -> int:
    """Return how many files may be open at a time."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return max(1, min(_MOST_OPEN, int(limit * _SHARE_OF_LIMIT))) if limit >= 0 else _MOST_OPEN


def close_files(paths: Iterable[Path]) -> None:
    """Close those of the files that are open; reading opens them again."""
    for path in paths:
        _open.pop(os.fspath(path), None)


def n_open() -> int:
    """Return how many files are open in this process."""
    return len(_open)
