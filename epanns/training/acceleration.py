"""Faster training: torch.compile, cuDNN's fastest kernels, and batches copied to a GPU while it computes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from epanns.audio.short_clips import repeat_to_minimum
from epanns.data.batches.dataset import ClipBatch
from epanns.errors import ConfigError
from epanns.models.layers.pooling import ModelOutput
from epanns.models.tagger import Tagger


class CompiledNetwork(nn.Module):
    """A network whose stages are compiled by torch.compile; it shares the network's weights.

    Front end and head are not compiled: torch's compiler has no complex numbers, and the head is small. Each shape gets
    kernels of its own, so that a resumed run is computed by the same kernels as a run without a stop.

    Attributes:
        network: The network.
    """

    def __init__(self, network: Tagger) -> None:
        super().__init__()
        self.network = network
        self._through_stages = torch.compile(network.through_stages, dynamic=False)

    def forward(self, waveform: Tensor, mixup_lambda: Tensor | None = None) -> ModelOutput:
        """Tag clips; see `Tagger.forward`. The first call of each shape takes a minute or more.

        Raises:
            ConfigError: If the compiler fails.
        """
        from torch._dynamo.exc import BackendCompilerFailed  # importing torch's compiler takes seconds

        inputs = self.network.inputs_of(repeat_to_minimum(waveform, self.network.minimum_samples))
        try:
            features = self._through_stages(inputs, mixup_lambda)
        except BackendCompilerFailed as error:
            raise ConfigError(
                f"compile=True: torch.compile fails here ({str(error).splitlines()[0]}): it needs a C++ compiler; "
                "install one, or leave it out (--compile)"
            ) from error
        return self.network.head(features, inputs)


@contextmanager
def fastest_kernels() -> Iterator[None]:
    """Let cuDNN time its kernels for each shape and use the fastest, on a GPU.

    The shapes of a run do not change. The fastest kernel may differ between runs, and with it the rounding; runs on a
    GPU are not bit-identical anyway, since kernels sum in any order. If torch is set to deterministic algorithms
    (`use_deterministic_algorithms`, ``cudnn.deterministic``), no kernel is timed.
    """
    before = torch.backends.cudnn.benchmark
    if not (torch.are_deterministic_algorithms_enabled() or torch.backends.cudnn.deterministic):
        torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


class PrefetchedBatches:
    """The batches of a loader in their order, on a device.

    On the CPU each batch is read when it is needed. A GPU computes asynchronously: `prefetch` reads the next batch and
    copies it during the computation.

    Attributes:
        waited: Seconds spent waiting for clips while nothing was computed; the caller reads and resets it. If a GPU
            finishes while a batch is read, the whole reading counts, so this is an upper bound.
    """

    def __init__(self, batches: Iterator[ClipBatch], device: torch.device) -> None:
        self._batches = batches
        self._gpu = _Gpu(device) if device.type == "cuda" else None
        self._next: ClipBatch | Exception | None = None
        self.waited = 0.0

    def __iter__(self) -> "PrefetchedBatches":
        return self

    def __next__(self) -> ClipBatch:
        """Return the next batch; an error of `prefetch` is raised here."""
        if self._next is None:
            self._read()
        batch, self._next = self._next, None
        assert batch is not None  # noqa: S101 - there is a batch or an error
        if isinstance(batch, Exception):
            raise batch
        if self._gpu is not None:
            self._gpu.receive(batch)
        return batch

    def prefetch(self) -> None:
        """Read the next batch in advance if the device is a GPU."""
        if self._gpu is not None and self._next is None:
            self._read()

    def _read(self) -> None:
        started = time.perf_counter()
        try:
            batch = next(self._batches)
            self._next = batch if self._gpu is None else self._gpu.send(batch)
        except Exception as error:  # StopIteration too: `__next__` raises it
            self._next = error
        if self._gpu is None or not self._gpu.is_computing:
            self.waited += time.perf_counter() - started


class _Gpu:
    """Copies batches to a GPU on a stream of its own, in parallel to the computation."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @property
    def is_computing(self) -> bool:
        """Whether work that was queued on the GPU is unfinished."""
        return not torch.cuda.current_stream(self._device).query()

    def send(self, batch: ClipBatch) -> ClipBatch:
        """Queue the copy of a batch, and return the batch on the GPU; use it after `receive`.

        The copy goes through pinned memory, since the loader may reuse the batch's memory as soon as this returns.
        """
        with torch.cuda.stream(self._copies):
            sent = [tensor.pin_memory().to(self._device, non_blocking=True) for tensor in _tensors(batch)]
        return ClipBatch(batch.clip_ids, *sent)

    def receive(self, batch: ClipBatch) -> None:
        """Make the computation wait for the copy, and keep the batch's memory allocated until the computation ends."""
        computation = torch.cuda.current_stream(self._device)
        computation.wait_stream(self._copies)
        for tensor in _tensors(batch):
            tensor.record_stream(computation)


def _tensors(batch: ClipBatch) -> tuple[Tensor, Tensor, Tensor]:
    return batch.waveform, batch.n_samples, batch.target
