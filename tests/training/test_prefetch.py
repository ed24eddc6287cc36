"""Prefetched batches: unchanged, in order, and errors raised when the batch is needed."""

import pytest
import torch

from epanns.data.batches.dataset import ClipBatch
from epanns.errors import PackError
from epanns.training import acceleration
from epanns.training.acceleration import PrefetchedBatches, fastest_kernels

CPU = torch.device("cpu")


def batch_of(number: int) -> ClipBatch:
    waveform = torch.full((2, 5), number, dtype=torch.int16)
    return ClipBatch((f"a{number}", f"b{number}"), waveform, torch.tensor([5, 5]), torch.tensor([[True], [False]]))


class Loader:
    """Three batches, then an error or the end; each takes a second on the clock."""

    def __init__(self, clock: list[float], error: Exception | None = None) -> None:
        self.clock, self.error, self.read = clock, error, 0

    def __iter__(self) -> "Loader":
        return self

    def __next__(self) -> ClipBatch:
        self.clock[0] += 1
        if self.read == 3:
            raise self.error or StopIteration
        self.read += 1
        return batch_of(self.read)


class Gpu:
    """A device that computes asynchronously."""

    def __init__(self, device: torch.device) -> None:
        self.is_computing, self.received = True, []

    def send(self, batch: ClipBatch) -> ClipBatch:
        return batch

    def receive(self, batch: ClipBatch) -> None:
        self.received.append(batch.clip_ids)


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(acceleration.time, "perf_counter", lambda: now[0])
    return now


@pytest.fixture
def on_gpu(monkeypatch):
    monkeypatch.setattr(acceleration, "_Gpu", Gpu)
    return torch.device("cuda")


def test_on_a_cpu_a_batch_is_read_on_request_and_the_wait_is_counted(clock):
    loader = Loader(clock)
    ahead = PrefetchedBatches(loader, CPU)
    for number, batch in enumerate(ahead, start=1):
        assert (loader.read, batch.clip_ids) == (number, batch_of(number).clip_ids)
        ahead.prefetch()
        assert loader.read == number
    assert ahead.waited == 4  # the end is waited for too


def test_a_gpu_gets_the_next_batch_while_it_works(clock, on_gpu):
    loader = Loader(clock)
    ahead = PrefetchedBatches(loader, on_gpu)
    seen = []
    for batch in ahead:
        seen.append(batch.clip_ids)
        ahead.prefetch()
        ahead.prefetch()  # one is enough
        assert loader.read == min(len(seen) + 1, 3)
    assert seen == ahead._gpu.received == [batch_of(number).clip_ids for number in (1, 2, 3)]
    assert ahead.waited == 0


def test_the_wait_of_an_idle_gpu_is_counted(clock, on_gpu):
    ahead = PrefetchedBatches(Loader(clock), on_gpu)
    next(ahead)
    ahead._gpu.is_computing = False
    ahead.prefetch()
    assert ahead.waited == 1
    next(ahead)
    next(ahead)  # was not fetched
    assert ahead.waited == 2


def test_an_error_is_raised_when_its_batch_is_requested(clock, on_gpu):
    ahead = PrefetchedBatches(Loader(clock, PackError("damaged")), on_gpu)
    for _ in range(3):
        next(ahead)
        ahead.prefetch()
    with pytest.raises(PackError, match="damaged"):
        next(ahead)


@pytest.mark.gpu
def test_batches_arrive_on_the_gpu_as_they_were_sent():
    device = torch.device("cuda")
    work, ahead = torch.randn(4096, 4096, device=device), PrefetchedBatches(iter(map(batch_of, range(20))), device)
    for number, batch in enumerate(ahead):
        for _ in range(5):
            work = (work @ work).tanh()
        ahead.prefetch()
        assert batch.waveform.device.type == "cuda"
        assert torch.equal(batch.waveform.cpu(), batch_of(number).waveform)
    assert number == 19


def test_cudnn_benchmarks_inside_the_block_alone():
    assert not torch.backends.cudnn.benchmark
    with pytest.raises(PackError), fastest_kernels():
        assert torch.backends.cudnn.benchmark
        raise PackError("damaged")
    assert not torch.backends.cudnn.benchmark


def test_cudnn_does_not_benchmark_in_deterministic_mode(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    with fastest_kernels():
        assert not torch.backends.cudnn.benchmark
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    with fastest_kernels():
        assert not torch.backends.cudnn.benchmark
