"""How much the loss on labelled clips would change to first order if a channel were shut."""

from collections.abc import Iterable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from epanns.errors import PruningError
from epanns.models.modes import evaluation_mode, requires_grad_restored
from epanns.models.tagger import Tagger
from epanns.pruning.ranking.calibration import CalibrationBatch, clips_in_fours


def gate_gradients(
    model: Tagger, layers: Sequence[str], norms: dict[str, str], batches: Iterable[CalibrationBatch]
) -> dict[str, Tensor]:
    """Return the mean over clips of the squared derivative of a clip's loss by a gate on each channel.

    A gate is a factor of 1 on a channel right behind its batch norm, or behind the layer where it has none. Its
    derivative is the sum over positions of value times gradient; at a batch norm that is ``gamma * dL/dgamma + beta *
    dL/dbeta``. The loss is the mean over classes of the binary cross-entropy of one clip, or for a single-label network
    the cross-entropy of its softmax, the network in evaluation mode.

    Args:
        model: The network, in any mode, on any device; its gradients, flags and modes are left as they were.
        layers: Convolutions whose channels are asked about.
        norms: Layer -> the batch norm right behind it, as in `epanns.pruning.groups.ForwardOrder`.
        batches: Calibration clips with targets; gone through once.

    Returns:
        Layer -> ``(filters,)`` float64 on the CPU.

    Raises:
        PruningError: If the clips cannot be used or have no targets, or what comes out is not finite.
    """
    with torch.inference_mode(False), torch.enable_grad(), evaluation_mode(model), requires_grad_restored(model):
        model.requires_grad_(False)  # only the gates do, and nothing before the first one is kept in memory
        weights = {layer: model.get_submodule(layer).get_parameter("weight") for layer in layers}
        sums = {layer: torch.zeros(len(weight), dtype=torch.float64) for layer, weight in weights.items()}
        clips = 0
        for waveform, target in clips_in_fours(model, batches):
            if target is None:
                raise PruningError(
                    "criterion 'taylor' needs labels: give batches of (waveform, target), or a labelled pack"
                )
            for layer, derivatives in _derivatives(model, layers, norms, waveform, target).items():
                sums[layer] += derivatives.to("cpu", torch.float64).square().sum(dim=0)
            clips += len(waveform)
    for layer, total in sums.items():
        if not bool(total.isfinite().all()):
            raise PruningError(
                f"{layer}: gradients are not finite on the calibration clips; look for bad clips or weights"
            )
    return {layer: total / clips for layer, total in sums.items()}


def _derivatives(
    model: Tagger, layers: Sequence[str], norms: dict[str, str], waveform: Tensor, target: Tensor
) -> dict[str, Tensor]:
    """Return layer -> ``(batch, filters)``, each clip's own derivatives by its own gates."""
    gates: dict[str, Tensor] = {}

    def gate(layer: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        shape = len(waveform), output.shape[1]
        gates[layer] = torch.ones(shape, dtype=output.dtype, device=output.device, requires_grad=True)
        each = gates[layer].repeat_interleave(len(output) // len(waveform), dim=0)  # of a clip's segments
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
