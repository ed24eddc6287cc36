"""Memory for batches that several processes share and use again.

New shared memory costs more than reading clips into it: the system has to hand it out page by page. So a few batches'
worth are set up once; each is lent to a batch, and free again when nobody can look at that batch any more.
"""

import weakref

import torch
from torch import Tensor


class SharedRows:
    """Slots of ``(rows, samples)`` int16, visible to this process and to those it is passed to.

    Lending and taking back is the main process's business; the others write where they are told.
    """

    def __init__(self, slots: int, rows: int, samples: int) -> None:
        """Set up slots; the system hands out their memory when it is first written."""
        shared = torch.UntypedStorage._new_shared(2 * slots * rows * samples)  # type: ignore[no-untyped-call]
        self._memory = torch.empty(0, dtype=torch.int16).set_(shared).view(slots, rows, samples)
        self._free = list(range(slots))

    def lend(self, rows: int) -> int | None:
        """Return a slot for a batch of so many rows; None where all are lent or too short."""
        if not self._free or rows > self._memory.shape[1]:
            return None
        return self._free.pop()

    def rows_of(self, slot: int, rows: int) -> Tensor:
        """Return the ``(rows, samples)`` of a slot, to be written."""
        return self._memory[slot, :rows]

    def hand_over(self, slot: int, rows: int) -> Tensor:
        """Return what was written to a slot; it is free again when this tensor and all that look into it are gone."""
        array = self.rows_of(slot, rows).numpy()
        weakref.finalize(array, self._free.append, slot).atexit = False
        return torch.from_numpy(array)  # its storage, which views share, holds the array
