"""Read bytes at an offset of a file, through a bounded number of descriptors that stay open in a process.

Every read gives its offset, so no file position is shared: a forked process may use the descriptors that it inherits.
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
    """Size of a file in bytes and its time of change in nanoseconds, which differ after the file has changed."""

    size: int
    changed: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Stamp":
        """Return the stamp of a file's status."""
        return cls(status.st_size, status.st_mtime_ns)

    def require(self, path: Path, status: os.stat_result) -> None:
        """Raise `PackError` if the file has changed."""
        if Stamp.of(status) != self:
            raise PackError(f"{path}: has changed since it was opened; start again")


class _Descriptor:
    """A file open for reading, closed with the last reference to it."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self.number)


_open: OrderedDict[str, _Descriptor] = OrderedDict()  # least recently used first


def read_at(path: Path, offset: int, out: NDArray[Any], *, stamp: Stamp | None = None) -> None:
    """Fill an array with the bytes at an offset of a file.

    Args:
        path: The file.
        offset: In bytes.
        out: C-contiguous, of any type.
        stamp: Stamp that the file must still have; for files without checksums.

    Raises:
        PackError: If the file cannot be read, is too short, or has another stamp.
    """
    key = os.fspath(path)
    try:
        descriptor = _open.pop(key, None)
        if descriptor is None:
            descriptor = _Descriptor(os.open(key, os.O_RDONLY | os.O_CLOEXEC))
            while len(_open) >= most_open():
                _open.popitem(last=False)
        _open[key] = descriptor
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


def most_open() -> int:
    """Return the largest number of files that are kept open."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return max(1, min(_MOST_OPEN, int(limit * _SHARE_OF_LIMIT))) if limit >= 0 else _MOST_OPEN


def close_files(paths: Iterable[Path]) -> None:
    """Close files if they are open; reading opens them again."""
    for path in paths:
        _open.pop(os.fspath(path), None)
