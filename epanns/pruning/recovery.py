"""What can be done for a pruned network without labels and without training, by name."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from torch import Tensor

from epanns.errors import ConfigError, PruningError, did_you_mean
from epanns.models.tagger import Tagger
from epanns.pruning.distil import distil
from epanns.pruning.plan import PruningPlan
from epanns.pruning.recalibrate import recalibrate_batch_norm
from epanns.pruning.refit import TARGETS, refit_readers

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


@dataclass(frozen=True)
class RecoverySettings:
    """How ``ls`` and ``distil`` work; see `refit_readers` and `distil`.

    Attributes:
        fit_to: What is reproduced: ``dense``, the unpruned network's outputs, or ``current``.
        ridge: How strongly weights are held to the plain ones, > 0.
        mixtures: So many mixtures of each clip with another one are fitted by ``ls`` too.
        seed: Of the mixtures of clips that ``distil`` sees.
    """

    fit_to: str = "dense"
    ridge: float = 1e-3
    mixtures: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        problems = []
        if self.fit_to not in TARGETS:
            problems.append(f"fit_to={self.fit_to!r}{did_you_mean(str(self.fit_to), TARGETS)}: {' or '.join(TARGETS)}")
        if isinstance(self.ridge, bool) or not isinstance(self.ridge, int | float) or not 0 < self.ridge < math.inf:
            problems.append(f"ridge={self.ridge!r}: must be a number above 0; 0.001 is a good value")
        problems += [
            f"{name}={value!r}: must be a whole number of at least 0"
            for name, value in (("mixtures", self.mixtures), ("seed", self.seed))
            if type(value) is not int or value < 0
        ]
        if problems:
            raise ConfigError("recovery: " + "; ".join(problems))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RecoverySettings":
        """Read settings strictly; keys left out have their defaults."""
        known = [field.name for field in fields(cls)]
        if unknown := [f"unknown key {key!r}{did_you_mean(key, known)}" for key in values if key not in known]:
            raise ConfigError("recovery: " + "; ".join(unknown))
        return cls(**values)


def recover(
    method: str,
    pruned: Tagger,
    dense: Tagger,
    plan: PruningPlan,
    waveforms: Callable[[], Iterable[Tensor]],
    settings: RecoverySettings = RecoverySettings(),
) -> dict[str, Any] | None:
    """Recover a network in place.

    Args:
        method: One of `RECOVERIES`, or ``distil:N`` with a number of steps.
        pruned: What `apply_plan(dense, plan)` gave.
        dense: The network it was cut from.
        plan: In the channel numbers of `dense`.
        waveforms: Gives the calibration batches, ``(batch, samples)`` float in [-1, 1], as often as it is called.
        settings: For ``ls`` and ``distil``.

    Returns:
        Method, clips and, of ``ls``, its settings, the error of each refitted reader, and the batch norms that were
        measured again; of ``distil``, what became of the loss on held-out clips; as JSON values. None where nothing was
        asked for.

    Raises:
        PruningError: If the method is unknown, or as in `refit_readers`, `recalibrate_batch_norm` and `distil`; the
            steps before the one that fails stay, in the network and in its recipe.
    """
    if problem := recovery_problem(method):
        raise PruningError(problem)
    distilled = _DISTIL.fullmatch(method)
    steps = ["ls", "distil"] if distilled else method.split("+")
    report: dict[str, Any] = {"method": method, "clips": 0}
    if "ls" in steps:
        asked = {"fit_to": settings.fit_to, "ridge": settings.ridge, "mixtures": settings.mixtures}
        refit = refit_readers(pruned, dense, plan, waveforms, **asked)  # type: ignore[arg-type]
        report |= {"clips": refit.clips, **asked}
        report |= {"errors": refit.to_dict(), "norms": list(refit.norms)}
    if "bn" in steps:
        report["clips"] = recalibrate_batch_norm(pruned, waveforms(), plan=plan)
    if distilled:
        done = distil(pruned, dense, waveforms, steps=int(distilled[1]), seed=settings.seed)
        report["distil"] = asdict(done)
    return report if method != "none" else None
