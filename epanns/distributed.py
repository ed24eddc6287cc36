"""Process groups of `torchrun`: rank, world size, and exchange of values between processes.

`torchrun` starts the processes and sets environment variables with the rank of each. Without it there is one process,
for which all functions here have no effect, so that the same code runs alone.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from epanns import errors
from epanns.errors import ConfigError, EpannsError, TrainingError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

LONGEST_WAIT = 1800.0  # seconds; rank 0 writes a large checkpoint to a slow disk in less
_LONGEST_EXIT = 10.0  # seconds to wait for other processes at the end

_PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_REMEDY = "start with torchrun, which sets all of them, or unset them to run alone"


def rank() -> int:
    """Return the rank of this process, 0 to `world_size` - 1; 0 outside a process group."""
    return _group().get_rank() if _is_started() else 0


def world_size() -> int:
    """Return the number of processes; 1 outside a process group."""
    return _group().get_world_size() if _is_started() else 1


def started_by_torchrun() -> bool:
    """Return whether `torchrun` started this process as one of several."""
    return torchrun_id() is not None and os.environ.get("WORLD_SIZE", "1") != "1"


def restarts() -> int:
    """Return the number of times `torchrun` has restarted the processes."""
    count = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return int(count) if count.isdecimal() else 0


def torchrun_id() -> str | None:
    """Return the run id of `torchrun`, the same after restarts; None without `torchrun`."""
    return os.environ.get("TORCHELASTIC_RUN_ID")


@contextmanager
def process_group(device: str = "cpu", *, timeout: float = LONGEST_WAIT) -> Iterator[str]:
    """Join the process group of ``torchrun`` inside the block, and yield the device of this process.

    Processes exchange tensors on the CPU by gloo and on GPUs by nccl; on GPUs each has a device of its own,
    ``cuda:<local rank>``. Outside `torchrun`, and inside another process group, `device` is yielded unchanged.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        timeout: Seconds to wait for other processes, at the start and in each exchange.

    Raises:
        ConfigError: If environment variables of `torchrun` are missing, or there are fewer GPUs than processes.
        TrainingError: If another process does not answer, or has ended.
    """
    place = _place_in(os.environ)
    if place is None or _is_started():
        yield device
        return
    own = _own_device(device, place)
    settings = {"backend": "gloo" if own == "cpu" else "cpu:gloo,cuda:nccl", "timeout": timedelta(seconds=timeout)}
    n_processes = place["WORLD_SIZE"]
    with _lost_processes_named(timeout):
        store = _group().TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            n_processes,
            is_master=place["RANK"] == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True",
            timeout=timedelta(seconds=timeout),
        )
        # `torchrun` keeps its store when it restarts the processes. Without the prefix torch would read the addresses
        # of the dead processes from it, and wait for them.
        store = _group().PrefixStore(f"start {restarts()}", store)
        _group().init_process_group(store=store, rank=place["RANK"], world_size=n_processes, **settings)
        try:
            yield own
            # A process that is still in its last exchange could take a closed connection for a failure.
            with suppress(RuntimeError, _group().DistError):  # a process, perhaps the store's, is late or has ended
                store.set(f"left {place['RANK']}", "")
                longest = timedelta(seconds=min(timeout, _LONGEST_EXIT))
                store.wait([f"left {other}" for other in range(n_processes)], longest)
        finally:
            _group().destroy_process_group()


def any_of(flag: bool) -> bool:
    """Return whether `flag` is true on any process."""
    import torch

    return bool(total(torch.tensor(int(flag)))) if world_size() > 1 else flag


def total(values: "Tensor") -> "Tensor":
    """Return the sum of the tensors of all processes, bit-identical on all and without a gradient."""
    if world_size() == 1:
        return values
    summed = values.detach().clone()
    _group().all_reduce(summed)
    return summed


def gather_rows(rows: "Tensor") -> "Tensor":
    """Return the rows of all processes, in the order of their ranks.

    Args:
        rows: ``(rows, ...)``; the number of rows may differ between processes and be 0, the other axes are equal.
    """
    import torch

    if world_size() == 1:
        return rows
    counts = [torch.zeros(1, dtype=torch.int64) for _ in range(world_size())]
    _group().all_gather(counts, torch.tensor([len(rows)]))
    most = max(int(count) for count in counts)
    padded = rows.new_zeros(most, *rows.shape[1:])
    padded[: len(rows)] = rows
    gathered = [torch.empty_like(padded) for _ in counts]
    if padded.numel():
        _group().all_gather(gathered, padded)
    return torch.cat([part[: int(count)] for part, count in zip(gathered, counts, strict=True)])


def gather(value: Any) -> list[Any]:
    """Return the JSON values of all processes, in the order of their ranks."""
    import torch

    if world_size() == 1:
        return [value]
    line = bytearray(json.dumps(value).encode() + b"\n")
    lines: bytes = gather_rows(torch.frombuffer(line, dtype=torch.uint8)).numpy().tobytes()
    return [json.loads(line) for line in lines.splitlines()]


def broadcast(value: Any) -> Any:
    """Return the JSON value of rank 0."""
    return gather(value if rank() == 0 else None)[0]


def share_tensors(module: "Module") -> None:
    """Copy the parameters and buffers of rank 0 to every process, in place."""
    if world_size() > 1:
        for tensor in module.state_dict().values():
            _group().broadcast(tensor, src=0)


def on_rank_zero(work: Callable[[], Any]) -> Any:
    """Call `work` on rank 0 while the other processes wait, and return its JSON value on every process.

    Raises:
        EpannsError: On every process, if `work` raises it.
        TrainingError: On the other processes, if `work` raises another exception.
    """
    if world_size() == 1:
        return work()
    if rank() > 0:
        answer = broadcast(None)
        if "error" in answer:
            kind = getattr(errors, answer["error"], None)
            if isinstance(kind, type) and issubclass(kind, EpannsError) and kind is not errors.Interrupted:
                raise kind(answer["message"])
            raise TrainingError(f"rank 0 failed with {answer['error']}: {answer['message']}")
        return answer["value"]
    try:
        value = work()
    except Exception as error:
        broadcast({"error": type(error).__name__, "message": str(error)})
        raise
    broadcast({"value": value})
    return value


def _group() -> Any:
    import torch.distributed

    return torch.distributed


def _is_started() -> bool:
    group = sys.modules.get("torch.distributed")  # no process group can exist before the import
    return group is not None and group.is_available() and group.is_initialized()


def _place_in(environment: Mapping[str, str]) -> dict[str, int] | None:
    """Return the values of torchrun's variables; None for a single process."""
    given = {name: environment[name] for name in _PLACE if name in environment}
    if not {"RANK", "WORLD_SIZE"} & set(given) or given.get("WORLD_SIZE") == "1":
        return None
    shown = " ".join(f"{name}={value}" for name, value in given.items())
    if missing := [name for name in _PLACE if name not in given]:
        raise ConfigError(f"{shown} without {', '.join(missing)}: {_REMEDY}")
    numbers = {name: int(value) for name, value in given.items() if value.isdecimal() and name != "MASTER_ADDR"}
    if len(numbers) < len(_PLACE) - 1 or not numbers["RANK"] < numbers["WORLD_SIZE"]:
        raise ConfigError(f"{shown}: must be numbers, and RANK below WORLD_SIZE; {_REMEDY}")
    return numbers


def _own_device(device: str, place: Mapping[str, int]) -> str:
    """Return the device of this process; a GPU becomes torch's current device."""
    import torch

    if torch.device(device).type == "cpu":
        return "cpu"
    n_local, n_devices = place["LOCAL_WORLD_SIZE"], torch.cuda.device_count()
    if torch.device(device).index is not None and n_local > 1:
        raise ConfigError(f"device={device!r} for {n_local} processes: give cuda, and each takes a GPU of its own")
    if n_local > n_devices:
        raise ConfigError(f"{n_local} processes for {n_devices} GPUs of this machine: start no more than one for each")
    index = torch.device(device).index
    own = torch.device("cuda", place["LOCAL_RANK"] if index is None else index)
    torch.cuda.set_device(own)
    return str(own)


@contextmanager
def _lost_processes_named(timeout: float) -> Iterator[None]:
    """Turn torch's errors about a process that has ended or does not respond into one line."""
    import torch

    try:
        yield
    except RuntimeError as error:
        text = " ".join(str(error).split())
        if isinstance(error, torch.OutOfMemoryError) or not (
            isinstance(error, torch.distributed.DistError) or "gloo" in text.lower() or "NCCL" in text
        ):
            raise
        is_silent = "timed out" in text.lower() or "timeout" in text.lower()
        what = f"has not responded for {timeout:g} s" if is_silent else "has ended"
        raise TrainingError(
            f"another process of this run {what} ({text[:160]}): see its last messages; unless torchrun "
            "restarts the processes, run the same command again"
        ) from error
