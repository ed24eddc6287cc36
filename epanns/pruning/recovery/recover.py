"""Recovery of a pruned network without labels, by name."""

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from epanns.errors import PruningError, did_you_mean
from epanns.models.pruning_plan import PruningPlan, remainder
from epanns.models.tagger import Tagger
from epanns.pruning.calibration_clips import CalibrationClips, ClipSource
from epanns.pruning.recovery.alignment import align
from epanns.pruning.recovery.batch_norm_reestimation import recalibrate_batch_norm, refuse_folded
from epanns.pruning.recovery.channel_maps import compensate_channels
from epanns.pruning.recovery.descent import Descent, RecoveryRun
from epanns.pruning.recovery.distillation import distil
from epanns.pruning.recovery.least_squares_refit import TARGETS, refit_readers
from epanns.strict import Rule, check_fields, from_table, integer, number, one_of

# "bn" is batch-norm re-estimation, "ls" refits the readers of pruned channels by least squares, "grail" and "fold" are
# published baselines of it. Beside these,
# "align:N" does N gradient steps toward every layer of the unpruned network, "ls+align:N" does "ls" before it, and
# "distil:N" does "ls" and then N steps toward the unpruned network's outputs.
RECOVERIES = ("none", "bn", "ls", "ls+bn", "grail", "fold")
RECOVERY_NAMES = (*RECOVERIES, "align:STEPS", "ls+align:STEPS", "distil:STEPS")

_IN_STEPS = re.compile(r"(align|ls\+align|distil):([1-9][0-9]{0,6})")


def recovery_problem(method: object) -> str | None:
    """Return the problem with the name of a recovery, or None."""
    if isinstance(method, str) and (method in RECOVERIES or _IN_STEPS.fullmatch(method)):
        return None
    choices = (*RECOVERIES, "align:1500", "ls+align:1500", "distil:200")
    *names, last = RECOVERY_NAMES
    return f"recover={method!r}{did_you_mean(str(method), choices)}: must be {', '.join(names)} or {last}"


def parts_of(method: str) -> tuple[str, ...]:
    """Return the parts of a recovery, in order: of ``ls``, ``bn``, ``grail``, ``fold``, ``align`` and ``distil``."""
    if found := _IN_STEPS.fullmatch(method):
        return ("ls", "distil") if found[1] == "distil" else tuple(found[1].split("+"))
    return () if method == "none" else tuple(method.split("+"))


@dataclass(frozen=True)
class RecoverySettings:
    """Settings of the recoveries; see `refit_readers`, `compensate_channels`, `align` and `distil`.

    Attributes:
        fit_to: Outputs that ``ls`` reproduces: those of the unpruned network (``dense``), or ``current``.
        ridge: Strength of the pull to the unfitted weights of ``ls``, and to zero of ``grail``, > 0.
        mixtures: Number of mixtures of each clip with another clip that ``ls`` is fitted to as well.
        rectify: Number of iterations of ``ls`` that fit what the ReLU behind each layer passes.
        seed: Seed of the inputs of ``align`` and ``distil``.
    """

    fit_to: str = "dense"
    ridge: float = 1e-3
    mixtures: int = 0
    rectify: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self, RECOVERY_RULES, what="recovery: ")

    @classmethod
    def from_dict(cls, values: object) -> "RecoverySettings":
        """Return the settings of a table; missing keys keep their defaults.

        Raises:
            ConfigError: With every unknown key and wrong value, or if it is no table.
        """
        return from_table(cls, values, RECOVERY_RULES, what="recovery: ")


RECOVERY_RULES: Mapping[str, Rule] = {
    "fit_to": one_of(TARGETS),
    "ridge": number("a number above 0; 0.001 is a good value", lambda value: value > 0),
    "mixtures": integer(0),
    "rectify": integer(0),
    "seed": integer(0),
}


def recover(
    pruned: Tagger,
    dense: Tagger,
    waveforms: ClipSource,
    method: str = "ls",
    *,
    plan: PruningPlan | None = None,
    run: RecoveryRun | None = None,
    **settings: Any,
) -> dict[str, Any] | None:
    """Recover a pruned network in place, without labels.

    Args:
        pruned: Network from `epanns.prune`, pruned in one or several rounds.
        dense: The network it was pruned from: the unpruned one or that of any round between; not touched.
        waveforms: Calibration batches ``(batch, samples)`` float in [-1, 1], real sound, unlabelled: a list, or a
            function that returns them on each call. ``bn`` averages the statistics within each batch, so it depends on
            the batch size; commands and sweeps use `epanns.pruning.calibration_clips.BATCH_CLIPS`, 32.
        method: One of `RECOVERIES`, or ``align:N``, ``ls+align:N`` or ``distil:N`` with a number of steps.
        plan: Leads from `dense` to `pruned`, in the channel numbers of `dense`; by default from `plan_between`.
        run: Folder of the states of gradient steps, from which a killed process resumes, and their progress.
        settings: Those of `RecoverySettings`: ``fit_to``, ``ridge``, ``mixtures``, ``rectify``, ``seed``.

    Returns:
        JSON values: method, clips and, of ``grail``, its ridge; of ``ls``, its settings, the error of each refitted
        reader, and the shifted batch norms; of ``align`` and ``distil``, the loss on held-out clips before and after.
        None if `method` is ``none``.

    Raises:
        ConfigError: If a setting is unknown or out of range.
        PruningError: If the method is unknown, networks and plan do not fit, no plan is known, or as in
            `refit_readers`, `recalibrate_batch_norm`, `compensate_channels`, `align` and `distil`; the parts before the
            one that fails stay, in the network and in its recipe.
        Interrupted: After a signal during gradient steps, if `run` has a folder.
    """
    if problem := recovery_problem(method):
        raise PruningError(problem)
    checked, parts = RecoverySettings.from_dict(settings), parts_of(method)
    if not parts:
        return None
    if "bn" in parts:
        refuse_folded(pruned)  # before the time that ls takes
    plan = plan_between(dense, pruned) if plan is None else _fitting(plan, dense, pruned)
    clips = CalibrationClips.of(waveforms, several_passes=True)
    report: dict[str, Any] = {"method": method, "clips": 0}
    if "ls" in parts:
        used: dict[str, Any] = {"fit_to": checked.fit_to, "ridge": checked.ridge, "mixtures": checked.mixtures}
        used |= {"rectify": checked.rectify} if checked.rectify else {}
        refit = refit_readers(pruned, dense, plan, clips, **used)
        report |= {"clips": refit.clips, **used}
        report |= {"errors": refit.to_dict(), "norms": list(refit.norms)}
    if method in ("grail", "fold"):
        report["clips"] = compensate_channels(pruned, dense, plan, clips, method, ridge=checked.ridge)
        report |= {"ridge": checked.ridge} if method == "grail" else {}
    if "bn" in parts:
        report["clips"] = recalibrate_batch_norm(pruned, clips, plan=plan)
    if found := _IN_STEPS.fullmatch(method):
        descend: Callable[..., Descent] = align if parts[-1] == "align" else distil
        done = descend(pruned, dense, clips, steps=int(found[2]), seed=checked.seed, plan=plan, run=run)
        report |= {"clips": done.clips, parts[-1]: asdict(done)}
    return report


def plan_between(dense: Tagger, pruned: Tagger) -> PruningPlan:
    """Return the plan that leads from one network to another that was pruned from it, from their provenance.

    Args:
        dense: The unpruned network or one that was pruned from it.
        pruned: Pruned from `dense`, in one or several rounds.

    Returns:
        The plan in the channel numbers of `dense`.

    Raises:
        PruningError: If the provenance holds no plan that leads from `dense` to `pruned`.
    """
    whole, before = pruned.provenance.plan, dense.provenance.plan
    if whole is None:
        raise PruningError(
            f"the plan of this {pruned.spec.name} is unknown: give plan=, the one that epanns.prune returned"
        )
    if dict(whole.base.widths) != dict(dense.spec.widths) and before is not None:
        whole = remainder(before, whole)
    return _fitting(whole, dense, pruned)


def _fitting(plan: PruningPlan, dense: Tagger, pruned: Tagger) -> PruningPlan:
    for role, model, widths in (("dense", dense, plan.base.widths), ("pruned", pruned, plan.widths)):
        if dict(model.spec.widths) != dict(widths):
            raise PruningError(
                f"the {role} network's widths are not the plan's: give the two that the plan connects, or their plan="
            )
    if dense.spec.front_end != pruned.spec.front_end:
        raise PruningError(
            f"{dense.spec.name} and {pruned.spec.name} have different front ends: give the network that the pruned one "
            "was pruned from"
        )
    return plan
