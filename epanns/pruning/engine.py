"""Torch-Pruning behind one function. No other module imports torch_pruning, and this one only when it prunes.

Only its dependency graph and groups are used. Scores, counts, order and checks are ours, because in 1.6.1 its pruners
do nothing, silently, for a frozen network or an unknown layer, and prune layers nobody named.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from epanns.errors import PruningError
from epanns.models.cnn import Cnn
from epanns.models.tensors import shape_difference


def remove_channels(model: Cnn, kept_channels: Mapping[str, Sequence[int]]) -> Cnn:
    """Return a copy of `model` without the channels that are not kept; `model` itself is not touched.

    The copy has the modes and ``requires_grad`` flags of `model`, module by module and parameter by parameter, its
    labels and provenance, and a new `spec`. Optimizers of `model` know nothing of the copy: make new ones.

    Args:
        model: The network; it may be frozen, in any mode, on any device, and the caller may be under ``no_grad``.
        kept_channels: Layer -> ascending channel indices; layers not named keep all.

    Raises:
        PruningError: If the surgery did not give exactly the network asked for.
    """
    spec = model.spec.with_widths({layer: len(kept) for layer, kept in kept_channels.items()})
    with torch.inference_mode(False), torch.enable_grad():
        pruned = copy.deepcopy(model)
        with _traceable(pruned):
            shapes = _cut(pruned, kept_channels)
            pruned.spec = spec
            _check(pruned, shapes)
    return pruned


@contextmanager
def _traceable(model: nn.Module) -> Iterator[None]:
    """Make every parameter require a gradient, which tracing follows, in evaluation mode; restore both by name."""
    was_training = {name: module.training for name, module in model.named_modules()}
    required_grad = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    try:
        model.eval().requires_grad_(True)
        yield
    finally:
        for name, module in model.named_modules():
            module.training = was_training[name]
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(required_grad[name])


def _cut(model: Cnn, kept_channels: Mapping[str, Sequence[int]]) -> dict[str, torch.Size]:
    """Remove the channels in place; return the shapes of the network's outputs before."""
    import torch_pruning as tp

    example, shapes = _example(model), {}

    def forward(network: Any, logmel: Tensor) -> list[Tensor]:
        outputs = network.forward_logmel(logmel)
        shapes.update({key: output.shape for key, output in outputs.items()})
        return list(outputs.values())

    graph = tp.DependencyGraph().build_dependency(model, example, forward_fn=forward)
    for name, kept in kept_channels.items():
        conv = model.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        dropped = sorted(set(range(conv.out_channels)) - set(kept))
        if dropped:
            graph.get_pruning_group(conv, tp.prune_conv_out_channels, dropped).prune(record_history=False)
    return shapes


def _example(model: Cnn) -> Tensor:
    """Return the shortest log-mel the network takes: shapes are all that tracing needs, so no time goes into it."""
    front_end, weight = model.spec.front_end, next(model.parameters())
    frames = front_end.frames(model.minimum_samples)
    return torch.zeros(1, 1, frames, front_end.mel_bins, device=weight.device, dtype=weight.dtype)


def _check(pruned: Cnn, shapes: Mapping[str, torch.Size]) -> None:
    """Compare every tensor with the network the plan describes, and every output's shape with the base's."""
    if problem := shape_difference(pruned, pruned.spec):
        raise PruningError(f"surgery did not give the network asked for: {problem}; please report it as a bug")
    with torch.no_grad():
        outputs: Mapping[str, Any] = pruned.forward_logmel(_example(pruned))
    for key, shape in shapes.items():
        if outputs[key].shape != shape:
            raise PruningError(
                f"surgery changed {key} from {tuple(shape)} to {tuple(outputs[key].shape)}; please report it as a bug"
            )
