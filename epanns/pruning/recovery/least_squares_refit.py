"""Recovery ``ls``: least squares refits the layers that read pruned channels, without labels or training.

Layer by layer in forward order, the weights of each reader of pruned channels are replaced by those that best reproduce
the unpruned network's output from the kept channels, as they arrive in the pruned and partly repaired network: later
layers compensate for the losses of earlier ones. He et al. 2017 (arXiv 1707.06168) call this asymmetric reconstruction.

With ``fit_to="current"`` a layer reproduces its own output in the repaired network with its input channels unpruned.
"""

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor

from epanns.errors import PruningError
from epanns.models.modes import evaluation_mode
from epanns.models.pruning_plan import PruningPlan
from epanns.models.tagger import Tagger
from epanns.pruning.calibration_clips import CalibrationClips, ClipSource
from epanns.pruning.recovery.paired_features import PairedFeatures, capture
from epanns.pruning.recovery.rectified_fit import HeldRows, Rectifier, fit_rectified, rectified_layers
from epanns.pruning.recovery.refit_layers import FittedReader, RefitLayout
from epanns.pruning.surgery import remove_channels

_ROUNDING = 1e-6  # relative, of float32 with a margin

TARGETS = ("dense", "current")

_MOST_INPUTS = 11_585  # whose covariance in float64 takes a gibibyte
_PANEL = 1024  # columns of the Gram matrix at a time


@dataclass(frozen=True)
class ReaderError:
    """Error of a reader of pruned channels on held-out clips.

    Attributes:
        reader: Name of the layer.
        plain: Squared error of the unfitted weights with the best constant, relative to the target's variance.
        refit: The same of the fitted weights, which are used if this error is the smaller one.
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
    """Result of `refit_readers`.

    Attributes:
        clips: Number of calibration clips, held-out ones included.
        errors: One per reader, in forward order.
        norms: Batch norms whose means were shifted, because no reader is right before them.
    """

    clips: int
    errors: tuple[ReaderError, ...]
    norms: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return reader -> errors as JSON values."""
        return {error.reader: {"plain": error.plain, "refit": error.refit} for error in self.errors}


class RefitKeywords(TypedDict, total=False):
    """The fields of `RefitSettings` as keywords of `refit_readers`."""

    fit_to: str
    ridge: float
    mixtures: int
    rectify: int


@dataclass(frozen=True)
class RefitSettings:
    """Settings of `refit_readers`.

    Attributes:
        fit_to: One of `TARGETS`: reproduce the unpruned network (``dense``), or the repaired one with the channels that
            the reader reads unpruned (``current``).
        ridge: Strength of the pull to the unfitted weights, relative to the inputs' mean variance, > 0.
        mixtures: Number of mixtures of each fitted clip with another clip of its batch that are fitted too, >= 0. They
            need no more clips, since the unpruned network computes their targets; the time grows with them.
        rectify: Number of iterations, >= 0, that fit what the ReLU behind a reader passes (`fit_rectified`). With them,
            errors count behind the ReLU and each output by its own variance, and the held-out clips choose the ridge:
            1, 10, 100 or 1000 times `ridge`, relative to each input's own variance.
    """

    fit_to: str = "dense"
    ridge: float = 1e-3
    mixtures: int = 0
    rectify: int = 0


def refit_readers(
    pruned: Tagger,
    dense: Tagger,
    plan: PruningPlan,
    clips: ClipSource,
    **keywords: Unpack[RefitKeywords],
) -> Refit:
    """Refit every reader of a pruned layer in place; its constant goes into the next batch norm or the bias.

    A reader is a convolution or linear layer that mixes channels. Depthwise convolutions keep their weights: the batch
    norms behind them are shifted to the unpruned network's means in forward order, so that later readers are fitted to
    their new outputs.

    Args:
        pruned: Result of ``apply_plan(dense, plan)``.
        dense: The network it was pruned from; not touched.
        plan: In the channel numbers of `dense`.
        clips: Batches of waveforms ``(batch, samples)`` float in [-1, 1]: real sound, unlabelled, at least two clips.
            Every fifth clip is held out to evaluate the fit.
        **keywords: The fields of `RefitSettings`.

    Returns:
        The errors, which the provenance records too.

    Raises:
        PruningError: If the clips cannot be used, or a value is not finite; `pruned` is left as it was.
    """
    settings = RefitSettings(**keywords)
    clips = CalibrationClips.of(clips, several_passes=True)
    before = {name: value.clone() for name, value in pruned.state_dict().items()}
    # With "current", a copy of `dense` is fitted, with zeros for the channels to be removed, and then pruned.
    student = pruned if settings.fit_to == "dense" else copy.deepcopy(dense)
    with ExitStack() as modes, torch.no_grad():
        for model in (pruned, dense, student):
            modes.enter_context(evaluation_mode(model))
        try:
            layout = RefitLayout(dense, plan, whole=student is not pruned)
            fitted, held_out = (
                PairedFeatures(student, dense, clips, held_out=part, shared_stages=layout.shared_stages, mixtures=added)
                for part, added in ((False, settings.mixtures), (True, 0))
            )
            errors, norms = [], []
            behind_relu = rectified_layers(dense) if settings.rectify else frozenset[str]()
            for name in layout.names:
                if name in layout.norms:
                    _match_means(fitted, name, layout)
                    norms.append(name)
                    continue
                reader = FittedReader(layout, name, student, dense)
                if settings.rectify:
                    rectifier = reader.rectifier() if name in behind_relu else None
                    errors.append(_refit_rectified(reader, rectifier, fitted, held_out, settings))
                else:
                    errors.append(_refit(reader, fitted, held_out, settings.ridge))
            if student is not pruned:
                pruned.load_state_dict(remove_channels(student, plan.kept_channels).state_dict())
        except BaseException:
            pruned.load_state_dict(before)
            raise
    refit = Refit(fitted.n_clips, tuple(errors), tuple(norms))
    used = {"fit_to": settings.fit_to, "ridge": settings.ridge, "errors": refit.to_dict()}
    used |= {name: value for name in ("mixtures", "rectify") if (value := getattr(settings, name))}
    pruned.provenance = pruned.provenance.with_operation("recover", method="ls", clips=refit.clips, **used)
    return refit


def _refit(reader: FittedReader, fitted: PairedFeatures, held_out: PairedFeatures, ridge: float) -> ReaderError:
    plain = reader.plain()
    candidates = _candidates(reader, fitted, plain, ridge)
    numbers = [part for candidate in candidates.values() for part in candidate]
    error = ReaderError(reader.name, **_relative_errors(reader, held_out, candidates))
    if not all(bool(part.isfinite().all()) for part in numbers) or not math.isfinite(error.plain + error.refit):
        raise PruningError(
            f"{reader.name}: outputs are not finite on the calibration clips; look for bad clips or weights"
        )
    reader.set(*candidates["refit" if error.is_better else "plain"])
    return error


def _refit_rectified(
    reader: FittedReader,
    rectifier: Rectifier | None,
    fitted: PairedFeatures,
    held_out: PairedFeatures,
    settings: RefitSettings,
) -> ReaderError:
    rows, held_rows = HeldRows(reader.rows(fitted)), HeldRows(reader.rows(held_out))
    try:
        fit = fit_rectified(
            rows, held_rows, reader.plain(), rectifier, ridge=settings.ridge, iterations=settings.rectify
        )
    except ArithmeticError as failure:
        raise PruningError(f"{reader.name} cannot be fitted ({failure}): look for bad clips or weights") from failure
    if not math.isfinite(fit.plain + fit.refit):
        raise PruningError(
            f"{reader.name}: outputs are not finite on the calibration clips; look for bad clips or weights"
        )
    reader.set(fit.weights, fit.constant)
    return ReaderError(reader.name, fit.plain, fit.refit)


def _candidates(
    reader: FittedReader, fitted: PairedFeatures, plain: Tensor, ridge: float
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the unfitted and the fitted weights, each with its best constant.

    Where the covariance of all inputs would be too large, the inputs are fitted in parts, each to the residual of the
    other parts.
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
    reader: FittedReader, held_out: PairedFeatures, candidates: Mapping[str, tuple[Tensor, Tensor]]
) -> dict[str, float]:
    """Return each candidate's squared error on held-out clips, relative to the variance of the targets there."""
    errors = dict.fromkeys(candidates, 0.0)
    middle = None  # subtracted, so that rounding does not hide a small variance around a large mean
    n_rows, total, squares, about_zero = 0, torch.zeros((), dtype=torch.float64), 0.0, 0.0
    for p, y in reader.rows(held_out):
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


def _match_means(features: PairedFeatures, name: str, layout: RefitLayout) -> None:
    """Shift a batch norm's running mean as its input's mean differs from the unpruned network's on the clips.

    Its scale stays. The inputs are least-squares predictions of the unpruned network's: they vary less than what they
    predict, by the part that cannot be predicted. A scale that restores the variance would enlarge the error of the
    part that can.
    """
    ours, theirs = [], []
    stage, kept = layout.stages[name], layout.outputs.get(name)
    for student_features, teacher_features in features.before(stage):
        ours.append(channel_sums(capture(features.student, stage, student_features, name, "input")))
        values = capture(features.teacher, stage, teacher_features, name, "input")
        theirs.append(channel_sums(values if kept is None else values[:, kept]))
    shift = channel_statistics(ours)[0] - channel_statistics(theirs)[0]
    if not bool(shift.isfinite().all()):
        raise PruningError(f"{name}: means are not finite on the calibration clips; look for bad clips or weights")
    running_mean = features.student.get_submodule(name).get_buffer("running_mean")
    running_mean.add_(shift.to(running_mean))


def channel_sums(values: Tensor) -> Tensor:
    """Return count, sum and sum of squares of each channel of ``(batch, channels, ...)``, ``(3, channels)`` float64."""
    values = values.double().transpose(0, 1).flatten(1)
    return torch.stack([torch.full_like(values[:, 0], values.shape[1]), values.sum(dim=1), values.square().sum(dim=1)])


def channel_statistics(sums: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return mean and variance of each channel, from the results of `channel_sums`."""
    count, total, squares = torch.stack(sums).sum(dim=0)
    mean = total / count
    return mean, (squares / count - mean.square()).clamp_min(0)


@dataclass
class Moments:
    """First and second moments of rows ``p`` and their targets ``y``, summed in float64, for a ridge regression.

    Sums are of differences from the means of the first rows, so that rounding does not hide a small variance around a
    large mean.

    Attributes:
        rows: Number of rows added.
        p_origin: ``(inputs,)``, subtracted from p.
        y_origin: ``(outputs,)``, subtracted from y.
        p_sum: ``(inputs,)``.
        y_sum: ``(outputs,)``.
        gram: ``(inputs, inputs)``, sum of p p'; symmetric, so only the panels on and below its diagonal are summed.
        cross: ``(inputs, outputs)``, sum of p y'.
    """

    rows: int
    p_origin: Tensor
    y_origin: Tensor
    p_sum: Tensor
    y_sum: Tensor
    gram: Tensor
    cross: Tensor

    @classmethod
    def empty(cls, inputs: int, outputs: int) -> "Moments":
        """Return the moments of no rows."""
        shapes = ((inputs,), (outputs,), (inputs,), (outputs,), (inputs, inputs), (inputs, outputs))
        return cls(0, *(torch.zeros(shape, dtype=torch.float64) for shape in shapes))

    def add(self, p: Tensor, y: Tensor) -> None:
        """Add rows ``(rows, inputs)`` and their targets ``(rows, outputs)``, of any floating type."""
        p, y = p.double(), y.double()
        if not self.rows:
            self.p_origin, self.y_origin = p.mean(dim=0), y.mean(dim=0)
        p, y = p - self.p_origin, y - self.y_origin
        self.rows += len(p)
        self.p_sum += p.sum(dim=0)
        self.y_sum += y.sum(dim=0)
        for start, end in self._panels():
            self.gram[start:end, :end].addmm_(p[:, start:end].T, p[:, :end])
        self.cross.addmm_(p.T, y)

    def constant_for(self, weights: Tensor) -> Tensor:
        """Return the ``(outputs,)`` constant that fits best beside ``(inputs, outputs)`` weights."""
        p_mean, y_mean = self.p_origin + self.p_sum / self.rows, self.y_origin + self.y_sum / self.rows
        return y_mean - p_mean @ weights

    def solve(self, plain: Tensor, ridge: float) -> Tensor:
        """Return the weights ``(inputs, outputs)`` float64 that explain the centred targets best.

        They minimise ``E|(y - m_y) - S'(p - m_p)|^2 + lambda |S - plain|^2`` with ``lambda = ridge * mean(diag G)``,
        G the covariance of p: a large ridge gives `plain`, a small one ordinary least squares. The moments are
        overwritten: the Gram matrix, the largest tensor here, is centred and factorised in place, and so is `cross`.

        Args:
            plain: ``(inputs, outputs)``, the weights to stay near.
            ridge: Relative, > 0.

        Raises:
            ArithmeticError: If the covariance is not positive definite, because an entry is not finite.
        """
        plain = plain.double()
        mean, y_mean = self.p_sum / self.rows, self.y_sum / self.rows
        covariance = self.gram
        for start, end in self._panels():
            covariance[start:end, :end].div_(self.rows).addr_(mean[start:end], mean[:end], alpha=-1)
            covariance[:start, start:end] = covariance[start:end, :start].T
        wanted = self.cross.div_(self.rows).addr_(mean, y_mean, alpha=-1).addmm_(covariance, plain, alpha=-1)
        # Where no input varies, any positive number keeps the plain weights.
        strength = ridge * float(covariance.diagonal().mean()) or 1.0
        covariance.diagonal().add_(strength)
        columns = covariance.T  # LAPACK's order of memory, so that the factor overwrites the matrix
        failed = torch.zeros((), dtype=torch.int32)
        torch.linalg.cholesky_ex(columns, upper=True, out=(columns, failed))
        if int(failed):
            raise ArithmeticError("the covariance of the inputs is not positive definite")
        half = torch.linalg.solve_triangular(covariance, wanted, upper=False)
        fitted: Tensor = torch.linalg.solve_triangular(columns, half, upper=True)
        return fitted.add_(plain)

    def _panels(self) -> Iterator[tuple[int, int]]:
        inputs = len(self.p_sum)
        return ((start, min(inputs, start + _PANEL)) for start in range(0, inputs, _PANEL))
