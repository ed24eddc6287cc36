"""All errors that are raised for users; `epanns.cli.main` turns them into a message and an exit code."""

import difflib
from collections.abc import Iterable


class EpannsError(Exception):
    """Base of all errors that the input or the environment causes, as opposed to a mistake in epanns.

    A message is one line: what is wrong, its value, the rule, and what to do.
    """

    exit_code = 1
    is_reported = False  # whether a command has already written the message to stderr


class ConfigError(EpannsError):
    """An invalid option or configuration key, or an invalid combination."""


class CheckpointError(EpannsError):
    """A checkpoint or a released weight file that is damaged, unsafe or of the wrong kind."""


class PackError(EpannsError):
    """A pack that cannot be read or does not suit its use."""


class DataError(EpannsError):
    """An audio file, a manifest, a label list or a record that cannot be read or used."""


class PruningError(EpannsError):
    """A pruning plan that cannot be made or applied."""


class TrainingError(EpannsError):
    """A training run that cannot continue."""


class OutputError(EpannsError):
    """An output path that cannot be written."""


class DataProblems(EpannsError):  # noqa: N818 - the outcome of a check, not a failure
    """A check of data found problems, which have been reported."""

    exit_code = 3


class Interrupted(EpannsError):  # noqa: N818 - the run did as requested
    """A signal stopped a long command after its state was saved."""

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(signal_number, message)
        self.exit_code = 128 + signal_number

    def __str__(self) -> str:
        return str(self.args[1])


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the nearest choice; empty if none is near."""
    nearest = difflib.get_close_matches(str(name), list(choices), n=1)
    return f" (did you mean {nearest[0]!r}?)" if nearest else ""
