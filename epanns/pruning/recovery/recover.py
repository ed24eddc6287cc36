"""What can be done for a pruned network without labels, by name."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from epanns.errors import PruningError
from epanns.models.pruning_plan import PruningPlan, remainder
from epanns.models.tagger import Tagger
from epanns.pruning.recovery.distil import distil
from epanns.pruning.recovery.names import distil_steps, parts_of, recovery_problem
from epanns.pruning.recovery.recalibrate import recalibrate_batch_norm, refuse_folded
from epanns.pruning.recovery.refit import TARGETS, refit_readers
from epanns.strict import Rule, check_fields, from_table, integer, number, one_of


@dataclass(frozen=True)
class RecoverySettings:
    """How ``ls`` and ``distil`` work; see `refit_readers` and `distil`; the others have no use for them.

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
    "seed": integer(0),
}


def recover(
    pruned: Tagger,
    dense: Tagger,
    waveforms: Iterable[Tensor] | Callable[[], Iterable[Tensor]],
    method: str = "ls",
    *,
    plan: PruningPlan | None = None,
    **settings: Any,
) -> dict[str, Any] | None:
    """Recover a pruned network in place, without labels.

    Args:
        pruned: What `epanns.prune` gave, in one step or in several.
        dense: The network it was cut from: the unpruned one or that of any step between; not touched.
        waveforms: Calibration batches ``(batch, samples)`` float in [-1, 1], real sound, unlabelled: a list, or a
            function that gives them each time it is called. ``bn`` averages the statistics within each batch, so it
            depends on their size; commands and sweeps use `pack_clips.CALIBRATION_BATCH`, 32.
        method: One of `recovery_names.RECOVERIES`, or ``distil:N`` with a number of steps.
        plan: Leads from `dense` to `pruned`, in the channel numbers of `dense`; by default `plan_between` finds it.
        settings: Those of `RecoverySettings`: ``fit_to``, ``ridge``, ``mixtures``, ``seed``.

    Returns:
        Method, clips and, of ``ls``, its settings, the error of each refitted reader, and the batch norms that were
        measured again; of ``distil``, what became of the loss on held-out clips; as JSON values. None where nothing was
        asked for.

    Raises:
        ConfigError: If a setting is unknown or out of range.
        PruningError: If the method is unknown, networks and plan do not fit, nothing tells the plan, or as in
            `refit_readers`, `recalibrate_batch_norm` and `distil`; the steps before the one that fails stay, in the
            network and in its recipe.
    """
    if problem := recovery_problem(method):
        raise PruningError(problem)
    how, parts = RecoverySettings.from_dict(settings), parts_of(method)
    if not parts:
        return None
    if "bn" in parts:
        refuse_folded(pruned)  # before ls is done in vain
    plan = plan_between(dense, pruned) if plan is None else _fitting(plan, dense, pruned)
    batches = _batches_of(waveforms)
    report: dict[str, Any] = {"method": method, "clips": 0}
    if "ls" in parts:
        asked = {"fit_to": how.fit_to, "ridge": how.ridge, "mixtures": how.mixtures}
        refit = refit_readers(pruned, dense, plan, batches, **asked)  # type: ignore[arg-type]
        report |= {"clips": refit.clips, **asked}
        report |= {"errors": refit.to_dict(), "norms": list(refit.norms)}
    if "bn" in parts:
        report["clips"] = recalibrate_batch_norm(pruned, batches(), plan=plan)
    if "distil" in parts:
        done = distil(pruned, dense, batches, steps=distil_steps(method), seed=how.seed, plan=plan)
        report["distil"] = asdict(done)
    return report


def plan_between(dense: Tagger, pruned: Tagger) -> PruningPlan:
    """Return the plan that leads from one network to another that was cut from it, as their provenance tells.

    Args:
        dense: The unpruned network or one that was cut from it.
        pruned: Cut from `dense`, in one step or in several.

    Returns:
        The plan in the channel numbers of `dense`.

    Raises:
        PruningError: If the provenance holds no plan that leads from the one to the other.
    """
    whole, before = pruned.provenance.plan, dense.provenance.plan
    if whole is None:
        raise PruningError(
            f"nothing tells how this {pruned.spec.name} was cut: give plan=, the one that epanns.prune returned"
        )
    if dict(whole.base.widths) != dict(dense.spec.widths) and before is not None:
        whole = remainder(before, whole)
    return _fitting(whole, dense, pruned)


def _fitting(plan: PruningPlan, dense: Tagger, pruned: Tagger) -> PruningPlan:
    for what, model, widths in (("dense", dense, plan.base.widths), ("pruned", pruned, plan.widths)):
        if dict(model.spec.widths) != dict(widths):
            raise PruningError(
                f"the {what} network's widths are not the plan's: give the two that the plan connects, or their plan="
            )
    if dense.spec.front_end != pruned.spec.front_end:
        raise PruningError(
            f"{dense.spec.name} and {pruned.spec.name} hear through different front ends: give the network that the "
            "pruned one was cut from"
        )
    return plan


def _batches_of(waveforms: Iterable[Tensor] | Callable[[], Iterable[Tensor]]) -> Callable[[], Iterator[Tensor]]:
    """Return what gives the batches as often as it is called."""
    if isinstance(waveforms, Tensor | Iterator):
        raise PruningError(
            f"waveforms of type {type(waveforms).__name__}: they are gone through several times, so give a list of "
            "batches (batch, samples), or a function that gives them each time"
        )

    def batches() -> Iterator[Tensor]:
        for batch in waveforms() if callable(waveforms) else waveforms:
            if batch.dim() != 2:
                raise PruningError(f"calibration batch of shape {tuple(batch.shape)}: give (batch, samples)")
            yield batch

    return batches
