"""Allocator ``distortion``: more is removed from layers whose cut changes the tags less, measured without labels.

Each layer alone is cut at a few ratios and its readers are refitted; the distortion is the divergence of the tags from
the unpruned network's on held-out clips. Distortions of several layers are taken to add up (Zhou et al. 2023,
arXiv 2308.10438), and their sum is minimised under the budget by dynamic programming.
"""

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from epanns.complexity.width_cost import Widths
from epanns.errors import PruningError
from epanns.models.modes import evaluation_mode
from epanns.models.pruning_plan import PruningPlan
from epanns.models.tagger import Tagger
from epanns.pruning.budgets.pairwise_minimum import PairwiseSum
from epanns.pruning.budgets.widths_for_budget import Importance, WidthSearch
from epanns.pruning.calibration_clips import CalibrationClips, ClipSource, is_held_out
from epanns.pruning.ranking.criteria import most_important
from epanns.pruning.recovery.paired_features import PairedFeatures
from epanns.pruning.recovery.rectified_fit import HeldRows, fit_rectified, rectified_layers
from epanns.pruning.recovery.refit_layers import FittedReader, NetworkStructure, RefitLayout
from epanns.pruning.rounding import remaining_width

RATIOS = (0.125, 0.25, 0.5, 0.75)  # at which each layer is measured
_BEYOND = 4.0  # times the distortion at the largest ratio: that of a layer without any channel
_LEVELS = 17  # of a layer in the dynamic programme; the widths between them are filled in afterwards
_ROUNDS = 60  # of the bisection of the price
_RIDGE, _ITERATIONS = 1e-3, 4
_CLIPS_AT_ONCE = 8
_LEAST_PROBABILITY = 1e-6

# Layer -> width -> divergence of the tags, in nats per clip, with that layer alone cut to the width.
Distortions = Mapping[str, Mapping[int, float]]


@dataclass(frozen=True)
class ByDistortion:
    """The widths with the smallest sum of the layers' distortions.

    A layer's distortion is interpolated between the measured widths and never decreases with fewer channels. Under a
    budget the sum of distortion and price times cost is minimised exactly over 17 widths of each layer, for the lowest
    price that meets the budget: no other choice that costs as little has a smaller distortion (Everett 1963). Layers
    are then widened within the budget, those first that lose most distortion per unit of cost.

    Attributes:
        table: Measured distortions; None to measure them on the calibration clips.
        minimum: Smallest fraction of each layer's channels that is kept.
    """

    table: Distortions | None = None
    minimum: float = 0.1
    name: ClassVar[str] = "distortion"

    def measured(
        self, model: Tagger, layers: Sequence[str], importance: Importance, clips: ClipSource | None
    ) -> "ByDistortion":
        """Return the allocator with its table, measured where there is none.

        Raises:
            PruningError: If there is no table and no clip.
        """
        if self.table is not None:
            return self
        if clips is None:
            raise PruningError(
                "allocate='distortion' measures sound: give clips (--calibration PACK, or calibration= in Python)"
            )
        return replace(self, table=measure_distortions(model, layers, importance, clips))

    def choose(self, search: WidthSearch, layers: Sequence[str], importance: Importance) -> Widths:
        """Return levels within the limit."""
        assert self.table is not None
        losses = [_losses(self.table[layer], widths) for layer, widths in zip(layers, search.options, strict=True)]
        chosen = [_spread_evenly(len(widths)) for widths in search.options]
        some_losses = [loss[own] for loss, own in zip(losses, chosen, strict=True)]

        def levels_of(places: NDArray[np.int64]) -> Widths:
            return np.stack([own[places[..., layer]] for layer, own in enumerate(chosen)], axis=-1)

        costs = PairwiseSum.of(
            lambda places: search.costs(levels_of(places)) / search.limit, [len(own) for own in chosen]
        )
        least, enough = 0.0, 1.0
        best = search.least

        def at(price: float) -> Widths:
            return levels_of(costs.plus(some_losses, price).minimum())

        while search.cost(at(enough)) > search.limit and enough < 1e30:
            least, enough = enough, 4 * enough
        for _ in range(_ROUNDS):
            middle = (least + enough) / 2
            levels = at(middle)
            if search.cost(levels) <= search.limit:
                best, enough = levels, middle
            else:
                least = middle

        def rank(layer: int, level: int, units: float) -> float:
            saved = losses[layer][level] - losses[layer][level + 1]
            return -saved / units if units > 0 else -np.inf

        return search.fill(best, rank)


def measure_distortions(
    model: Tagger,
    layers: Sequence[str],
    importance: Importance,
    clips: ClipSource,
    *,
    ratios: Sequence[float] = RATIOS,
) -> dict[str, dict[int, float]]:
    """Measure how much the tags change when one layer alone is cut and its readers are refitted.

    Args:
        model: The network; not touched.
        layers: Layers to measure, in forward order.
        importance: Returns the importance of a layer's filters; the least important ones are removed.
        clips: Batches of waveforms ``(batch, samples)``, unlabelled. Every fifth clip is held out: the others fit, the
            held-out ones measure.
        ratios: Fractions removed.

    Returns:
        Layer -> width -> mean Kullback-Leibler divergence of the tags of the held-out clips, in nats.
    """
    clips = CalibrationClips.of(clips, several_passes=True)
    student = copy.deepcopy(model)
    table: dict[str, dict[int, float]] = {}
    with torch.inference_mode(False), torch.no_grad(), evaluation_mode(model), evaluation_mode(student):
        structure, behind_relu = NetworkStructure.of(model), rectified_layers(model)
        fitted, held_out = (
            PairedFeatures(model, model, clips, held_out=part, shared_stages=len(model.stages()) + 2)
            for part in (False, True)
        )
        wanted = _tags(model, clips)
        for layer in layers:
            width = model.spec.widths[layer]
            table[layer] = {width: 0.0}
            for ratio in ratios:
                left = remaining_width(width, ratio, exact=False)
                if left in table[layer]:
                    continue
                kept = most_important(importance(layer), left, layer=layer)
                plan = PruningPlan(model.spec, {layer: kept}, "l1", {layer: ratio}, 0)
                layout = RefitLayout(model, plan, whole=True, structure=structure)
                _cut(student, model, layout, fitted, held_out, behind_relu)
                table[layer][left] = divergence(wanted, _tags(student, clips), model.spec.task)
                student.load_state_dict(model.state_dict())
    return table


def _cut(
    student: Tagger,
    model: Tagger,
    layout: RefitLayout,
    fitted: PairedFeatures,
    held_out: PairedFeatures,
    behind_relu: Collection[str],
) -> None:
    """Refit the readers of one layer of `student`, with zeros for the channels that the layout removes."""
    for name in layout.names:
        if name in layout.norms:
            continue
        reader = FittedReader(layout, name, student, model)
        rectifier = reader.rectifier() if name in behind_relu else None
        rows, held_rows = HeldRows(reader.rows(fitted)), HeldRows(reader.rows(held_out))
        fit = fit_rectified(rows, held_rows, reader.plain(), rectifier, ridge=_RIDGE, iterations=_ITERATIONS)
        reader.set(fit.weights, fit.constant)


def divergence(wanted: Tensor, found: Tensor, task: str) -> float:
    """Return the mean over clips of the Kullback-Leibler divergence of the tags, in nats.

    Args:
        wanted: ``(clips, classes)``, probabilities of the unpruned network.
        found: ``(clips, classes)``, those of the pruned network.
        task: ``multi-label``, in which each class is a choice of its own and their divergences add up, or
            ``single-label``.
    """
    p, q = (each.double().clamp(_LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY) for each in (wanted, found))
    divergences = p * (p / q).log()
    if task == "multi-label":
        divergences = divergences + (1 - p) * ((1 - p) / (1 - q)).log()
    return float(divergences.sum(dim=1).mean())


def _tags(model: Tagger, clips: CalibrationClips) -> Tensor:
    """Return the probabilities of the held-out clips, ``(clips, classes)``."""
    found, n_clips = [], 0
    device = next(model.parameters()).device
    for waveform in clips.waveforms(model):
        chosen = waveform[is_held_out(n_clips, len(waveform))]
        n_clips += len(waveform)
        found += [
            model(some.to(device))["clipwise_output"].cpu() for some in torch.split(chosen, _CLIPS_AT_ONCE) if len(some)
        ]
    if not found:
        raise PruningError(f"{n_clips} calibration clips: give at least two, some hundreds if you can")
    return torch.cat(found)


def _losses(measured: Mapping[int, float], widths: Widths) -> NDArray[np.float64]:
    """Return the distortion at each width of a layer, never rising with the width."""
    at = sorted(measured, reverse=True)
    losses = np.maximum.accumulate([max(0.0, measured[width]) for width in at])
    known = [0, *reversed(at)], [_BEYOND * losses[-1], *losses[::-1]]
    found: NDArray[np.float64] = np.interp(widths, *known)
    return found


def _spread_evenly(count: int) -> NDArray[np.int64]:
    """Return at most `_LEVELS` of a layer's levels, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, _LEVELS)).round().astype(np.int64))
