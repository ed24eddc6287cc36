"""A new HDF5 file that a full disk cannot break."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py


@contextmanager
def new_hdf5(path: Path, n_bytes: int, *, oldest: str, newest: str = "v110") -> Iterator[tuple[h5py.File, int]]:
    """Open an HDF5 file whose room on the disk is taken until it is closed.

    A process in which HDF5 meets a full disk crashes. So the room is tried before HDF5 begins, which it must do in an
    empty file, and taken when it has; at the end HDF5 cuts what is left over.

    Args:
        path: Where it is written.
        n_bytes: At least as many as it will have.
        oldest: Version of HDF5 whose structures are used where they suffice; ``earliest`` is read by every version.
        newest: The version that must be able to read it.

    Yields:
        The file and the descriptor below it.

    Raises:
        OSError: If there is no room.
    """
    with path.open("w+b") as raw:
        os.posix_fallocate(raw.fileno(), 0, n_bytes)
        raw.truncate(0)
        with h5py.File(raw, "w", libver=(oldest, newest)) as file:
            os.posix_fallocate(raw.fileno(), 0, n_bytes)
            yield file, raw.fileno()
