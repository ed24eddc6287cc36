"""A part of a sweep's trials, for one task of a job array: ``--shard 2/8``.

The trials are put in a row: each base, followed by the trials that prune it. The row is cut into parts of nearly equal
length, so that few parts need the same base. A part includes the bases that its trials prune. In a shared folder such a
base is trained by the first part that gets to it, and the others wait for it; in a folder of its own, each part trains
the bases that it needs, and `epanns report A B` joins the folders.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from epanns.errors import ConfigError
from epanns.sweeps.experiment import Trial

_SHARD = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count` parts, counted from 0."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ConfigError(
                f"shard {self.index}/{self.count}: the first number must be from 0 to {max(self.count, 1) - 1}, the "
                "second at least 1"
            )

    @classmethod
    def of(cls, text: str) -> "Shard":
        """Return the shard of a text such as ``2/8``, the third of eight.

        Raises:
            ConfigError: If the text is not of this form, or there is no such shard.
        """
        if not (found := _SHARD.fullmatch(text)):
            raise ConfigError(f"shard {text!r}: must be i/n, such as 0/4 for the first of four parts")
        return cls(int(found[1]), int(found[2]))

    def trials_of(self, trials: Sequence[Trial]) -> tuple[Trial, ...]:
        """Return the trials of this part, bases first, with every base that they prune."""
        pruned: dict[str, list[Trial]] = {trial.trial_id: [] for trial in trials if trial.base is None}
        for trial in trials:
            if trial.base is not None:
                pruned[trial.base.trial_id].append(trial)
        row = [each for trial in trials if trial.base is None for each in (trial, *pruned[trial.trial_id])]
        begin, end = (len(row) * place // self.count for place in (self.index, self.index + 1))
        wanted = {base.trial_id for trial in row[begin:end] for base in (trial, trial.base) if base is not None}
        return tuple(trial for trial in trials if trial.trial_id in wanted)
