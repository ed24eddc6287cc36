"""Read batches, in this process or ahead of time in worker processes, with the same result."""

import itertools
import signal
from collections.abc import Generator, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from epanns.data.dataset import ClipBatch, PackDataset
from epanns.data.sampler import Draw
from epanns.data.shared_rows import SharedRows
from epanns.errors import EpannsError, PackError
from epanns.signals import STOPPING, blocking_signals

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
        batches: Indices or draws of the clips of each batch, see `epanns.data.sampler`.
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
        collate_fn=_unchanged,  # __getitems__ returns a batch
        worker_init_fn=_ignore_signals,
        multiprocessing_context=start_method,
        generator=torch.Generator().manual_seed(0),  # otherwise the loader draws from the global generator
    )
    with blocking_signals():  # until the workers ignore them
        reads: Any = iter(loader)
    try:
        while (read := _next_read(reads)) is not None:
            if isinstance(read, EpannsError):
                raise read
            yield read.batch(shared)
            del read  # frees its slot before the next batch is requested
    finally:
        del reads  # ends the workers now; an error's traceback would keep them alive


def _next_read(reads: Any) -> "_Read | EpannsError | None":
    """Return the next result of a worker; None at the end."""
    try:
        read: _Read | EpannsError | None = next(reads, None)
    except RuntimeError as error:  # raised by torch when a worker has died
        for worker in reads._workers:  # the other workers ignore SIGTERM, so that joining them would not end
            worker.kill()
        reads._shutdown_workers()
        raise PackError(
            f"a process that reads clips died, perhaps for want of memory ({' '.join(str(error).split())}): "
            "run the same command again, with fewer --workers"
        ) from error
    return read


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

    def __getitems__(self, request: tuple[int | None, Draws]) -> _Read | EpannsError:
        slot, draws = request
        try:
            if slot is not None:
                return _Read(slot, None, *self._dataset.read_into(draws, self._shared.rows_of(slot, len(draws))))
            own = torch.empty(len(draws), self._dataset.clip_samples, dtype=torch.int16)
            return _Read(None, own, *self._dataset.read_into(draws, own.numpy()))
        except EpannsError as error:
            return error


def _unchanged(batch: Any) -> Any:
    return batch


def _ignore_signals(worker: int) -> None:
    """Leave signals to the main process, which saves its state and ends the workers."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
