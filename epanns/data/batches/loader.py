"""Read batches, in this process or ahead of time in worker processes, with the same result."""

import itertools
import operator
import signal
import weakref
from collections.abc import Generator, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from epanns.data.batches.dataset import ClipBatch, PackDataset
from epanns.data.batches.sampler import Draw
from epanns.data.shared_array import SharedArray
from epanns.errors import EpannsError, PackError
from epanns.process import STOPPING, blocking_signals

Draws = Sequence[int | Draw]

_PREFETCHED = 2  # batches that each worker reads ahead of time


def make_loader(
    dataset: PackDataset,
    batches: Iterable[Draws],
    *,
    workers: int = 0,
    start_method: str | None = None,
) -> Generator[ClipBatch, None, None]:
    """Yield batches of clips, read in this process or ahead of time in others; the batches are the same.

    Args:
        dataset: The clips.
        batches: Indices or draws of the clips of each batch, see `epanns.data.batches.sampler`.
        workers: Number of processes that read; 0 reads in this process.
        start_method: ``fork``, ``spawn`` or ``forkserver``; None for Python's default.

    Raises:
        PackError: If a clip cannot be read or is damaged, in whichever process it is read.
    """
    if not workers:
        for draws in batches:
            yield dataset.__getitems__(draws)
        return
    remaining = iter(batches)
    first = next(remaining, None)
    if first is None:
        return
    # Slots for the batches that the workers read ahead, the batch in use, and the batch after it.
    shared = SharedRows(workers * _PREFETCHED + 2, len(first), dataset.clip_samples)
    requests: Any = ((shared.lend(len(draws)), draws) for draws in itertools.chain([first], remaining))
    loader: Iterable[_Read | EpannsError] = DataLoader(
        _SharedReader(dataset, shared),
        batch_sampler=requests,  # accepts any iterable
        num_workers=workers,
        prefetch_factor=_PREFETCHED,
        collate_fn=operator.itemgetter(0),  # __getitems__ returns a list of one batch
        worker_init_fn=_ignore_signals,
        multiprocessing_context=start_method,
        generator=torch.Generator().manual_seed(0),  # otherwise the loader draws from the global generator
    )
    with blocking_signals():  # until the workers ignore them
        reads: Any = iter(loader)
    try:
        for read in reads:
            if isinstance(read, EpannsError):
                raise read
            yield read.batch(shared)
            del read  # frees its slot before the next batch is requested
    except RuntimeError as error:  # raised by torch when a worker has died
        for worker in reads._workers:  # the other workers ignore SIGTERM, so that joining them would not end
            worker.kill()
        reads._shutdown_workers()
        raise PackError(
            f"a process that reads clips died, perhaps for want of memory ({' '.join(str(error).split())}): "
            "run the same command again, with fewer --workers"
        ) from error
    finally:
        del reads  # ends the workers now; an error's traceback would keep them alive


class SharedRows:
    """Shared memory for a few batches, ``(slots, rows, samples)`` int16, which is used again and again.

    Allocating shared memory page by page takes longer than reading clips into it. The main process lends a slot to each
    batch; a slot is free again when no tensor refers to it.
    """

    def __init__(self, slots: int, rows: int, samples: int) -> None:
        self._memory = SharedArray((slots, rows, samples))
        self._free = list(range(slots))

    def __getstate__(self) -> dict[str, Any]:
        return {"_memory": self._memory, "_free": []}  # only the main process lends

    def lend(self, rows: int) -> int | None:
        """Return a free slot for a batch of `rows` clips; None if no slot is free or the slots are too short."""
        if not self._free or rows > self._memory.values.shape[1]:
            return None
        return self._free.pop()

    def rows_of(self, slot: int, rows: int) -> NDArray[np.int16]:
        """Return the ``(rows, samples)`` of a slot, to be written."""
        return self._memory.values[slot, :rows]

    def hand_over(self, slot: int, rows: int) -> Tensor:
        """Return the content of a slot; the slot is free again when this tensor and all its views are deleted."""
        array = self.rows_of(slot, rows)
        weakref.finalize(array, self._free.append, slot).atexit = False
        return torch.from_numpy(array)  # its storage, which views share, holds the array


class _Read(NamedTuple):
    """A batch as a worker sends it; its waveforms are in a slot of shared memory, or in a tensor if none was free."""

    slot: int | None
    waveform: Tensor | None
    clip_ids: tuple[str, ...]
    n_samples: NDArray[Any]
    target: NDArray[Any]

    def batch(self, shared: SharedRows) -> ClipBatch:
        """Return the batch, in the main process."""
        waveform = self.waveform if self.slot is None else shared.hand_over(self.slot, len(self.clip_ids))
        assert waveform is not None  # noqa: S101 - without a slot there is a tensor
        return ClipBatch(self.clip_ids, waveform, torch.from_numpy(self.n_samples), torch.from_numpy(self.target))


class _SharedReader(Dataset[_Read | EpannsError]):
    """Reads batches into shared memory and returns errors as values, because torch expands what a worker raises."""

    def __init__(self, dataset: PackDataset, shared: SharedRows) -> None:
        self._dataset, self._shared = dataset, shared

    def __getitems__(self, request: tuple[int | None, Draws]) -> list[_Read | EpannsError]:
        slot, draws = request
        try:
            if slot is not None:
                return [_Read(slot, None, *self._dataset.read_into(draws, self._shared.rows_of(slot, len(draws))))]
            own = torch.empty(len(draws), self._dataset.clip_samples, dtype=torch.int16)
            return [_Read(None, own, *self._dataset.read_into(draws, own.numpy()))]
        except EpannsError as error:
            return [error]


def _ignore_signals(worker: int) -> None:
    """Leave signals to the main process, which saves its state and ends the workers."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
