"""Latency and peak memory of one clip, measured on this machine."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from epanns.errors import ConfigError
from epanns.models.modes import evaluation_mode
from epanns.models.tagger import Tagger

_WARM_UPS = 3
_PROCESS = Path("/proc/self")


@dataclass(frozen=True)
class Latency:
    """Wall time of one clip through the network.

    Attributes:
        median: Median over the repeats after the warm-up, in milliseconds.
        min: Fastest repeat, in milliseconds.
        max: Slowest repeat, in milliseconds.
        threads: Number of CPU threads inside one operation.
        runtime: Runtime of the network, such as ``torch 2.11.0 eager cpu``.
    """

    median: float
    min: float
    max: float
    threads: int
    runtime: str
    dtype: str

    @property
    def spread(self) -> float:
        """(max - min) / median, the reliability of the median."""
        return (self.max - self.min) / self.median

    def to_dict(self) -> dict[str, Any]:
        """Return the value of ``latency_ms`` in ``epanns profile --latency --json``."""
        return asdict(self)


def measure_latency(model: Tagger, *, seconds: float = 10.0, threads: int | None = None, repeats: int = 15) -> Latency:
    """Time single clips through the whole network, front end included, after a warm-up.

    The network is measured in evaluation mode; its mode and torch's number of threads are restored.

    Args:
        model: The network, on the device to measure.
        seconds: Clip length; the clip is noise.
        threads: CPU threads inside one operation; None keeps torch's setting.
        repeats: Timed passes, after three untimed passes.

    Raises:
        ConfigError: If an argument is out of range.
    """
    if repeats < 1:
        raise ConfigError(f"repeats={repeats}: at least 1 timed pass is needed")
    waveform = noise(model, seconds)

    def tag() -> None:
        model(waveform)
        synchronize(waveform.device)

    with cpu_threads(threads), evaluation_mode(model), torch.inference_mode():
        return timed(
            tag,
            repeats,
            threads=torch.get_num_threads(),
            runtime=f"torch {torch.__version__} eager {waveform.device.type}",
            dtype=str(waveform.dtype).removeprefix("torch."),
        )


def timed(work: Callable[[], object], repeats: int, *, threads: int, runtime: str, dtype: str) -> Latency:
    """Time some work `repeats` times after a warm-up; the other arguments are copied to the result."""
    milliseconds = []
    for _ in range(_WARM_UPS + repeats):
        started = time.perf_counter()
        work()
        milliseconds.append(1000 * (time.perf_counter() - started))
    kept = milliseconds[_WARM_UPS:]
    return Latency(statistics.median(kept), min(kept), max(kept), threads=threads, runtime=runtime, dtype=dtype)


def measure_peak_memory(model: Tagger, *, seconds: float = 10.0, threads: int | None = None) -> int | None:
    """Return the peak memory in bytes while one clip is tagged; None if it cannot be measured.

    On the CPU it is the largest resident set of the *whole process* (interpreter, torch, weights, activations) during
    the pass, from Linux' ``VmHWM`` after a reset by ``/proc/self/clear_refs``; so measure in a process of its own, as
    `epanns profile --latency` does. On a GPU it is the maximum that torch had allocated.
    """
    waveform = noise(model, seconds)
    with cpu_threads(threads), evaluation_mode(model), torch.inference_mode():
        model(waveform)  # loads libraries, which are not part of the measurement
        if waveform.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(waveform.device)
            model(waveform)
            return torch.cuda.max_memory_allocated(waveform.device)
        try:
            (_PROCESS / "clear_refs").write_text("5")
            model(waveform)
            lines = (_PROCESS / "status").read_text().splitlines()
        except OSError:
            return None
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    return kilobytes[0] * 1024 if kilobytes else None


@contextmanager
def cpu_threads(threads: int | None) -> Iterator[None]:
    """Set the number of threads inside one operation for the block; None leaves it unchanged."""
    if threads is not None and threads < 1:
        raise ConfigError(f"threads={threads}: must be at least 1")
    before = torch.get_num_threads()
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        yield
    finally:
        torch.set_num_threads(before)


def noise(model: Tagger, seconds: float) -> Tensor:
    """Return a clip ``(1, samples)`` of noise for a network, on its device."""
    samples = round(seconds * model.spec.front_end.sample_rate) if 0 < seconds < float("inf") else 0
    if samples < 1:
        raise ConfigError(f"seconds={seconds}: the clip to time must have at least one sample")
    weight = next(model.parameters())
    drawn = torch.rand(1, samples, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return drawn.to(weight.device, weight.dtype)


def synchronize(device: torch.device) -> None:
    """Wait for the queued work of a GPU; a CPU has none."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
