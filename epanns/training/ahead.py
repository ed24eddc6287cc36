"""Batches on their way: a GPU is given the next one while it still works on the one before."""

import time
from collections.abc import Iterator

import torch
from torch import Tensor

from epanns.data.dataset import ClipBatch


class BatchesAhead:
    """The batches of a loader in their order, on a device.

    On a CPU, where nothing else can be done meanwhile, each is read when it is asked for. A GPU computes by itself once
    it has been given its work: then `fetch` reads the next batch and copies it there, beside the computation.

    Attributes:
        waited: Seconds in which nothing was done but to wait for clips; to be read and set back. Of a GPU that ends its
            work while a batch is read, the whole reading counts: it is never too little.
    """

    def __init__(self, batches: Iterator[ClipBatch], device: torch.device) -> None:
        self._batches = batches
        self._gpu = _Gpu(device) if device.type == "cuda" else None
        self._coming: ClipBatch | Exception | None = None
        self.waited = 0.0

    def __iter__(self) -> "BatchesAhead":
        return self

    def __next__(self) -> ClipBatch:
        """Return the next batch; what went wrong when it was fetched is raised now."""
        if self._coming is None:
            self._read()
        coming, self._coming = self._coming, None
        assert coming is not None  # noqa: S101 - there is a batch or an error
        if isinstance(coming, Exception):
            raise coming
        if self._gpu is not None:
            self._gpu.receive(coming)
        return coming

    def fetch(self) -> None:
        """Read the next batch ahead of time, where the device computes meanwhile."""
        if self._gpu is not None and self._coming is None:
            self._read()

    def _read(self) -> None:
        started = time.perf_counter()
        try:
            batch = next(self._batches)
            self._coming = batch if self._gpu is None else self._gpu.send(batch)
        except Exception as error:  # StopIteration too: it is for whoever asks for the batch
            self._coming = error
        if self._gpu is None or not self._gpu.is_computing:
            self.waited += time.perf_counter() - started


class _Gpu:
    """Copies batches to a GPU on a stream of its own: copies and computation do not wait for each other."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @property
    def is_computing(self) -> bool:
        """Whether it has not done all the work it was given."""
        return not torch.cuda.current_stream(self._device).query()

    def send(self, batch: ClipBatch) -> ClipBatch:
        """Return the batch on the GPU, where it will have arrived after `receive`.

        Pinned memory lies between: the memory that the batch is in may be lent to another one as soon as this returns.
        """
        with torch.cuda.stream(self._copies):
            sent = [tensor.pin_memory().to(self._device, non_blocking=True) for tensor in _tensors(batch)]
        return ClipBatch(batch.clip_ids, *sent)

    def receive(self, batch: ClipBatch) -> None:
        """Let the computation wait for the copy, and the batch's memory be used again when it has ended, no sooner."""
        computation = torch.cuda.current_stream(self._device)
        computation.wait_stream(self._copies)
        for tensor in _tensors(batch):
            tensor.record_stream(computation)


def _tensors(batch: ClipBatch) -> tuple[Tensor, Tensor, Tensor]:
    return batch.waveform, batch.n_samples, batch.target
