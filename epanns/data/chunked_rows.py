"""Waveforms that somebody keeps in chunks, compressed or not: HDF5 unpacks them, in a handle of each process's own."""

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from epanns.data.foreign_columns import ADVICE
from epanns.data.open_files import Stamp
from epanns.data.plain_hdf5 import pack_errors, storage_problem

_SMALLEST_CHUNK = 4  # bytes; of what is shorter, HDF5's fletcher32 subtracts its checksum and goes astray


class ChunkedRows:
    """Rows of a dataset in chunks.

    An HDF5 handle must not cross into another process: it is opened on first use, and again in every process to which
    this is passed, by fork or by pickling.
    """

    def __init__(self, path: Path, name: str, stamp: Stamp) -> None:
        """Name a dataset of a file that was checked."""
        self._path, self._name, self._stamp = path, name, stamp
        self._file: h5py.File | None = None
        self._pid: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None, "_pid": None}

    def read_into(self, row: int, out: NDArray[np.int16]) -> None:
        """Fill ``(samples,)`` with a row; raises `PackError` if the file is not as it was."""
        with pack_errors(self._path, f"{self._name} row {row}", ADVICE):
            if self._file is None or self._pid != os.getpid():
                self._file = None  # a parent's handle goes before the file is opened anew
                self._stamp.require(self._path, self._path.stat())
                self._file, self._pid = h5py.File(self._path, "r", locking=False), os.getpid()
            self._file[self._name].read_direct(out, np.s_[row])
            self._stamp.require(self._path, self._path.stat())

    def close(self) -> None:
        """Close the file, if it is open in this process."""
        file, self._file = self._file, None
        if file is not None and self._pid == os.getpid():
            file.close()


def chunk_problem(dataset: h5py.Dataset, file_bytes: int, needed: NDArray[np.bool_]) -> str | None:
    """Return why rows of a dataset in chunks cannot be read, or None.

    Args:
        dataset: Two-dimensional.
        file_bytes: Size of the file.
        needed: ``(rows,)``, which rows must be there; the others may never have been written.
    """
    problem = storage_problem(dataset, file_bytes, may_miss_chunks=True)
    if problem:
        return problem
    height, width = dataset.chunks
    found: list[h5py.h5d.StoreInfo] = []
    dataset.id.chunk_iter(found.append)
    most = 2 * height * width * dataset.dtype.itemsize
    if not all(_SMALLEST_CHUNK < chunk.size <= most for chunk in found):
        return "has a chunk that is no compressed row"
    whole = np.bincount([chunk.chunk_offset[0] // height for chunk in found], minlength=-(-len(needed) // height))
    missing = needed & (whole < -(-dataset.shape[1] // width)).repeat(height)[: len(needed)]
    return f"row {int(np.argmax(missing))} was never written" if missing.any() else None
