"""Torch-Pruning behind three functions. No other module imports torch_pruning, and this one only when it prunes.

Only its dependency graph and groups are used. Scores, counts, order and checks are ours, because in 1.6.1 its pruners
do nothing, silently, for a frozen network or an unknown layer, and prune layers nobody named.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from epanns.errors import PruningError
from epanns.models.modes import evaluation_mode, requires_grad_restored
from epanns.models.tagger import Tagger
from epanns.models.tensors import shape_difference
from epanns.pruning.groups import ChannelGroup, ForwardOrder, Reader, noting_order, zero_inputs


def remove_channels(model: Tagger, kept_channels: Mapping[str, Sequence[int]]) -> Tagger:
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
        pruned = _sharing_weights(model)
        with _traceable(pruned):
            shapes = _cut(pruned, kept_channels)
            pruned.spec = spec
            _check(pruned, shapes)
        _part(pruned, model)
    return pruned


def _sharing_weights(model: Tagger) -> Tagger:
    """Return a copy whose parameters are in the same memory: surgery replaces what it cuts and writes to nothing."""
    shared: dict[int, Any] = {
        id(weight): nn.Parameter(weight.clone() if weight.is_inference() else weight.detach(), weight.requires_grad)
        for weight in model.parameters()
    }
    return copy.deepcopy(model, shared)


def _part(pruned: Tagger, model: Tagger) -> None:
    """Give `pruned` memory of its own for the parameters that surgery did not replace."""
    shared = {weight.data_ptr() for weight in model.parameters()}
    for weight in pruned.parameters():
        if weight.data_ptr() in shared:
            weight.data = weight.data.clone()


@contextmanager
def _traceable(model: nn.Module) -> Iterator[None]:
    """Make every parameter require a gradient, which tracing follows, in evaluation mode; restore both."""
    with evaluation_mode(model), requires_grad_restored(model):
        model.requires_grad_(True)
        yield


def _cut(model: Tagger, kept_channels: Mapping[str, Sequence[int]]) -> dict[str, torch.Size]:
    """Remove the channels in place; return the shapes of the network's outputs before."""
    import torch_pruning as tp

    graph, shapes = _traced(model)
    for name, kept in kept_channels.items():
        conv = model.get_submodule(name)
        dropped = sorted(set(range(model.spec.widths[name])) - set(kept))
        if dropped:
            graph.get_pruning_group(conv, tp.prune_conv_out_channels, dropped).prune(record_history=False)
    return shapes


def _traced(model: Tagger) -> tuple[Any, dict[str, torch.Size]]:
    """Return Torch-Pruning's dependency graph and the shapes of the network's outputs."""
    import torch_pruning as tp

    shapes: dict[str, torch.Size] = {}
    read: list[Tensor] = []

    def forward(network: Any, inputs: tuple[Tensor, ...]) -> list[Tensor]:
        outputs = network.forward_inputs(inputs)
        shapes.update({key: output.shape for key, output in outputs.items()})
        return read or list(outputs.values())

    handles = [
        model.get_submodule(name).register_forward_hook(lambda module, inputs, output: read.append(output))
        for name in (model.last_reader,)
        if name is not None  # what follows it is not traced back from the outputs
    ]
    try:
        return tp.DependencyGraph().build_dependency(model, zero_inputs(model), forward_fn=forward), shapes
    finally:
        for handle in handles:
            handle.remove()


def channel_groups(model: Tagger) -> dict[str, ChannelGroup]:
    """Return each prunable group of channels by the name of the layer that leads it, in forward order.

    Raises:
        PruningError: If a layer reads a group's channels in another order than they have, which no family here does.
    """
    return groups_and_order(model)[0]


def groups_and_order(model: Tagger) -> tuple[dict[str, ChannelGroup], ForwardOrder]:
    """Return `channel_groups`, and what `forward_order` would: one pass through the network tells both."""
    import torch_pruning as tp

    order: list[str] = []
    norms: dict[str, str] = {}
    with torch.inference_mode(False), torch.enable_grad():
        traced = _sharing_weights(model).eval().requires_grad_(True)
        with noting_order(traced, order, norms):
            graph, _ = _traced(traced)
        names = {module: name for name, module in traced.named_modules()}

        def members(layer: str, width: int) -> Iterator[_Member]:
            channels = list(range(width))
            for item in graph.get_pruning_group(traced.get_submodule(layer), tp.prune_conv_out_channels, channels):
                module, handler = item.dep.target.module, item.dep.handler.__name__
                if module not in names:
                    continue
                yield names[module], module, handler, item.idxs
                if names[module] in model.depthwise_layers and handler == "prune_in_channels":
                    yield from members(names[module], width)  # of one channel, which looks like any other convolution

        groups = {
            layer: _group(layer, width, list(members(layer, width)), order, model.depthwise_layers)
            for layer, width in model.spec.widths.items()
        }
    return groups, ForwardOrder(tuple(order), norms)


# Name, module, name of the function that would prune it, and its channels.
_Member = tuple[str, nn.Module, str, Sequence[int]]


def _group(
    layer: str, width: int, members: Sequence[_Member], order: Sequence[str], depthwise_layers: Sequence[str]
) -> ChannelGroup:
    """Sort the modules that lose the channels of `layer` by what they do with them."""
    producers, norms, depthwise = set[str](), list[str](), set[str]()
    readers = dict[str, int]()
    for name, module, handler, channels in members:
        if isinstance(module, _BatchNorm):
            norms.append(name)
        elif name in depthwise_layers:
            depthwise.add(name)
        elif handler.endswith("out_channels"):
            producers.add(name)
        else:
            readers[name] = channels[0]
            if list(channels) != list(range(channels[0], channels[0] + width)):
                raise PruningError(f"{name} reads the channels of {layer} in an order that cannot be followed")
    return ChannelGroup(
        layer=layer,
        width=width,
        producers=tuple(name for name in order if name in producers),
        norms=tuple(dict.fromkeys(norms)),
        depthwise=tuple(name for name in order if name in depthwise),
        readers=tuple(Reader(name, readers[name]) for name in order if name in readers),
    )


def _check(pruned: Tagger, shapes: Mapping[str, torch.Size]) -> None:
    """Compare every tensor with the network the plan describes, and every output's shape with the base's.

    Only the embedding may shrink, where the plan's network says so.
    """
    if problem := shape_difference(pruned, pruned.spec):
        raise PruningError(f"surgery did not give the network asked for: {problem}; please report it as a bug")
    with torch.no_grad():
        outputs: Mapping[str, Any] = pruned.forward_inputs(zero_inputs(pruned))
    for key, shape in shapes.items():
        expected = (*shape[:-1], pruned.spec.embedding_size) if key == "embedding" else tuple(shape)
        if tuple(outputs[key].shape) != expected:
            raise PruningError(
                f"surgery changed {key} from {tuple(shape)} to {tuple(outputs[key].shape)}; please report it as a bug"
            )
