"""The trials of a run in the order in which they may start: a trial starts after its base has a result."""

from collections.abc import Callable, Sequence

from epanns.sweeps.experiment import Trial
from epanns.sweeps.journal import TrialFolder

OnEnd = Callable[[Trial, str], None]
"""Called with a trial that has ended, and ``done``, ``skipped`` or ``failed``."""


class TrialQueue:
    """The trials without a result, and the outcomes of the others.

    Attributes:
        pending: The trials that have not been started, in order.
        outcomes: Trial id -> ``done``, ``skipped`` (it was done before) or ``failed``.
    """

    def __init__(self, trials: Sequence[Trial], folder_of: Callable[[Trial], TrialFolder], on_end: OnEnd) -> None:
        """Trials that were done before are skipped, and those that failed before stay failed."""
        self.folder_of, self._on_end = folder_of, on_end
        self.outcomes: dict[str, str] = {}
        self.pending: list[Trial] = []
        for trial in trials:
            folder = folder_of(trial)
            if folder.is_done:
                self.end(trial, "skipped")
            elif folder.has_failed:
                self.end(trial, "failed")
            else:
                self.pending.append(trial)

    def next_ready(self) -> Trial | None:
        """Remove and return the first trial that is ready; trials whose base failed are removed as failed."""
        for trial in list(self.pending):
            base = "done" if trial.base is None else self.outcomes.get(trial.base.trial_id)
            if base is not None:
                self.pending.remove(trial)
                if base != "failed":
                    return trial
                self.end(trial, "failed")
        return None

    def end(self, trial: Trial, outcome: str) -> None:
        """Add the outcome of a trial."""
        self.outcomes[trial.trial_id] = outcome
        self._on_end(trial, outcome)

    def end_by_files(self, trial: Trial) -> None:
        """Add the outcome of a trial that has ended, as its folder holds it."""
        self.end(trial, "done" if self.folder_of(trial).is_done else "failed")
