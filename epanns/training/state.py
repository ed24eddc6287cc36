"""Everything a training run needs to go on where it was: files that appear whole and carry their checksum."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from epanns.atomic import partial_of, put_in_place, sha256_of
from epanns.errors import CheckpointError
from epanns.training.learner import Learner

FORMAT = "epanns-training-state/2"
KEPT = 2  # the newest, and the one before it for the day the newest cannot be read

_PATTERN = "state-*.pt"
_DIGITS = 16  # of the sha256 in the name


@dataclass
class TrainingState:
    """Counters of a run; weights and moments live in the learner.

    No random state is kept: every draw of step k is a pure function of the seed and of k.

    Attributes:
        step: Optimisation steps done, skipped ones included.
        best_step: Step of the best validation, or -1.
        best_score: Its mAP, or accuracy of a single-label network.
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
    loss_sum: float = 0.0
    norm_sum: float = 0.0
    loss_count: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    seconds: float = 0.0
    data_seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


def save_state(folder: Path, state: TrainingState, learner: Learner) -> None:
    """Write ``state-<step>-<sha256>.pt`` and remove all but the last two.

    Whatever happens while it writes, a full disk or a kill, the states before it stay.

    Raises:
        PruningError: If the optimizer is another network's.
    """
    values = {"format": FORMAT, "state": state.__dict__, **learner.state_dict()}
    partial = partial_of(folder / "state.pt")
    try:
        torch.save(values, partial)
        put_in_place(partial, folder / f"state-{state.step:08d}-{sha256_of(partial)[:_DIGITS]}.pt")
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    for old in saved_states(folder)[KEPT:]:
        old.unlink(missing_ok=True)


def saved_states(folder: Path) -> list[Path]:
    """Return the state files of a run, the newest first."""
    return sorted(folder.glob(_PATTERN), reverse=True)


def load_state(folder: Path, learner: Learner, tell: Callable[[str], None]) -> TrainingState | None:
    """Read the newest state that is whole into `learner`; None where there is no state at all.

    Args:
        folder: The run's.
        learner: Of the run; what it held is replaced.
        tell: Told of each state that cannot be read, in one line.

    Raises:
        CheckpointError: If none of the states can be read, or they are of another network.
        PruningError: If the optimizer is another network's.
    """
    reasons = []
    for path in saved_states(folder):
        try:
            return _read(path, learner)
        except CheckpointError as error:
            reasons.append(str(error))
            tell(f"{error}: the state before it is taken")
    if not reasons:
        return None
    raise CheckpointError(f"{reasons[0]}: no state of this run can be read, run again with --fresh to start over")


def _read(path: Path, learner: Learner) -> TrainingState:
    try:
        found = sha256_of(path)[:_DIGITS]
        if found != path.stem.rsplit("-", 1)[-1]:
            raise CheckpointError(f"{path}: this training state is damaged (its sha256 begins with {found})")
        saved: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        if saved.pop("format", None) != FORMAT:
            raise KeyError("format")
        state = TrainingState(**saved.pop("state"))
        learner.load_state_dict(saved)
        return state
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, ValueError, UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: this training state cannot be resumed ({reason})") from error
