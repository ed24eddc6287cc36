"""Recovery ``bn``: batch-norm re-estimation after pruning, without labels and without training any weight."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from epanns.errors import PruningError
from epanns.models.families.yamnet import ShiftNorm2d
from epanns.models.pruning_plan import PruningPlan
from epanns.models.tagger import Tagger
from epanns.pruning.calibration_clips import CalibrationClips, ClipSource
from epanns.pruning.surgery import forward_order


def recalibrate_batch_norm(model: Tagger, clips: ClipSource, *, plan: PruningPlan | None = None) -> int:
    """Replace running means and variances by averages over calibration clips, in place.

    Each statistic becomes the average of the batches' own, weighted by their numbers of clips. Dropout, SpecAugment and
    all other modules stay in evaluation mode. Every module's mode and momentum are restored, and after an error the
    statistics too. The operation is added to the model's provenance.

    Args:
        model: The network, usually just pruned; on any device, to which the waveforms are moved.
        clips: Batches of waveforms ``(batch, samples)`` float in [-1, 1]: real sound of the kind to be tagged,
            unlabelled. The result depends on the batch size; commands and sweeps use
            `epanns.pruning.calibration_clips.BATCH_CLIPS`.
        plan: Plan that made the network. With it, only batch norms of layers that run after the first pruned layer are
            measured: the inputs of earlier layers, and of the first one, are unchanged in the kept channels. Without a
            plan, all batch norms are measured.

    Returns:
        Number of clips read; 0 where the plan leaves nothing to measure.

    Raises:
        PruningError: If the batch norms were folded, there is no clip or only silence, a batch is unusable, the network
            is not in float32, or a statistic is not finite.

    Source: EagleEye (Li et al. 2020, arXiv 2007.02491), "adaptive batch normalization".
    """
    refuse_folded(model)
    norms = _norms_behind(model, plan)
    if not norms:
        return 0
    device, n_clips = next(model.parameters()).device, 0
    with _measuring(model, norms), torch.no_grad():
        for waveform in CalibrationClips.of(clips).waveforms(model):
            n_clips += len(waveform)
            for norm in norms.values():
                norm.momentum = len(waveform) / n_clips  # makes torch's running average the weighted average so far
            model(waveform.to(device))
        if n_clips == 0:
            raise PruningError("no calibration clip was given: batch-norm statistics need at least one batch of sound")
        for name, norm in norms.items():
            if not all(bool(statistic.isfinite().all()) for statistic in _statistics(norm)):
                raise PruningError(
                    f"{name}: statistics are not finite after calibration; look for bad clips or weights"
                )
    model.provenance = model.provenance.with_operation("recover", method="bn", clips=n_clips)
    return n_clips


def refuse_folded(model: Tagger) -> None:
    """Refuse a YAMNet whose batch norms were folded into its kernels, as its ``.npz`` stores them.

    The statistics in their place come from no sound, so measured ones would change what the network computes.

    Raises:
        PruningError: If the batch norms are folded.
    """
    if any(isinstance(module, ShiftNorm2d) and module.is_folded for module in model.modules()):
        raise PruningError(
            f"this {model.spec.name} came with its batch norms folded into its kernels: statistics measured now would "
            "change what it computes; recover with ls (--recover ls)"
        )


def _norms_behind(model: Tagger, plan: PruningPlan | None) -> dict[str, _BatchNorm]:
    norms = {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
    if plan is None:
        return norms
    if not plan.pruned_layers:
        return {}
    order = forward_order(model)
    behind = order.layers[order.layers.index(plan.pruned_layers[0]) + 1 :]
    return {order.norms[layer]: norms[order.norms[layer]] for layer in behind if layer in order.norms}


def _statistics(norm: _BatchNorm) -> list[Tensor]:
    return [buffer for buffer in (norm.running_mean, norm.running_var, norm.num_batches_tracked) if buffer is not None]


@contextmanager
def _measuring(model: nn.Module, norms: dict[str, _BatchNorm]) -> Iterator[None]:
    """Let only `norms` update their statistics, from zero; restore modes, momenta, and statistics without an update."""
    was_training = {module: module.training for module in model.modules()}
    momenta = {norm: norm.momentum for norm in norms.values()}
    before = {norm: [buffer.clone() for buffer in _statistics(norm)] for norm in norms.values()}
    failed = True
    try:
        model.eval()
        for norm in norms.values():
            norm.train()
            norm.reset_running_stats()
        yield
        failed = False
    finally:
        for norm, statistics in before.items():
            norm.momentum = momenta[norm]
            # PANNs' attention block holds a batch norm that its forward pass never uses.
            unused = norm.num_batches_tracked is not None and int(norm.num_batches_tracked) == 0
            if failed or unused:
                for buffer, value in zip(_statistics(norm), statistics, strict=True):
                    buffer.copy_(value)
        for module, training in was_training.items():
            module.training = training
