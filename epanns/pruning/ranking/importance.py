"""How much each channel of a network matters: a criterion's scores, joined where several layers make one channel."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from epanns.errors import PruningError
from epanns.models.tagger import Tagger
from epanns.pruning.engine import groups_and_order
from epanns.pruning.ranking.activations import read_covariances
from epanns.pruning.ranking.calibration import CalibrationBatch, refuse_other_precision
from epanns.pruning.ranking.criteria import NEEDS, criterion_named, needs_clips
from epanns.pruning.ranking.gradients import gate_gradients
from epanns.pruning.ranking.layer_filters import LayerFilters


def channel_importance(
    model: Tagger,
    layers: Sequence[str],
    *,
    criterion: str,
    seed: int = 0,
    calibration: Iterable[CalibrationBatch] | None = None,
) -> dict[str, Tensor]:
    """Return the importance of every channel of some groups, on the weights as they are; higher = keep.

    A channel that one layer makes has the criterion's score of its filter. In a residual stream several layers make it:
    each one's scores are divided by the mean of their absolute values over the layer, so that no layer outweighs
    another, and averaged. Depthwise convolutions, which filter a channel and make none, do not count.

    Args:
        model: The network; not touched.
        layers: Names of the layers that lead the groups.
        criterion: Name in `pruning.ranking.criteria.CRITERIA`.
        seed: For criteria that draw numbers.
        calibration: Batches of clips, with targets for ``taylor``; needed by the criteria that `NEEDS` says so of, and
            else not gone through.

    Returns:
        Layer -> ``(width,)`` float64.

    Raises:
        PruningError: If the criterion is unknown, needs clips that are missing or cannot be used or a network in
            float32 that is not, or cannot rank a layer.
    """
    score = criterion_named(criterion)
    needs = NEEDS[criterion]
    if needs_clips(criterion) and calibration is None:
        raise PruningError(
            f"criterion {criterion!r} measures {needs} on sound: give calibration clips "
            f"({'labelled' if needs == 'gradients' else 'unlabelled'}; --calibration PACK, or calibration= in Python)"
        )
    if needs_clips(criterion):
        refuse_other_precision(model)
    whole, order = groups_and_order(model)
    groups, norms = {layer: whole[layer] for layer in layers}, order.norms
    covariances: dict[str, Tensor] = {}
    gradients: dict[str, Tensor] = {}
    if needs == "activations" and calibration is not None:
        covariances = read_covariances(model, groups, calibration)
    elif needs == "gradients" and calibration is not None:
        producers = [name for group in groups.values() for name in group.producers]
        gradients = gate_gradients(model, producers, norms, calibration)

    def filters_of(layer: str, producer: str) -> LayerFilters:
        norm = norms.get(producer)
        return LayerFilters(
            producer,
            model.get_submodule(producer).get_parameter("weight").detach().cpu(),
            seed,
            None if norm is None else _scale_of(model.get_submodule(norm)),
            covariances.get(layer),
            gradients.get(producer),
        )

    return {
        layer: joined([score(filters_of(layer, producer)) for producer in group.producers])
        for layer, group in groups.items()
    }


def _scale_of(norm: nn.Module) -> Tensor | None:
    """Return the factors of a batch norm; None where it learns none, as YAMNet's."""
    scale = dict(norm.named_parameters()).get("weight")
    return None if scale is None else scale.detach().double().cpu()


def joined(importances: Sequence[Tensor]) -> Tensor:
    """Return the importance of channels that several layers make, from each one's ``(width,)``."""
    if len(importances) == 1:
        return importances[0]
    return torch.stack([relative(importance) for importance in importances]).mean(dim=0)


def relative(importance: Tensor) -> Tensor:
    """Return a layer's ``(width,)`` float64 importances divided by the mean of their absolute values; zeros stay."""
    return importance / importance.abs().mean().clamp(min=torch.finfo(torch.float64).tiny)
