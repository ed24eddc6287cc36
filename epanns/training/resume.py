"""The state of a training run on disk, from which a killed run resumes; see `epanns.state_files`."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from epanns.state_files import read_newest_state, write_state
from epanns.training.learner import Learner

FORMAT = "epanns-training-state/3"


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
    """Write the state of a step with `epanns.state_files.write_state`; `run` identifies the run for `load_state`.

    Raises:
        OSError: If the file cannot be written.
        PruningError: If the optimizer belongs to another network.
    """
    values = {"format": FORMAT, "run": run, "state": state.__dict__, **learner.state_dict()}
    write_state(folder, state.step, values)


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

    def use(saved: dict[str, Any]) -> TrainingState:
        if not {"format", "run", "state", "model", "optimizer", "average"} <= saved.keys():
            raise ValueError("is no training state")
        for key, ours in (("format", FORMAT), ("run", run)):
            if (theirs := saved.pop(key)) != ours:
                raise ValueError(f"its {key} is {theirs!r}, not {ours!r}")
        state = TrainingState(**saved.pop("state"))
        if check is not None:
            check(state)
        learner.load_state_dict(saved)
        return state

    return read_newest_state(folder, use, log)
