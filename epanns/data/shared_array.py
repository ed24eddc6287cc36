"""An array of samples in memory that processes share."""

import math
import mmap
import os
import weakref
from multiprocessing.reduction import DupFd
from typing import Any

import numpy as np
from numpy.typing import NDArray


class SharedArray:
    """An int16 array in an anonymous file, which is freed with its last process.

    Objects that are passed to other processes by fork, or pickled while a process is spawned, refer to the same memory.
    The file needs no room in ``/dev/shm``, which is small in containers.

    Attributes:
        values: The array.
    """

    def __init__(self, shape: tuple[int, ...], *, reserve: bool = False) -> None:
        """Create the array; its memory is allocated now (`reserve`) or when it is first written.

        Raises:
            OSError: If there is no memory to reserve. Without `reserve`, a lack of memory ends the process that writes.
        """
        file, size = os.memfd_create("epanns"), max(1, 2 * math.prod(shape))
        try:
            if reserve:
                os.posix_fallocate(file, 0, size)
            else:
                os.ftruncate(file, size)
        except OSError:
            os.close(file)
            raise
        self._map(shape, file)

    def _map(self, shape: tuple[int, ...], file: int) -> None:
        self._file = file
        self.close = weakref.finalize(self, os.close, file)  # the memory stays until its last array is deleted
        self.values: NDArray[np.int16] = np.ndarray(shape, np.int16, mmap.mmap(file, 0))

    def __getstate__(self) -> tuple[tuple[int, ...], Any]:
        return self.values.shape, DupFd(self._file)  # valid while a process is started

    def __setstate__(self, state: tuple[tuple[int, ...], Any]) -> None:
        shape, file = state
        self._map(shape, file.detach())
