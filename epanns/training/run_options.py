"""How a run is carried out and watched."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from epanns.distributed import rank
from epanns.errors import ConfigError
from epanns.training.events import require_tensorboard

if TYPE_CHECKING:
    from epanns.training.state import TrainingState

SAVE_EVERY = 500  # steps: about a minute on a GPU that is fast, where saving Cnn14 takes a few seconds

OnStep = Callable[["TrainingState", float], None]
OnValidation = Callable[["TrainingState"], None]
Log = Callable[[str], None]


def no_log(_line: str) -> None:
    """Write a line nowhere."""


@dataclass(frozen=True)
class RunOptions:
    """What may differ from one call to the next: the run ends with the same weights whatever is chosen here.

    Attributes:
        workers: Processes that read clips; 0 reads in this one.
        save_every: Steps between states, beside those at every validation. A killed run repeats the steps since the
            last one.
        on_step: Called after each step with the state and the step's loss.
        on_validation: Called after each validation, whose numbers are the last row of the state's history.
        tensorboard: Write the metrics as event files of TensorBoard too.
        log: Told in one line of what a person should know: the step at which the run resumes, a step that was skipped,
            a state that cannot be read.
        fresh: Delete an earlier run in the folder, once everything was checked and the folder is locked.
        command: The command that resumes the run; the folder keeps it until the run has ended.
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

    def heard_once(self) -> "RunOptions":
        """Return the same for rank 0; on other processes nobody is told anything, and nothing is written."""
        if rank() == 0:
            return self
        return replace(self, on_step=None, on_validation=None, tensorboard=False, log=no_log)
