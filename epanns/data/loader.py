"""Which process reads the batches; they are the same whichever it is."""

import signal
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from epanns.data.dataset import ClipBatch, PackDataset
from epanns.data.sampler import Draw
from epanns.errors import EpannsError


def make_loader(
    dataset: PackDataset,
    batches: Iterable[Sequence[int | Draw]],
    *,
    workers: int = 0,
    start_method: str | None = None,
) -> Iterator[ClipBatch]:
    """Read batches, in this process or ahead of time in others; the batches are the same.

    Args:
        dataset: Where the clips are.
        batches: Clips of each batch, as given by `epanns.data.sampler`.
        workers: Processes that read; 0 reads in this one.
        start_method: ``fork``, ``spawn`` or ``forkserver``; None for Python's own choice.

    Raises:
        PackError: If a clip cannot be read or is damaged, whichever process reads it.
    """
    loader: Iterable[ClipBatch | EpannsError] = DataLoader(
        _Reading(dataset),
        batch_sampler=batches,  # type: ignore[arg-type]  # any iterable of index lists will do
        num_workers=workers,
        collate_fn=_as_it_is,  # __getitems__ makes the batch
        worker_init_fn=_ignore_signals,
        multiprocessing_context=start_method if workers else None,
        generator=torch.Generator().manual_seed(0),  # else the loader draws from the global generator
    )
    for batch in loader:
        if isinstance(batch, EpannsError):
            raise batch
        yield batch


class _Reading(Dataset[ClipBatch | EpannsError]):
    """A data set whose errors come as values: torch would make a traceback of many lines of what a worker raises."""

    def __init__(self, dataset: PackDataset) -> None:
        self._dataset = dataset

    def __getitems__(self, draws: Sequence[int | Draw]) -> ClipBatch | EpannsError:
        try:
            return self._dataset.__getitems__(draws)
        except EpannsError as error:
            return error


def _as_it_is(batch: Any) -> Any:
    return batch


def _ignore_signals(worker: int) -> None:
    """Leave signals to the main process, which saves its state; workers end with it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
