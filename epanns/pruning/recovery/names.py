"""The names of what can be done for a pruned network without labels: one grammar, for the command line too."""

import re

from epanns.errors import did_you_mean

# "bn" measures batch-norm statistics again, "ls" fits the readers of pruned channels by least squares. Besides these:
# "distil:N" does "ls" and then N steps of gradient descent toward the unpruned network's outputs.
RECOVERIES = ("none", "bn", "ls", "ls+bn")

_DISTIL = re.compile(r"distil:([1-9][0-9]{0,6})")


def recovery_problem(method: object) -> str | None:
    """Return what is wrong with the name of a recovery; None where nothing is."""
    if isinstance(method, str) and (method in RECOVERIES or _DISTIL.fullmatch(method)):
        return None
    choices = (*RECOVERIES, "distil:200")
    return f"recover={method!r}{did_you_mean(str(method), choices)}: must be {', '.join(RECOVERIES)} or distil:STEPS"


def parts_of(method: str) -> tuple[str, ...]:
    """Return what a recovery does, in order: some of ``ls``, ``bn`` and ``distil``."""
    if _DISTIL.fullmatch(method):
        return ("ls", "distil")
    return () if method == "none" else tuple(method.split("+"))


def distil_steps(method: str) -> int:
    """Return the number of steps of ``distil:N``; 0 of other recoveries."""
    found = _DISTIL.fullmatch(method)
    return int(found[1]) if found else 0
