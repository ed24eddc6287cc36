"""Options of a training run that do not change its result."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from epanns.distributed import rank
from epanns.errors import ConfigError
from epanns.training.run.metrics import require_tensorboard

if TYPE_CHECKING:
    from epanns.training.run.resume import TrainingState

SAVE_EVERY = 500  # steps: about a minute on a fast GPU, where saving Cnn14 takes a few seconds

OnStep = Callable[["TrainingState", float], None]
OnValidation = Callable[["TrainingState"], None]
Log = Callable[[str], None]


def no_log(_line: str) -> None:
    """Ignore a line."""


@dataclass(frozen=True)
class RunOptions:
    """Options that may differ between two calls of one run; its final weights do not depend on them.

    Attributes:
        workers: Number of processes that read clips; 0 reads in the main process.
        save_every: Number of steps between states, beside the state at every validation. A killed run repeats the steps
            since the last state.
        on_step: Called after each step with the state and the loss of the step.
        on_validation: Called after each validation, whose row is the last of the state's history.
        tensorboard: Whether to write the metrics as event files of TensorBoard too.
        log: Called with one line for each event that a user should see: the step at which the run resumes, a skipped
            step, a state that cannot be read.
        fresh: Whether to delete an earlier run in the folder, after all checks and under the lock.
        command: The command that resumes the run; the folder keeps it until the run has finished.
    """

    workers: int = 0
    save_every: int = SAVE_EVERY
    on_step: OnStep | None = None
    on_validation: OnValidation | None = None
    tensorboard: bool = False
    log: Log = no_log
    fresh: bool = False
    command: str = ""

    def __post_init__(self) -> None:
        if self.save_every < 1:
            raise ConfigError(f"save_every={self.save_every}: must be at least 1 step")
        if self.tensorboard:
            require_tensorboard()

    def for_this_process(self) -> "RunOptions":
        """Return the options on rank 0, and the options without callbacks, log and TensorBoard on other ranks."""
        if rank() == 0:
            return self
        return replace(self, on_step=None, on_validation=None, tensorboard=False, log=no_log)
