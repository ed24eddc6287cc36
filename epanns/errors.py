"""Every error a user can meet; only `epanns.cli.main` turns one into text and an exit code."""

import difflib
from collections.abc import Iterable


class EpannsError(Exception):
    """Base of all errors that are the input's or the environment's, not a mistake in epanns itself.

    A message is one line: what, its value, the rule, and what to do.
    """

    exit_code = 1
    told = False  # whether a person has read it already


class ConfigError(EpannsError):
    """An option, a configuration key or a combination of them that cannot be used."""


class CheckpointError(EpannsError):
    """A checkpoint or a released weight file that is wrong, damaged or refused."""


class PackError(EpannsError):
    """A pack that cannot be read or does not fit its use."""


class DataError(EpannsError):
    """An audio file, a manifest, a label list or a record that cannot be used."""


class PruningError(EpannsError):
    """A plan that cannot be made or applied."""


class TrainingError(EpannsError):
    """A training run that cannot go on."""


class OutputError(EpannsError):
    """A place where results should go and cannot."""


class DataProblems(EpannsError):  # noqa: N818 - an outcome of a check, not a failure of it
    """A check of data ended and found problems, which have been reported."""

    exit_code = 3


class Interrupted(EpannsError):  # noqa: N818 - the run did what it was told
    """A signal stopped a long command after its state was saved."""

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(signal_number, message)
        self.exit_code = 128 + signal_number

    def __str__(self) -> str:
        return str(self.args[1])


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the nearest choice, or an empty string."""
    nearest = difflib.get_close_matches(str(name), list(choices), n=1)
    return f" (did you mean {nearest[0]!r}?)" if nearest else ""
