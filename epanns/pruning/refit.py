"""What reads pruned channels, fitted again to what the unpruned network computes: no labels, no training.

Layer by layer in forward order, the weights of whatever reads a pruned layer are replaced by those that best reproduce
the unpruned network's output from the channels that are left, as they arrive in the pruned and so far repaired network:
later layers make up for what earlier ones lost. He et al. 2017 (arXiv 1707.06168) call this asymmetric reconstruction.
The arithmetic is in `epanns.pruning.least_squares`.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from epanns.errors import PruningError
from epanns.models.modes import evaluation_mode
from epanns.models.recipe import with_step
from epanns.models.tagger import Tagger
from epanns.pruning.least_squares import Moments
from epanns.pruning.plan import PruningPlan

_HELD_OUT_EVERY = 5  # every fifth clip judges the fit to the others
_MOST_CACHED_BYTES = 512 << 20  # of features kept between readers, beside those before; beyond, they are computed again
_PATCH_BYTES = 128 << 20  # of patches in float32 at a time
_CHUNK_ROWS = 4096  # of patches in float64 at a time


@dataclass(frozen=True)
class ReaderError:
    """How well a reader of pruned channels reproduces the unpruned network, on clips that were not fitted.

    Attributes:
        reader: Name of the layer.
        plain: Squared error of the plain weights with the best constant, relative to the output's variance.
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
    """

    clips: int
    errors: tuple[ReaderError, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return reader -> errors as JSON values."""
        return {error.reader: {"plain": error.plain, "refit": error.refit} for error in self.errors}


def refit_readers(
    pruned: Tagger, dense: Tagger, plan: PruningPlan, waveforms: Callable[[], Iterable[Tensor]], *, ridge: float = 1e-3
) -> Refit:
    """Fit every reader of a pruned layer again, in place; its constant goes into the next batch norm or the bias.

    Args:
        pruned: What `apply_plan(dense, plan)` gave.
        dense: The network it was cut from; not touched.
        plan: In the channel numbers of `dense`.
        waveforms: Gives the calibration batches, ``(batch, samples)`` float in [-1, 1], as often as it is called; real
            sound, unlabelled, at least two clips. Every fifth clip is held out to judge the fit.
        ridge: How strongly the weights are held to the plain ones, relative to the inputs' mean variance, > 0.

    Returns:
        The errors, which the provenance keeps too.

    Raises:
        PruningError: If the networks, the plan and the clips do not fit together, or something is not finite; `pruned`
            is left as it was.
    """
    _refuse_misfit(pruned, dense, plan, ridge)
    walk = _Walk(pruned, dense, waveforms)
    errors = []
    before = {name: value.clone() for name, value in pruned.state_dict().items()}
    with ExitStack() as modes, torch.no_grad():
        for model in (pruned, dense):
            modes.enter_context(evaluation_mode(model))
        try:
            for layer in plan.pruned_layers:
                errors.append(_refit(_Reader(walk, plan, pruned.layer_names.index(layer) + 1), ridge))
        except BaseException:
            pruned.load_state_dict(before)
            raise
    refit = Refit(walk.clips, tuple(errors))
    pruned.provenance = with_step(pruned.provenance, "recover", method="ls", clips=refit.clips, errors=refit.to_dict())
    return refit


def _refuse_misfit(pruned: Tagger, dense: Tagger, plan: PruningPlan, ridge: float) -> None:
    if not 0 < ridge < float("inf"):
        raise PruningError(f"ridge={ridge:g}: must be above 0; 0.001 is a good value")
    for what, model, widths in (("dense", dense, plan.base.widths), ("pruned", pruned, plan.widths)):
        if dict(model.spec.widths) != dict(widths):
            raise PruningError(f"the {what} network's widths are not the plan's: give the two that the plan connects")


class _Walk:
    """The calibration clips on their way through both networks."""

    def __init__(self, pruned: Tagger, dense: Tagger, waveforms: Callable[[], Iterable[Tensor]]) -> None:
        self.pruned, self.dense, self.waveforms = pruned, dense, waveforms
        self.clips = 0
        self._stage = 0  # of the cached features: how many convolutions they have been through
        self._cache: list[tuple[Tensor, Tensor]] | None = None

    def batches(self, stage: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield both networks' features after `stage` convolutions, and which clips are held out."""
        kept: list[tuple[Tensor, Tensor]] | None = []
        n_bytes = n_clips = 0
        for features in self._from_cache():
            here = (self._forward(self.pruned, features[0], stage), self._forward(self.dense, features[1], stage))
            yield *here, torch.arange(n_clips, n_clips + len(here[0])) % _HELD_OUT_EVERY == 1
            n_clips += len(here[0])
            n_bytes += sum(part.numel() * part.element_size() for part in here)
            if n_bytes > _MOST_CACHED_BYTES:
                kept = None
            elif kept is not None:
                kept.append(here)
        if n_clips < 2:
            raise PruningError(f"{n_clips} calibration clips: give at least two, some hundreds if you can")
        self.clips = n_clips
        if kept is not None:
            self._cache, self._stage = kept, stage

    def _from_cache(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self._cache is not None:
            yield from self._cache
            return
        device = next(self.pruned.parameters()).device
        for waveform in self.waveforms():
            if not waveform.is_floating_point():
                raise PruningError(f"calibration batch of type {waveform.dtype}: give floats in [-1, 1]")
            (features,) = self.pruned.features_of(waveform.to(device))
            yield features, features

    def _forward(self, model: Tagger, features: Tensor, stage: int) -> Tensor:
        for step in model.stages()[self._stage : stage]:
            (features,) = step((features,))
        return features


class _Reader:
    """A layer that reads pruned channels: the one to be fitted, and the unpruned one that it shall imitate."""

    def __init__(self, walk: _Walk, plan: PruningPlan, stage: int) -> None:
        names = walk.pruned.layer_names
        self.stage, self._walk = stage, walk
        self.name = names[stage] if stage < len(names) else "fc1"
        self.module, self._original = (model.get_submodule(self.name) for model in (walk.pruned, walk.dense))
        self.weight = self.module.get_parameter("weight")
        self._outputs = list(plan.kept_channels.get(self.name, range(len(self.weight))))

    def rows(self, *, held_out: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs ``(rows, inputs)`` and targets ``(rows, outputs)``, float64 on the CPU, a few rows at a time."""
        for features, dense_features, is_held_out in self._walk.batches(self.stage):
            chosen = (is_held_out == held_out).nonzero()[:, 0]
            step = self._clips_at_once(features)
            for clips in torch.split(chosen, step):
                inputs, targets = self._inputs(features[clips]), self._targets(dense_features[clips])
                for p, y in zip(torch.split(inputs, _CHUNK_ROWS), torch.split(targets, _CHUNK_ROWS), strict=True):
                    yield p.cpu().double(), y.cpu().double()

    def _clips_at_once(self, features: Tensor) -> int:
        patch_bytes = features[0].numel() * self.weight[0, 0].numel() * features.element_size()
        return max(1, _PATCH_BYTES // patch_bytes)

    def _inputs(self, features: Tensor) -> Tensor:
        if isinstance(self.module, nn.Conv2d):
            kernel, padding = self.module.kernel_size, self.module.padding
            assert not isinstance(padding, str)
            return F.unfold(features, kernel, padding=padding).transpose(1, 2).flatten(0, 1)
        return self._walk.pruned.pooled((features,)).flatten(0, -2)

    def _targets(self, features: Tensor) -> Tensor:
        if isinstance(self._original, nn.Conv2d):
            targets: Tensor = self._original(features)[:, self._outputs]
            return targets.flatten(2).transpose(1, 2).flatten(0, 1)
        targets = self._original(self._walk.dense.pooled((features,)))
        return targets.flatten(0, -2)

    def set(self, weights: Tensor, constant: Tensor) -> None:
        """Put in ``(inputs, outputs)`` weights and the constant that goes with them."""
        self.weight.copy_(weights.T.reshape(self.weight.shape))
        if isinstance(self.module, nn.Linear):
            self.module.bias.copy_(constant)
        else:  # no bias: a batch norm that expects so much less says the same
            norm = self._walk.pruned.get_submodule(self.name.replace(".conv", ".bn"))
            norm.get_buffer("running_mean").sub_(constant.to(norm.get_buffer("running_mean")))


def _refit(reader: _Reader, ridge: float) -> ReaderError:
    plain = reader.weight.flatten(1).T.double().cpu()
    moments = Moments.empty(*plain.shape)
    for p, y in reader.rows(held_out=False):
        moments.add(p, y)
    constant = moments.constant_for(plain)
    try:
        fitted = moments.solve(plain, ridge)
    except RuntimeError as failure:  # torch.linalg's error is one
        raise PruningError(f"{reader.name} cannot be fitted ({failure}): look for bad clips or weights") from failure
    candidates = {"plain": (plain, constant), "refit": (fitted, moments.constant_for(fitted))}
    numbers = [part for candidate in candidates.values() for part in candidate]
    error = ReaderError(reader.name, **_relative_errors(reader, candidates))
    if not all(bool(part.isfinite().all()) for part in numbers) or not math.isfinite(error.plain + error.refit):
        raise PruningError(
            f"{reader.name}: outputs are not finite on the calibration clips; look for bad clips or weights"
        )
    reader.set(*candidates["refit" if error.is_better else "plain"])
    return error


def _relative_errors(reader: _Reader, candidates: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Return each candidate's squared error on held-out clips, relative to the variance of the targets there."""
    errors = dict.fromkeys(candidates, 0.0)
    n_rows, total, squares = 0, torch.zeros((), dtype=torch.float64), 0.0
    for p, y in reader.rows(held_out=True):
        n_rows, total, squares = n_rows + len(y), total + y.sum(dim=0), squares + float(y.square().sum())
        for name, (weights, constant) in candidates.items():
            errors[name] += float((y - p @ weights - constant).square().sum())
    variance = squares - float(total.square().sum()) / n_rows
    if variance == 0:  # outputs that never vary: reproduced, or not
        return {name: 0.0 if error == 0 else 1.0 for name, error in errors.items()}
    return {name: error / variance for name, error in errors.items()}
