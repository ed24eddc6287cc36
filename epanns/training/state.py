"""Everything a training run needs to go on where it was: files that appear whole and carry their checksum."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from epanns.atomic import partial_of, put_in_place, sha256_of
from epanns.errors import CheckpointError
from epanns.folder_kinds import STATE_NAME
from epanns.training.learner import Learner
from epanns.training.memory import is_out_of_memory

FORMAT = "epanns-training-state/3"
KEPT = 2  # the newest, and the one before it for the day the newest cannot be read

_PARTIAL = "state.pt"
_EARLIER = "state.pt"  # format 1, before the draws of a clip had seeds of their own
_UNREADABLE = (
    OSError,
    RuntimeError,
    EOFError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    CheckpointError,
    UnpicklingError,
)


@dataclass
class TrainingState:
    """Counters of a run; weights and moments live in the learner.

    No random state is kept: every draw of step k is a pure function of the seed and of k.

    Attributes:
        step: Optimisation steps done, skipped ones included.
        best_step: Step of the best validation, or -1.
        best_score: Its mAP, or accuracy of a single-label network.
        best_loss: Its validation loss; NaN where the validation measures none, and in states of earlier versions.
        loss_sum: Sum of the losses since the last validation, of the steps that were not skipped.
        norm_sum: Sum of the gradient norms of the same steps.
        loss_count: Their number.
        skipped: Steps skipped in all, since loss or gradient was not finite.
        skipped_in_a_row: Of them, those after the last step that was done.
        seconds: Time spent so far, over all resumptions.
        data_seconds: Of them, those in which nothing was done but to wait for clips.
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
    """Write ``state-<step>-<sha256>.pt`` and remove all but it and the one before it.

    Whatever happens while it writes, a full disk or a kill, the states before it stay.

    Args:
        folder: The run's.
        state: Counters.
        learner: Weights and moments.
        run: Says which run it is.

    Raises:
        OSError: If the file cannot be written.
        PruningError: If the optimizer is another network's.
    """
    values = {"format": FORMAT, "run": run, "state": state.__dict__, **learner.state_dict()}
    partial = partial_of(folder / _PARTIAL)
    try:
        _write(values, partial)
        written = folder / f"state-{state.step:08d}-{sha256_of(partial)[:16]}.pt"
        put_in_place(partial, written)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    # What is newer is of no use: it could not be read, or the run would not be here.
    before = [path for path in saved_states(folder) if _step_of(path) < state.step]
    for old in {*saved_states(folder)} - {written, *before[: KEPT - 1]}:
        old.unlink(missing_ok=True)


def _write(values: dict[str, Any], path: Path) -> None:
    try:
        with path.open("wb") as file:
            torch.save(values, file)
    except RuntimeError as error:
        # Of a write that fails torch tells only that it failed; the system's reason stands behind it.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from error
        raise


def saved_states(folder: Path) -> list[Path]:
    """Return the state files of a run, the newest first; a folder of such a name is none of ours."""
    return [path for path in _named(folder) if path.is_file() or path.is_symlink()]


def _named(folder: Path) -> list[Path]:
    """Return what has the name of a state, the newest first."""
    named = [path for path in folder.glob("state-*") if STATE_NAME.fullmatch(path.name)]
    return sorted(named, key=lambda path: (_step_of(path), path.name), reverse=True)


def is_state(name: str) -> bool:
    """Return whether a file of a run is a state, of this version or an earlier one, by its name."""
    return name == _EARLIER or STATE_NAME.fullmatch(name) is not None


def _step_of(path: Path) -> int:
    name = STATE_NAME.fullmatch(path.name)
    return int(name[1]) if name else -1


def newest_step(folder: Path) -> int | None:
    """Return the step of the newest state; None where there is none."""
    return next((_step_of(path) for path in saved_states(folder)), None)


def earlier_state(folder: Path) -> Path:
    """Return where a run of an earlier epanns kept its only state."""
    return folder / _EARLIER


def load_state(
    folder: Path,
    learner: Learner,
    log: Callable[[str], None],
    *,
    run: str = "",
    check: Callable[[TrainingState], None] | None = None,
) -> TrainingState | None:
    """Read the newest state that can be used into `learner`; None where there is no state at all.

    Args:
        folder: The run's.
        learner: Of the run; what it held is replaced.
        log: Told of each state that cannot be used, in one line.
        run: As it was given to `save_state`.
        check: Raises a CheckpointError where what else belongs to a state is not there.

    Raises:
        CheckpointError: If none of the states can be used.
        PruningError: If the optimizer is another network's.
    """
    reasons: list[str] = []
    for path in _named(folder):
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
    if earlier_state(folder).exists():
        raise CheckpointError(
            f"{earlier_state(folder)}: this state is of an epanns before 0.1.0, whose steps drew other random numbers: "
            "let that version finish the run, or start over with --fresh"
        )
    return None


def _read(path: Path, learner: Learner, run: str, check: Callable[[TrainingState], None] | None) -> TrainingState:
    """Read one state; nothing of a file is looked at before its checksum is right."""
    try:
        found = sha256_of(path)[:16]
        if not path.stem.endswith(found):
            raise ValueError(f"damaged: its sha256 begins with {found}")
        saved = _content(path)
        for key, ours in (("format", FORMAT), ("run", run)):
            if (theirs := saved.pop(key, None)) != ours:
                raise ValueError(f"its {key} is {theirs!r}, not {ours!r}")
        state = TrainingState(**saved.pop("state"))
        if check is not None:
            check(state)
        learner.load_state_dict(saved)
        return state
    except _UNREADABLE as error:
        if is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CheckpointError(f"{path}: this training state cannot be resumed ({reason})") from error


def _content(path: Path) -> dict[str, Any]:
    """Return what `save_state` saved; of another file torch's own words would tell nobody what it is."""
    try:
        saved = torch.load(path, weights_only=True, map_location="cpu")
    except (RuntimeError, EOFError, LookupError, TypeError, ValueError, AttributeError, UnpicklingError) as error:
        if is_out_of_memory(error):
            raise
        raise ValueError("is no training state") from error
    if not isinstance(saved, dict) or not {"format", "run", "state", "model", "optimizer", "average"} <= saved.keys():
        raise ValueError("is no training state")
    return saved
