"""The state of a training run on disk, from which a killed run resumes: files that are written atomically.

Each file carries the beginning of its checksum in its name. The newest state and the state before it are kept, in case
the newest cannot be read.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from epanns.atomic import partial_of, put_in_place, sha256_of
from epanns.errors import CheckpointError
from epanns.training.learner import Learner
from epanns.training.memory import is_out_of_memory
from epanns.workfolder import STATE_NAME

FORMAT = "epanns-training-state/3"
KEPT = 2

_PARTIAL = "state.pt"
_MALFORMED = (RuntimeError, EOFError, LookupError, TypeError, ValueError, AttributeError, UnpicklingError)


@dataclass
class TrainingState:
    """Counters of a run; the learner holds weights and moments.

    Random states are not saved: every random number of step k is a pure function of the seed and of k.

    Attributes:
        step: Number of optimisation steps done, skipped steps included.
        best_step: Step of the validation whose weights are kept, or -1 before it.
        best_score: mAP of that validation, or accuracy of a single-label network.
        best_loss: Validation loss of the best validation; NaN if the validation measures none.
        loss_sum: Sum of the losses of the steps since the last validation, without skipped steps.
        norm_sum: Sum of the gradient norms of the same steps.
        loss_count: Number of these steps.
        skipped: Number of steps skipped because loss or gradient was not finite.
        skipped_in_a_row: Number of steps skipped since the last step that was not.
        seconds: Time spent, over all resumptions.
        data_seconds: Part of `seconds` spent waiting for clips while nothing was computed.
        history: One row per validation.
    """

    step: int = 0
    best_step: int = -1
    best_score: float = -1.0
    best_loss: float = math.nan
    loss_sum: float = 0.0
    norm_sum: float = 0.0
    loss_count: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    seconds: float = 0.0
    data_seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


def save_state(folder: Path, state: TrainingState, learner: Learner, *, run: str = "") -> None:
    """Write ``state-<step>-<sha256>.pt``, and remove all states but it and the state before it.

    If writing fails, or the process is killed, the earlier states are still there. `run` identifies the run for
    `load_state`.

    Raises:
        OSError: If the file cannot be written.
        PruningError: If the optimizer belongs to another network.
    """
    values = {"format": FORMAT, "run": run, "state": state.__dict__, **learner.state_dict()}
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
        written = folder / f"state-{state.step:08d}-{sha256_of(partial)[:16]}.pt"
        put_in_place(partial, written)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    # Newer states could not be read, or the run would not have returned to this step.
    before = [path for path in saved_states(folder) if _step_of(path) < state.step]
    for old in {*saved_states(folder)} - {written, *before[: KEPT - 1]}:
        old.unlink(missing_ok=True)


def saved_states(folder: Path) -> list[Path]:
    """Return the state files of a run, newest first."""
    named = [path for path in folder.glob("state-*") if STATE_NAME.fullmatch(path.name)]
    return sorted(named, key=lambda path: (_step_of(path), path.name), reverse=True)


def _step_of(path: Path) -> int:
    name = STATE_NAME.fullmatch(path.name)
    return int(name[1]) if name else -1


def newest_step(folder: Path) -> int | None:
    """Return the step of the newest state; None if there is no state."""
    return next((_step_of(path) for path in saved_states(folder)), None)


def load_state(
    folder: Path,
    learner: Learner,
    log: Callable[[str], None],
    *,
    run: str = "",
    check: Callable[[TrainingState], None] | None = None,
) -> TrainingState | None:
    """Read the newest usable state into `learner`; each unusable one is logged.

    `check` raises a CheckpointError if a file that belongs to the state is missing.

    Returns:
        The counters; None if the folder holds no state.

    Raises:
        CheckpointError: If none of the states can be used.
        PruningError: If the optimizer belongs to another network.
    """
    reasons: list[str] = []
    for path in saved_states(folder):
        try:
            state = _read(path, learner, run, check)
        except CheckpointError as error:
            reasons.append(str(error))
            continue
        for reason in reasons:
            log(f"{reason}: the state before it, of step {state.step}, is taken")
        return state
    if reasons:
        raise CheckpointError(
            f"{reasons[0]}: no state of this run can be used; put it back whole, or run again with --fresh to "
            "start over"
        )
    return None


def _read(path: Path, learner: Learner, run: str, check: Callable[[TrainingState], None] | None) -> TrainingState:
    """Read one state; the content is parsed only if the checksum is right."""
    try:
        found = sha256_of(path)[:16]
        if not path.stem.endswith(found):
            raise ValueError(f"damaged: its sha256 begins with {found}")
        saved = _content(path)
        for key, ours in (("format", FORMAT), ("run", run)):
            if (theirs := saved.pop(key)) != ours:
                raise ValueError(f"its {key} is {theirs!r}, not {ours!r}")
        state = TrainingState(**saved.pop("state"))
        if check is not None:
            check(state)
        learner.load_state_dict(saved)
        return state
    except (OSError, CheckpointError, *_MALFORMED) as error:
        if is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CheckpointError(f"{path}: this training state cannot be resumed ({reason})") from error


def _content(path: Path) -> dict[str, Any]:
    """Return the content that `save_state` wrote; torch's message about another file would be misleading."""
    try:
        saved = torch.load(path, weights_only=True, map_location="cpu")
    except _MALFORMED as error:
        if is_out_of_memory(error):
            raise
        raise ValueError("is no training state") from error
    if not isinstance(saved, dict) or not {"format", "run", "state", "model", "optimizer", "average"} <= saved.keys():
        raise ValueError("is no training state")
    return saved
