"""Batch-norm statistics measured again after surgery, without labels and without training any weight."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from epanns.errors import PruningError
from epanns.models.pruning_plan import PruningPlan
from epanns.models.tagger import Tagger
from epanns.models.yamnet import ShiftNorm2d
from epanns.pruning.groups import forward_order
from epanns.pruning.ranking.calibration import heard


def recalibrate_batch_norm(model: Tagger, waveforms: Iterable[Tensor], *, plan: PruningPlan | None = None) -> int:
    """Replace running means and variances by averages over calibration clips, in place.

    Each statistic becomes the average of the batches' own, weighted by their clips: a short last batch weighs little.
    Dropout, SpecAugment and everything else stay in evaluation mode. Every module's mode and momentum are restored,
    and where anything fails, the statistics too. The model's provenance gets the step.

    Args:
        model: The network, usually just pruned; on any device, to which the waveforms are moved.
        waveforms: Batches ``(batch, samples)`` float in [-1, 1]; real sound of the kind to be tagged, unlabelled. The
            result depends on their size; commands and sweeps give `pack_clips.CALIBRATION_BATCH` clips, 32, at a time.
        plan: What was pruned. Then only batch norms of layers that run after the first pruned one are measured: what
            the others read is as it was, and the first one's own reads the same of the channels that are left.
            Without a plan: every one.

    Returns:
        Number of clips seen; 0 where the plan leaves nothing to measure.

    Raises:
        PruningError: If the batch norms were folded, there is no clip or only silent ones, a batch is not as
            `waveforms` says, the network is not in float32, or a statistic comes out not finite.

    Source: EagleEye (Li et al. 2020, arXiv 2007.02491), "adaptive batch normalization".
    """
    refuse_folded(model)
    norms = _norms_behind(model, plan)
    if not norms:
        return 0
    device, seen = next(model.parameters()).device, 0
    with _measuring(model, norms), torch.no_grad():
        for waveform in heard(model, waveforms):
            seen += len(waveform)
            for norm in norms.values():
                norm.momentum = len(waveform) / seen  # makes torch's running average the weighted average so far
            model(waveform.to(device))
        if seen == 0:
            raise PruningError("no calibration clip was given: batch-norm statistics need at least one batch of sound")
        for name, norm in norms.items():
            if not all(bool(statistic.isfinite().all()) for statistic in _statistics(norm)):
                raise PruningError(
                    f"{name}: statistics are not finite after calibration; look for bad clips or weights"
                )
    model.provenance = model.provenance.with_operation("recover", method="bn", clips=seen)
    return seen


def refuse_folded(model: Tagger) -> None:
    """Refuse a YAMNet whose batch norms were folded into its kernels, as its ``.npz`` holds them.

    The statistics that were put in their place are no sound's, so that measured ones would make another network of it.

    Raises:
        PruningError: If it is one.
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
    """Let only `norms` learn statistics, from zero; restore modes and momenta, and statistics that met nothing new."""
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
