"""States of long work on disk, from which killed work resumes: ``state-<step>-<sha256>.pt``, written atomically.

Each file carries the beginning of its checksum in its name. The newest state and the state before it are kept, in case
the newest cannot be read.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from epanns.atomic import partial_of, put_in_place, sha256_of
from epanns.errors import CheckpointError
from epanns.workfolder import STATE_NAME

Value = TypeVar("Value")

KEPT = 2

_PARTIAL = "state.pt"
# From the messages of torch's allocators, oneDNN, cuDNN and cuBLAS; only torch's on a GPU has an error class.
_NO_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "could not create a memory",
    "ALLOC_FAILED",
    "bad alloc",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory ran out, on the CPU or on a GPU."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


def write_state(folder: Path, step: int, values: dict[str, Any]) -> None:
    """Write ``state-<step>-<sha256>.pt``, and remove all states but it and the state before it.

    If writing fails, or the process is killed, the earlier states are still there.

    Args:
        folder: Folder of the work.
        step: Number of steps done.
        values: Tensors, numbers, strings, lists and dictionaries, which `torch.load` reads with ``weights_only``.

    Raises:
        OSError: If the file cannot be written.
    """
    import torch

    partial = partial_of(folder / _PARTIAL)
    try:
        try:
            with partial.open("wb") as file:
                torch.save(values, file)
        except RuntimeError as error:
            # torch reports only that a write failed; the system's reason is the context of its error.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise
        written = folder / f"state-{step:08d}-{sha256_of(partial)[:16]}.pt"
        put_in_place(partial, written)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    # Newer states could not be read, or the work would not have returned to this step.
    before = [path for path in saved_states(folder) if _step_of(path) < step]
    for old in {*saved_states(folder)} - {written, *before[: KEPT - 1]}:
        old.unlink(missing_ok=True)


def saved_states(folder: Path) -> list[Path]:
    """Return the state files of a folder, newest first."""
    named = [path for path in folder.glob("state-*") if STATE_NAME.fullmatch(path.name)]
    return sorted(named, key=lambda path: (_step_of(path), path.name), reverse=True)


def _step_of(path: Path) -> int:
    name = STATE_NAME.fullmatch(path.name)
    return int(name[1]) if name else -1


def newest_step(folder: Path) -> int | None:
    """Return the step of the newest state; None if there is no state."""
    return next((_step_of(path) for path in saved_states(folder)), None)


def read_newest_state(
    folder: Path,
    use: Callable[[dict[str, Any]], Value],
    log: Callable[[str], None],
    *,
    what: str = "training state",
    remedy: str = "run again with --fresh to start over",
) -> Value | None:
    """Pass the newest usable state to `use`, and return its result; None if the folder holds no state.

    Args:
        folder: Folder of the work.
        use: Takes the values of `write_state`; raises CheckpointError, or any error about malformed values, if they do
            not belong to the work.
        log: Called with one line for each state that cannot be used.
        what: Name of a state in errors.
        remedy: How to start over, in the error.

    Raises:
        CheckpointError: If none of the states can be used.
    """
    reasons: list[str] = []
    for path in saved_states(folder):
        try:
            value = _read(path, use, what)
        except CheckpointError as error:
            reasons.append(str(error))
            continue
        for reason in reasons:
            log(f"{reason}: the state before it, of step {_step_of(path)}, is taken")
        return value
    if reasons:
        raise CheckpointError(f"{reasons[0]}: no state of this run can be used; put it back whole, or {remedy}")
    return None


def _read(path: Path, use: Callable[[dict[str, Any]], Value], what: str) -> Value:
    """Read one state; the content is parsed only if the checksum is right."""
    from pickle import UnpicklingError

    import torch

    malformed = (RuntimeError, EOFError, LookupError, TypeError, ValueError, AttributeError, UnpicklingError)
    try:
        found = sha256_of(path)[:16]
        if not path.stem.endswith(found):
            raise ValueError(f"damaged: its sha256 begins with {found}")
        try:
            saved = torch.load(path, weights_only=True, map_location="cpu")
        except malformed as error:  # torch's message about another file would be misleading
            if is_out_of_memory(error):
                raise
            raise ValueError(f"is no {what}") from error
        if not isinstance(saved, dict):
            raise ValueError(f"is no {what}")
        return use(saved)
    except (OSError, CheckpointError, *malformed) as error:
        if is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CheckpointError(f"{path}: this {what} cannot be resumed ({reason})") from error
