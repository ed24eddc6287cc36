"""Which process reads the batches; they are the same whichever it is."""

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

_AHEAD = 2  # batches that each worker reads ahead of time


def make_loader(
    dataset: PackDataset,
    batches: Iterable[Draws],
    *,
    workers: int = 0,
    start_method: str | None = None,
) -> Generator[ClipBatch, None, None]:
    """Read batches, in this process or ahead of time in others; the batches are the same.

    Args:
        dataset: Where the clips are.
        batches: Clips of each batch, as given by `epanns.data.sampler`.
        workers: Processes that read; 0 reads in this one.
        start_method: ``fork``, ``spawn`` or ``forkserver``; None for Python's own choice.

    Raises:
        PackError: If a clip cannot be read or is damaged, whichever process reads it.
    """
    if not workers:
        for draws in batches:
            yield dataset.__getitems__(draws)
        return
    coming = iter(batches)
    first = next(coming, None)
    if first is None:
        return
    # What the workers read ahead, the batch that is in use, and the one that takes its place.
    shared = SharedRows(workers * _AHEAD + 2, len(first), dataset.clip_samples)
    asked: Any = ((shared.lend(len(draws)), draws) for draws in itertools.chain([first], coming))
    loader: Iterable[_Read | EpannsError] = DataLoader(
        _Reading(dataset, shared),
        batch_sampler=asked,  # any iterable will do
        num_workers=workers,
        prefetch_factor=_AHEAD,
        collate_fn=_as_it_is,  # __getitems__ makes the batch
        worker_init_fn=_ignore_signals,
        multiprocessing_context=start_method,
        generator=torch.Generator().manual_seed(0),  # else the loader draws from the global generator
    )
    with blocking_signals():  # until the workers ignore them
        reads: Any = iter(loader)
    try:
        while (read := _next_of(reads)) is not None:
            if isinstance(read, EpannsError):
                raise read
            yield read.batch(shared)
            del read  # or its rows would be held while the next ones are lent
    finally:
        del reads  # ends the workers now, and not when nobody looks at an error's traceback any more


def _next_of(reads: Any) -> "_Read | EpannsError | None":
    """Return what a worker read next, None at the end."""
    try:
        read: _Read | EpannsError | None = next(reads, None)
    except RuntimeError as error:  # torch's words for a worker that is gone
        for worker in reads._workers:  # the others ignore SIGTERM, and would be waited for without end
            worker.kill()
        reads._shutdown_workers()
        raise PackError(
            f"a process that reads clips died, perhaps for want of memory ({' '.join(str(error).split())}): "
            "run the same command again, with fewer --workers"
        ) from error
    return read


class _Read(NamedTuple):
    """What a worker sends: a batch whose waveforms are in shared memory, in the slot or in a tensor of their own."""

    slot: int | None
    waveform: Tensor | None
    clip_ids: tuple[str, ...]
    n_samples: NDArray[Any]
    target: NDArray[Any]

    def batch(self, shared: SharedRows) -> ClipBatch:
        """Return the batch, in the main process."""
        waveform = self.waveform if self.slot is None else shared.hand_over(self.slot, len(self.clip_ids))
        assert waveform is not None  # noqa: S101 - the worker gives the one or the other
        return ClipBatch(self.clip_ids, waveform, torch.from_numpy(self.n_samples), torch.from_numpy(self.target))


class _Reading(Dataset[_Read | EpannsError]):
    """A data set whose errors come as values: torch would make a traceback of many lines of what a worker raises."""

    def __init__(self, dataset: PackDataset, shared: SharedRows) -> None:
        self._dataset, self._shared = dataset, shared

    def __getitems__(self, asked: tuple[int | None, Draws]) -> _Read | EpannsError:
        slot, draws = asked
        try:
            if slot is not None:
                return _Read(slot, None, *self._dataset.read_into(draws, self._shared.rows_of(slot, len(draws))))
            own = torch.empty(len(draws), self._dataset.clip_samples, dtype=torch.int16)
            return _Read(None, own, *self._dataset.read_into(draws, own.numpy()))
        except EpannsError as error:
            return error


def _as_it_is(batch: Any) -> Any:
    return batch


def _ignore_signals(worker: int) -> None:
    """Leave signals to the main process, which saves its state; workers end with it."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
