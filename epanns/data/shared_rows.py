"""Memory for batches that several processes share and use again.

New shared memory costs more than reading clips into it: the system has to hand it out page by page. So a few batches'
worth are set up once; each is lent to a batch, and free again when nobody can look at that batch any more.
"""

import mmap
import os
import weakref
from multiprocessing import reduction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class SharedRows:
    """Slots of ``(rows, samples)`` int16, visible to this process and to those it is passed to, by fork or pickling.

    Lending and taking back is the main process's business; the others write where they are told. The memory is an
    anonymous file: it needs no room in ``/dev/shm``, which containers keep small, and is gone with its last process.
    """

    def __init__(self, slots: int, rows: int, samples: int) -> None:
        """Set up slots; the system hands out their memory when it is first written."""
        self._shape = (slots, rows, samples)
        self._free = list(range(slots))
        file = os.memfd_create("epanns-batches")
        os.ftruncate(file, max(1, 2 * slots * rows * samples))
        self._open(file)

    def _open(self, file: int) -> None:
        self._file = file
        weakref.finalize(self, os.close, file)
        self._memory: NDArray[np.int16] = np.ndarray(self._shape, np.int16, mmap.mmap(file, 0))

    def __getstate__(self) -> dict[str, Any]:
        return {"_shape": self._shape, "_file": reduction.DupFd(self._file)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._shape, self._free = state["_shape"], []
        self._open(state["_file"].detach())

    def lend(self, rows: int) -> int | None:
        """Return a slot for a batch of so many rows; None where all are lent or too short."""
        if not self._free or rows > self._shape[1]:
            return None
        return self._free.pop()

    def rows_of(self, slot: int, rows: int) -> NDArray[np.int16]:
        """Return the ``(rows, samples)`` of a slot, to be written."""
        return self._memory[slot, :rows]

    def hand_over(self, slot: int, rows: int) -> Tensor:
        """Return what was written to a slot; it is free again when this tensor and all that look into it are gone."""
        array = self.rows_of(slot, rows)
        weakref.finalize(array, self._free.append, slot).atexit = False
        return torch.from_numpy(array)  # its storage, which views share, holds the array
