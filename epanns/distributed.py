"""Several processes that do one piece of work: which one this is, and what passes between them.

`torchrun` starts the processes and tells each its place in the environment. Where it did not, there is one process, and
everything here does nothing: the same code runs alone.
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

LONGEST_WAIT = 1800.0  # seconds; rank 0 writes a large checkpoint to a slow disk in less
_LONGEST_FAREWELL = 10.0  # seconds

_PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_REMEDY = "start with torchrun, which sets all of them, or unset them to run alone"


def rank() -> int:
    """Return which process this is, in 0..`world_size` - 1; 0 outside a process group."""
    return _group().get_rank() if _is_started() else 0


def world_size() -> int:
    """Return how many processes share the work; 1 outside a process group."""
    return _group().get_world_size() if _is_started() else 1


def started_by_torchrun() -> bool:
    """Return whether `torchrun` started this process as one of several."""
    return torchrun_id() is not None and os.environ.get("WORLD_SIZE", "1") != "1"


def restarts() -> int:
    """Return how often `torchrun` has started all processes anew since one of them ended."""
    count = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return int(count) if count.isdecimal() else 0


def torchrun_id() -> str | None:
    """Return what `torchrun` calls this start of it, restarts included; None without it."""
    return os.environ.get("TORCHELASTIC_RUN_ID")


@contextmanager
def process_group(device: str = "cpu", *, timeout: float = LONGEST_WAIT) -> Iterator[str]:
    """Join the other processes of a ``torchrun`` for the length of a block, and yield the device of this one.

    Processes on the CPU talk through gloo, those on GPUs through nccl too; on GPUs each has its own, ``cuda:<local
    rank>``. Outside `torchrun`, and inside another process group, the device is returned as it is and nothing is done.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        timeout: Seconds to wait for the others, at the start and whenever something is exchanged.

    Raises:
        ConfigError: If the environment tells this process's place only in part, or GPUs are fewer than processes.
        TrainingError: If another process does not answer, or has ended.
    """
    place = _place_in(os.environ)
    if place is None or _is_started():
        yield device
        return
    own = _own_device(device, place)
    settings = {"backend": "gloo" if own == "cpu" else "cpu:gloo,cuda:nccl", "timeout": timedelta(seconds=timeout)}
    with _broken_lines_named(timeout):
        store = _meeting_place(place["RANK"], place["WORLD_SIZE"], timeout)
        _group().init_process_group(store=store, rank=place["RANK"], world_size=place["WORLD_SIZE"], **settings)
        try:
            yield own
            _leave_together(store, place["RANK"], place["WORLD_SIZE"], min(timeout, _LONGEST_FAREWELL))
        finally:
            _group().destroy_process_group()


def barrier() -> None:
    """Wait until every process has come here."""
    any_of(False)


def any_of(flag: bool) -> bool:
    """Return whether `flag` is true on any process; the same on all."""
    import torch

    return bool(total(torch.tensor(int(flag)))) if world_size() > 1 else flag


def total(values: "Tensor") -> "Tensor":
    """Return the sum of the processes' tensors of one shape, bit for bit the same on all; no gradient passes."""
    if world_size() == 1:
        return values
    summed = values.detach().clone()
    _group().all_reduce(summed)
    return summed


def gather_rows(rows: "Tensor") -> "Tensor":
    """Return the rows of all processes, those of rank 0 first.

    Args:
        rows: ``(rows, ...)``; the number of rows may differ from process to process, 0 included, the rest may not.
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
    """Return the JSON value of rank 0; those of other processes do not matter."""
    return gather(value if rank() == 0 else None)[0]


def on_rank_zero(work: Callable[[], Any]) -> Any:
    """Let rank 0 alone do some work while the others wait, and return its JSON value on every process.

    Raises:
        EpannsError: On every process, if the work raised it; the others never wait for what will not come.
        TrainingError: On the other processes, if the work raised something else.
    """
    if world_size() == 1:
        return work()
    if rank() > 0:
        answer = broadcast(None)
        if "error" in answer:
            raise _error_of(answer["error"], answer["message"])
        return answer["value"]
    try:
        value = work()
    except Exception as error:
        broadcast({"error": type(error).__name__, "message": str(error)})
        raise
    broadcast({"value": value})
    return value


def _error_of(name: str, message: str) -> EpannsError:
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, EpannsError) and kind is not errors.Interrupted:
        return kind(message)
    return TrainingError(f"rank 0 failed with {name}: {message}")


def _group() -> Any:
    import torch.distributed

    return torch.distributed


def _is_started() -> bool:
    group = sys.modules.get("torch.distributed")  # nothing can have been started while it is not imported
    return group is not None and group.is_available() and group.is_initialized()


def _place_in(environment: Mapping[str, str]) -> dict[str, int] | None:
    """Return the place of this process among several, None where it is alone."""
    given = {name: environment[name] for name in _PLACE if name in environment}
    if not {"RANK", "WORLD_SIZE"} & set(given) or given.get("WORLD_SIZE") == "1":
        return None
    if missing := [name for name in _PLACE if name not in given]:
        raise ConfigError(f"{_told(given)} without {', '.join(missing)}: {_REMEDY}")
    numbers = {name: int(value) for name, value in given.items() if value.isdecimal() and name != "MASTER_ADDR"}
    if len(numbers) < len(_PLACE) - 1 or not numbers["RANK"] < numbers["WORLD_SIZE"]:
        raise ConfigError(f"{_told(given)}: numbers, and RANK below WORLD_SIZE, are needed; {_REMEDY}")
    return numbers


def _told(given: Mapping[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in given.items())


def _meeting_place(own_rank: int, n_processes: int, timeout: float) -> Any:
    """Return the store in which processes leave their addresses for each other, one for every start of them.

    `torchrun` keeps its store when it starts processes anew, and torch would read in it where the dead ones had
    listened: the processes that are started first would knock there and wait.
    """
    group = _group()
    is_kept_by_torchrun = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = group.TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        n_processes,
        is_master=own_rank == 0 and not is_kept_by_torchrun,
        timeout=timedelta(seconds=timeout),
    )
    return group.PrefixStore(f"start {restarts()}", store)


def _leave_together(store: Any, own_rank: int, n_processes: int, timeout: float) -> None:
    """Wait until all processes have come to the end, or for some time, before the lines to them are closed.

    Of two that end at once, the later one could take the closed line of the other for a failure.
    """
    from torch.distributed import DistError

    with suppress(RuntimeError, DistError):  # one is late or gone, and with it perhaps the store: nobody waits for it
        store.set(f"left {own_rank}", "")
        store.wait([f"left {rank}" for rank in range(n_processes)], timedelta(seconds=timeout))


def _own_device(device: str, place: Mapping[str, int]) -> str:
    """Return the device of this process, and make a GPU torch's current one."""
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
def _broken_lines_named(timeout: float) -> Iterator[None]:
    """Turn torch's errors about a process that is gone or silent into one line."""
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
        what = f"has not answered for {timeout:g} s" if is_silent else "has ended"
        raise TrainingError(
            f"another process of this run {what} ({text[:160]}): see what it said last; unless torchrun has restarts "
            "left and goes on by itself, run the same command again"
        ) from error
