"""What can be done for a pruned network without labels and without training, by name."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

from epanns.errors import PruningError, did_you_mean
from epanns.models.tagger import Tagger
from epanns.pruning.plan import PruningPlan
from epanns.pruning.recalibrate import recalibrate_batch_norm
from epanns.pruning.refit import refit_readers

# "bn" measures batch-norm statistics again, "ls" fits the readers of pruned channels by least squares.
RECOVERIES = ("none", "bn", "ls", "ls+bn")


def recover(
    method: str, pruned: Tagger, dense: Tagger, plan: PruningPlan, waveforms: Callable[[], Iterable[Tensor]]
) -> dict[str, Any] | None:
    """Recover a network in place.

    Args:
        method: One of `RECOVERIES`.
        pruned: What `apply_plan(dense, plan)` gave.
        dense: The network it was cut from.
        plan: In the channel numbers of `dense`.
        waveforms: Gives the calibration batches, ``(batch, samples)`` float in [-1, 1], as often as it is called.

    Returns:
        Method, clips and the error of each refitted reader, as JSON values; None where nothing was asked for.

    Raises:
        PruningError: If the method is unknown, or as in `refit_readers` and `recalibrate_batch_norm`.
    """
    if method not in RECOVERIES:
        raise PruningError(f"recover={method!r}{did_you_mean(method, RECOVERIES)}: must be {' or '.join(RECOVERIES)}")
    steps = method.split("+")
    report: dict[str, Any] = {"method": method, "clips": 0}
    if "ls" in steps:
        refit = refit_readers(pruned, dense, plan, waveforms)
        report |= {"clips": refit.clips, "errors": refit.to_dict()}
    if "bn" in steps:
        report["clips"] = recalibrate_batch_norm(pruned, waveforms(), plan=plan)
    return report if method != "none" else None
