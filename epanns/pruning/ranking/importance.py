"""Importance of channels: the criterion's scores, and the measurements on calibration clips that some criteria need."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from epanns.errors import PruningError
from epanns.feedback import note
from epanns.models.modes import evaluation_mode, requires_grad_restored
from epanns.models.tagger import Tagger
from epanns.pruning.calibration_clips import (
    CalibrationBatch,
    CalibrationClips,
    ClipSource,
    clips_in_fours,
    require_float32,
)
from epanns.pruning.ranking.channel_orders import ReadMoments
from epanns.pruning.ranking.criteria import NEEDS, LayerFilters, criterion_named
from epanns.pruning.surgery import ChannelGroup, Reader, groups_and_order

_ROWS_AT_ONCE = 4096  # positions in float64


def channel_importance(
    model: Tagger,
    layers: Sequence[str],
    *,
    criterion: str,
    seed: int = 0,
    calibration: ClipSource | None = None,
) -> dict[str, Tensor]:
    """Return the importance of every channel of some groups, on the weights as they are; higher = keep.

    A channel that one layer computes has the criterion's score of its filter. In a residual stream several layers
    compute it: each layer's scores are divided by the mean of their absolute values, so that no layer outweighs
    another, and averaged. Depthwise convolutions filter a channel and compute no new one, so they do not count. With
    ``bn``, the layers inside gates, behind which no family has a batch norm, are ranked by ``l1``, as a note states.

    Args:
        model: The network; not touched.
        layers: Names of the layers that lead the groups.
        criterion: Name in `CRITERIA`.
        seed: For criteria that draw random numbers.
        calibration: Clips for the criteria that measure clips, with targets for ``taylor``; not read by others.

    Returns:
        Layer -> ``(width,)`` float64.

    Raises:
        PruningError: If the criterion is unknown or cannot rank a layer, or it measures clips and they are missing or
            unusable or the network is not in float32.
    """
    criterion_named(criterion)  # refuses unknown names
    needs = NEEDS[criterion]
    batches: Iterable[CalibrationBatch] = ()
    if needs != "weights":
        if calibration is None:
            raise PruningError(
                f"criterion {criterion!r} measures {needs} on sound: give calibration clips "
                f"({'labelled' if needs == 'gradients' else 'unlabelled'}; --calibration PACK, or calibration= in "
                "Python)"
            )
        require_float32(model)
        batches = CalibrationClips.of(calibration).for_ranking(model, labelled=needs == "gradients")
    all_groups, order = groups_and_order(model)
    groups = {layer: all_groups[layer] for layer in layers}
    moments = read_moments(model, groups, batches) if needs == "activations" else {}
    producers = [name for group in groups.values() for name in group.producers]
    gradients = gate_gradients(model, producers, order.norms, batches) if needs == "gradients" else {}

    unnormed = _inside_gates(model, groups) if criterion == "bn" else []

    def filters_of(layer: str, producer: str) -> LayerFilters:
        norm = order.norms.get(producer)
        scale = None if norm is None else dict(model.get_submodule(norm).named_parameters()).get("weight")
        return LayerFilters(
            producer,
            model.get_submodule(producer).get_parameter("weight").detach().cpu(),
            seed,
            None if scale is None else scale.detach().double().cpu(),  # YAMNet's batch norms have no factors
            moments.get(layer),
            gradients.get(producer),
        )

    def importance_of(layer: str) -> Tensor:
        score = criterion_named("l1" if layer in unnormed else criterion)
        return joined([score(filters_of(layer, producer)) for producer in groups[layer].producers])

    importance = {layer: importance_of(layer) for layer in groups}
    if unnormed:
        note(
            f"criterion {criterion!r}: no batch norm follows the {len(unnormed)} layers inside gates, "
            f"{unnormed[0]} first; they are ranked by 'l1'"
        )
    return importance


def _inside_gates(model: Tagger, groups: Mapping[str, ChannelGroup]) -> list[str]:
    """Return the layers whose channels only the gates' last layers read."""
    return [
        layer for layer, group in groups.items() if {reader.name for reader in group.readers} <= set(model.gate_layers)
    ]


def joined(importances: Sequence[Tensor]) -> Tensor:
    """Return the importance of channels that several layers compute, from each layer's ``(width,)``."""
    if len(importances) == 1:
        return importances[0]
    return torch.stack([relative(importance) for importance in importances]).mean(dim=0)


def relative(importance: Tensor) -> Tensor:
    """Return a layer's ``(width,)`` float64 importances divided by the mean of their absolute values; zeros stay."""
    return importance / importance.abs().mean().clamp(min=torch.finfo(torch.float64).tiny)


def read_moments(
    model: Tagger, groups: Mapping[str, ChannelGroup], batches: Iterable[CalibrationBatch]
) -> dict[str, tuple[ReadMoments, ...]]:
    """Measure how each reader of each group uses the group's channels.

    The channels are those of the reader's input: after batch norm, ReLU, pooling and depthwise convolutions; for `fc1`
    after the pooling over the clip. The covariance is over clips and positions; each clip weighs the same. Sums are in
    float64, one matrix per reader for any number of clips.

    Args:
        model: The network, in any mode, on any device; left as it was.
        groups: Groups to measure, from `epanns.pruning.surgery.channel_groups`.
        batches: Calibration clips; targets are ignored. Read once.

    Returns:
        Group -> one `ReadMoments` per reader, in the order of the group's readers.

    Raises:
        PruningError: If the clips cannot be used, or the covariance is not finite.
    """
    n_clips = 0
    with torch.inference_mode(False), torch.no_grad(), evaluation_mode(model):
        sums = {
            (layer, reader): _InputSums(model, reader, group.width)
            for layer, group in groups.items()
            for reader in group.readers
        }
        with _summing_inputs(model, sums):
            for waveform, _ in clips_in_fours(model, batches):
                for each in sums.values():
                    each.clips_at_once = len(waveform)
                model(waveform)
                n_clips += len(waveform)
        moments = {
            layer: tuple(sums[layer, reader].moments(n_clips) for reader in group.readers)
            for layer, group in groups.items()
        }
    for layer, each_reader in moments.items():
        if not all(bool(reader.covariance.isfinite().all()) for reader in each_reader):
            raise PruningError(f"{layer}: not finite on the calibration clips; look for bad clips or weights")
    return moments


class _InputSums:
    """Sums of a group's channels and of their products at the input of one reader.

    Attributes:
        clips_at_once: Number of clips of the next batch; a clip may be several of its segments.
    """

    clips_at_once: int

    def __init__(self, model: Tagger, reader: Reader, width: int) -> None:
        weight = model.get_submodule(reader.name).get_parameter("weight").detach()
        self._own = slice(reader.offset, reader.offset + width)
        read = weight[:, self._own].transpose(0, 1).flatten(1).to("cpu", torch.float64)
        self._gram = read @ read.T
        self._first = torch.zeros(width, dtype=torch.float64)
        self._second = torch.zeros(width, width, dtype=torch.float64)

    def add(self, read: Tensor) -> None:
        """Add the input of the reader, ``(batch, channels, *positions)``."""
        rows = read[:, self._own].movedim(1, -1).flatten(0, -2)
        per_clip = len(rows) // self.clips_at_once
        for part in torch.split(rows, _ROWS_AT_ONCE):
            part = part.detach().to("cpu", torch.float64)
            self._first += part.sum(dim=0) / per_clip
            self._second.addmm_(part.T, part, alpha=1 / per_clip)

    def moments(self, n_clips: int) -> ReadMoments:
        """Return the moments of all inputs that were added."""
        mean = self._first / n_clips
        covariance = self._second / n_clips - torch.outer(mean, mean)
        covariance.diagonal().clamp_(min=0)  # rounding makes the variance of a constant channel negative
        return ReadMoments(covariance, self._gram, mean)


@contextmanager
def _summing_inputs(model: Tagger, sums: Mapping[tuple[str, Reader], _InputSums]) -> Iterator[None]:
    def add(each: _InputSums, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        (read,) = inputs
        each.add(read.movedim(-1, 1) if isinstance(module, nn.Linear) else read)

    handles = [
        model.get_submodule(reader.name).register_forward_pre_hook(partial(add, each))
        for (_, reader), each in sums.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def gate_gradients(
    model: Tagger, layers: Sequence[str], norms: dict[str, str], batches: Iterable[CalibrationBatch]
) -> dict[str, Tensor]:
    """Return the mean over clips of the squared derivative of a clip's loss by a gate on each channel.

    A gate is a factor of 1 on a channel right behind its batch norm, or behind the layer where it has none. Its
    derivative is the sum over positions of value times gradient; at a batch norm that is ``gamma * dL/dgamma + beta *
    dL/dbeta``. The loss is the mean over classes of the binary cross-entropy of one clip, or for a single-label network
    the cross-entropy of its softmax, with the network in evaluation mode.

    Args:
        model: The network, in any mode, on any device; its gradients, flags and modes are left as they were.
        layers: Convolutions whose channels are measured.
        norms: Layer -> the batch norm right behind it, as in `epanns.pruning.surgery.ForwardOrder`.
        batches: Calibration clips with targets; read once.

    Returns:
        Layer -> ``(filters,)`` float64 on the CPU.

    Raises:
        PruningError: If the clips cannot be used or have no targets, or the gradients are not finite.
    """
    with torch.inference_mode(False), torch.enable_grad(), evaluation_mode(model), requires_grad_restored(model):
        model.requires_grad_(False)  # gates alone need gradients, so nothing before the first gate is kept in memory
        weights = {layer: model.get_submodule(layer).get_parameter("weight") for layer in layers}
        sums = {layer: torch.zeros(len(weight), dtype=torch.float64) for layer, weight in weights.items()}
        n_clips = 0
        for waveform, target in clips_in_fours(model, batches):
            if target is None:
                raise PruningError(
                    "criterion 'taylor' needs labels: give batches of (waveform, target), or a labelled pack"
                )
            for layer, derivatives in _derivatives(model, layers, norms, waveform, target).items():
                sums[layer] += derivatives.to("cpu", torch.float64).square().sum(dim=0)
            n_clips += len(waveform)
    for layer, total in sums.items():
        if not bool(total.isfinite().all()):
            raise PruningError(
                f"{layer}: gradients are not finite on the calibration clips; look for bad clips or weights"
            )
    return {layer: total / n_clips for layer, total in sums.items()}


def _derivatives(
    model: Tagger, layers: Sequence[str], norms: dict[str, str], waveform: Tensor, target: Tensor
) -> dict[str, Tensor]:
    """Return layer -> ``(batch, filters)``, each clip's own derivatives by its own gates."""
    gates: dict[str, Tensor] = {}

    def gate(layer: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        shape = len(waveform), output.shape[1]
        gates[layer] = torch.ones(shape, dtype=output.dtype, device=output.device, requires_grad=True)
        each = gates[layer].repeat_interleave(len(output) // len(waveform), dim=0)  # for the segments of a clip
        return output * each.reshape(*output.shape[:2], *[1] * (output.dim() - 2))

    handles = [
        model.get_submodule(norms.get(layer, layer)).register_forward_hook(partial(gate, layer)) for layer in layers
    ]
    try:
        logits = model(waveform)["clipwise_logits"]
    finally:
        for handle in handles:
            handle.remove()
    if model.spec.task == "single-label":
        loss = F.cross_entropy(logits, target.to(logits), reduction="sum")
    else:
        loss = F.binary_cross_entropy_with_logits(logits, target.to(logits), reduction="none").mean(dim=1).sum()
    return dict(zip(gates, torch.autograd.grad(loss, list(gates.values())), strict=True))
