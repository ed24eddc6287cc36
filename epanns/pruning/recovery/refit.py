"""What reads pruned channels, fitted again to what the unpruned network computes: no labels, no training.

Layer by layer in forward order, the weights of whatever reads pruned channels are replaced by those that best
reproduce the unpruned network's output from the channels that are left, as they arrive in the pruned and so far
repaired network: later layers make up for what earlier ones lost. He et al. 2017 (arXiv 1707.06168) call this
asymmetric reconstruction.

Fitted to ``current`` instead, a layer reproduces what it would compute in the repaired network if the channels that it
reads had not been pruned. The arithmetic is in `epanns.pruning.recovery.least_squares`.
"""

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from epanns.errors import PruningError, did_you_mean
from epanns.models.modes import evaluation_mode
from epanns.models.pruning_plan import PruningPlan
from epanns.models.tagger import Tagger
from epanns.pruning.engine import remove_channels
from epanns.pruning.recovery.least_squares import Moments
from epanns.pruning.recovery.readers import FittedReader, RefitLayout
from epanns.pruning.recovery.walk import Walk, watched

_ROUNDING = 1e-6  # relative, of float32 with some to spare

TARGETS = ("dense", "current")

_MOST_INPUTS = 11_585  # whose covariance in float64 takes a gibibyte


@dataclass(frozen=True)
class ReaderError:
    """How well a reader of pruned channels reproduces its target, on clips that were not fitted.

    Attributes:
        reader: Name of the layer.
        plain: Squared error of the plain weights with the best constant, relative to the target's variance.
        refit: The same of the fitted weights, which are used where this is the smaller one.
    """

    reader: str
    plain: float
    refit: float

    @property
    def is_better(self) -> bool:
        """Whether the fitted weights are used."""
        return self.refit < self.plain


@dataclass(frozen=True)
class Refit:
    """What `refit_readers` did.

    Attributes:
        clips: Calibration clips, held-out ones included.
        errors: One per reader, in forward order.
        norms: Batch norms whose statistics were measured again, because no reader stands right before them.
    """

    clips: int
    errors: tuple[ReaderError, ...]
    norms: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return reader -> errors as JSON values."""
        return {error.reader: {"plain": error.plain, "refit": error.refit} for error in self.errors}


def refit_readers(
    pruned: Tagger,
    dense: Tagger,
    plan: PruningPlan,
    waveforms: Callable[[], Iterable[Tensor]],
    *,
    fit_to: str = "dense",
    ridge: float = 1e-3,
    mixtures: int = 0,
) -> Refit:
    """Fit every reader of a pruned layer again, in place; its constant goes into the next batch norm or the bias.

    A reader is a convolution or linear layer that mixes channels. Depthwise convolutions keep their weights: the batch
    norms behind them are measured again in their turn, so that later readers are fitted to what they will read.

    Args:
        pruned: What `apply_plan(dense, plan)` gave.
        dense: The network it was cut from; not touched.
        plan: In the channel numbers of `dense`.
        waveforms: Gives the calibration batches, ``(batch, samples)`` float in [-1, 1], as often as it is called; real
            sound, unlabelled, at least two clips. Every fifth clip is held out to judge the fit.
        fit_to: One of `TARGETS`: what is reproduced is computed by the unpruned network (``dense``), or by the repaired
            one with the channels that this reader reads still whole (``current``).
        ridge: How strongly the weights are held to the plain ones, relative to the inputs' mean variance, > 0.
        mixtures: So many mixtures of each fitted clip with another one of its batch are fitted too, >= 0; the
            unpruned network tells what they should give, so they need no more clips, but as much more time.

    Returns:
        The errors, which the provenance keeps too.

    Raises:
        PruningError: If the networks, the plan and the clips do not fit together, or something is not finite; `pruned`
            is left as it was.
    """
    _refuse_misfit(pruned, dense, plan, fit_to, ridge)
    if type(mixtures) is not int or mixtures < 0:
        raise PruningError(f"mixtures={mixtures!r}: must be a whole number of at least 0")
    before = {name: value.clone() for name, value in pruned.state_dict().items()}
    with ExitStack() as modes, torch.no_grad():
        for model in (pruned, dense):
            modes.enter_context(evaluation_mode(model))
        try:
            refit = _refit_all(pruned, dense, plan, waveforms, fit_to, ridge, mixtures)
        except BaseException:
            pruned.load_state_dict(before)
            raise
    settings = {"clips": refit.clips, "fit_to": fit_to, "ridge": ridge, "errors": refit.to_dict()}
    settings |= {"mixtures": mixtures} if mixtures else {}
    pruned.provenance = pruned.provenance.with_operation("recover", method="ls", **settings)
    return refit


def _refuse_misfit(pruned: Tagger, dense: Tagger, plan: PruningPlan, fit_to: str, ridge: float) -> None:
    if fit_to not in TARGETS:
        raise PruningError(f"fit_to={fit_to!r}{did_you_mean(fit_to, TARGETS)}: must be {' or '.join(TARGETS)}")
    if not 0 < ridge < float("inf"):
        raise PruningError(f"ridge={ridge:g}: must be above 0; 0.001 is a good value")
    for what, model, widths in (("dense", dense, plan.base.widths), ("pruned", pruned, plan.widths)):
        if dict(model.spec.widths) != dict(widths):
            raise PruningError(f"the {what} network's widths are not the plan's: give the two that the plan connects")


def _refit_all(
    pruned: Tagger,
    dense: Tagger,
    plan: PruningPlan,
    waveforms: Callable[[], Iterable[Tensor]],
    fit_to: str,
    ridge: float,
    mixtures: int,
) -> Refit:
    """Refit `pruned`; with ``current``, a copy of `dense` with zeros where channels will go, which is then cut."""
    student = pruned if fit_to == "dense" else copy.deepcopy(dense)
    layout = RefitLayout(dense, plan, whole=student is not pruned)
    fitted, judged = (
        Walk(student, dense, waveforms, held_out=part, shared_steps=layout.shared_steps, mixtures=added)
        for part, added in ((False, mixtures), (True, 0))
    )
    errors, norms = [], []
    for name in layout.names:
        if name in layout.norms:
            _match_statistics(fitted, name, layout)
            norms.append(name)
        else:
            errors.append(_refit(FittedReader(layout, name, student, dense), fitted, judged, ridge))
    if student is not pruned:
        pruned.load_state_dict(remove_channels(student, plan.kept_channels).state_dict())
    return Refit(fitted.clips, tuple(errors), tuple(norms))


def _refit(reader: FittedReader, fitted: Walk, judged: Walk, ridge: float) -> ReaderError:
    plain = reader.plain()
    candidates = _candidates(reader, fitted, plain, ridge)
    numbers = [part for candidate in candidates.values() for part in candidate]
    error = ReaderError(reader.name, **_relative_errors(reader, judged, candidates))
    if not all(bool(part.isfinite().all()) for part in numbers) or not math.isfinite(error.plain + error.refit):
        raise PruningError(
            f"{reader.name}: outputs are not finite on the calibration clips; look for bad clips or weights"
        )
    reader.set(*candidates["refit" if error.is_better else "plain"])
    return error


def _candidates(reader: FittedReader, fitted: Walk, plain: Tensor, ridge: float) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the plain and the fitted weights, each with the constant that fits best beside them.

    Where the covariance of all inputs would be too large, a part of them is fitted after the other, each to what the
    other parts leave.
    """
    weights, constants = plain.clone(), []
    n_parts = math.ceil(len(plain) / _MOST_INPUTS)
    for part in torch.arange(len(plain)).chunk(n_parts):
        own = slice(int(part[0]), int(part[-1]) + 1)
        others = weights.clone()
        others[own] = 0
        moments = Moments.empty(len(part), plain.shape[1])
        for p, y in reader.rows(fitted):
            moments.add(p[:, own], y if n_parts == 1 else y - p @ others)
        constants.append(moments.constant_for(weights[own]))
        try:
            weights[own] = moments.solve(weights[own], ridge)
        except ArithmeticError as failure:
            raise PruningError(
                f"{reader.name} cannot be fitted ({failure}): look for bad clips or weights"
            ) from failure
        constants.append(moments.constant_for(weights[own]))
    return {"plain": (plain, constants[0]), "refit": (weights, constants[-1])}


def _relative_errors(
    reader: FittedReader, judged: Walk, candidates: Mapping[str, tuple[Tensor, Tensor]]
) -> dict[str, float]:
    """Return each candidate's squared error on held-out clips, relative to the variance of the targets there."""
    errors = dict.fromkeys(candidates, 0.0)
    middle = None  # subtracted, so that little variance about a great mean is not lost in rounding
    n_rows, total, squares, about_zero = 0, torch.zeros((), dtype=torch.float64), 0.0, 0.0
    for p, y in reader.rows(judged):
        middle = y.mean(dim=0) if middle is None else middle
        n_rows, total, squares = n_rows + len(y), total + (y - middle).sum(dim=0), squares + _squared(y - middle)
        about_zero += _squared(y)
        for name, (weights, constant) in candidates.items():
            errors[name] += _squared(y - p @ weights - constant)
    # Outputs that vary by no more than float32 rounds are constant.
    variance = max(squares - _squared(total) / n_rows, _ROUNDING**2 * about_zero)
    if variance == 0:
        return {name: 0.0 if error == 0 else 1.0 for name, error in errors.items()}
    return {name: error / variance for name, error in errors.items()}


def _squared(values: Tensor) -> float:
    return float(values.square().sum())


def _match_statistics(walk: Walk, name: str, layout: RefitLayout) -> None:
    """Change a batch norm's statistics as those of what it reads have changed from the unpruned network on these clips.

    So its output has the mean and variance it has there (the mean alone where a channel hardly varies any more), and
    where nothing has changed, neither do the statistics.
    """
    ours, theirs = [], []
    step, kept = layout.steps[name], layout.outputs.get(name)
    for student_features, teacher_features in walk.before(step):
        ours.append(_sums(watched(walk.student, step, student_features, name, "input")))
        values = watched(walk.teacher, step, teacher_features, name, "input")
        theirs.append(_sums(values if kept is None else values[:, kept]))
    (mean, variance), (dense_mean, dense_variance) = _statistics(ours), _statistics(theirs)
    if not bool((mean + variance + dense_mean + dense_variance).isfinite().all()):
        raise PruningError(f"{name}: statistics are not finite on the calibration clips; look for bad clips or weights")
    norm = walk.student.get_submodule(name)
    assert isinstance(norm, _BatchNorm)
    running_mean, running_var = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
    before = running_var.to(variance) + norm.eps
    grown = torch.where((variance > 0) & (dense_variance > 0), variance / dense_variance, 1.0)
    running_var.copy_((before * grown - norm.eps).clamp_min(0))
    scale = ((running_var.to(variance) + norm.eps) / before).sqrt()
    running_mean.copy_(mean + (running_mean.to(mean) - dense_mean) * scale)


def _sums(values: Tensor) -> Tensor:
    """Return count, sum and sum of squares of each channel, ``(3, channels)`` float64."""
    values = values.double().transpose(0, 1).flatten(1)
    return torch.stack([torch.full_like(values[:, 0], values.shape[1]), values.sum(dim=1), values.square().sum(dim=1)])


def _statistics(sums: list[Tensor]) -> tuple[Tensor, Tensor]:
    count, total, squares = torch.stack(sums).sum(dim=0)
    mean = total / count
    return mean, (squares / count - mean.square()).clamp_min(0)
