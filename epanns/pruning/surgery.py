"""Groups of channels that are removed together, and their removal with Torch-Pruning.

No other module imports torch_pruning, and this one only while it prunes. Only its dependency graph and groups are used;
scores, counts, order and checks are those of `epanns`, because the pruners of 1.6.1 silently do nothing for a frozen
network or an unknown layer, and prune layers that were not named.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from epanns.errors import PruningError
from epanns.models.modes import evaluation_mode, requires_grad_restored
from epanns.models.tagger import Features, Tagger
from epanns.models.tensors import shape_difference


@dataclass(frozen=True)
class Reader:
    """A layer that reads the channels of a group.

    Attributes:
        name: Name of the convolution or linear layer.
        offset: The first input channel that belongs to the group; above 0 where the layer reads concatenated tensors.
    """

    name: str
    offset: int


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that must be kept or removed together: those of one layer, or of a residual stream.

    All names are in forward order.

    Attributes:
        layer: Name of the layer that leads the group, its key in ``spec.widths``.
        width: Number of channels.
        producers: Layers that output the channels, or add to them.
        norms: Batch norms over them.
        depthwise: Convolutions that filter each of them separately.
        gates: Layers that output one factor for each of them, such as those of squeeze and excitation.
        readers: Layers that mix them, those that compute the factors included.
    """

    layer: str
    width: int
    producers: tuple[str, ...]
    norms: tuple[str, ...]
    depthwise: tuple[str, ...]
    readers: tuple[Reader, ...]
    gates: tuple[str, ...] = ()


@dataclass(frozen=True)
class ForwardOrder:
    """Order of the layers in a forward pass.

    Attributes:
        layers: Convolutions and linear layers in the order they run.
        norms: Layer -> the batch norm that reads its output first, with or without average pooling between them.
    """

    layers: tuple[str, ...]
    norms: dict[str, str]


def zero_inputs(model: Tagger) -> Features:
    """Return `Tagger.inputs_of` of the shortest clip, all zero, for passes in which only shapes matter."""
    weight = next(model.parameters())
    shapes = model.input_shapes(model.minimum_samples)
    return tuple(torch.zeros(shape, device=weight.device, dtype=weight.dtype) for shape in shapes)


def forward_order(model: Tagger) -> ForwardOrder:
    """Run the shortest clip through a network and record its layers and the batch norms that scale their outputs."""
    layers: list[str] = []
    norms: dict[str, str] = {}
    with _recording_order(model, layers, norms), evaluation_mode(model), torch.inference_mode(False), torch.no_grad():
        model.forward_inputs(zero_inputs(model))
    return ForwardOrder(tuple(layers), norms)


@contextmanager
def _recording_order(model: Tagger, layers: list[str], norms: dict[str, str]) -> Iterator[None]:
    """Fill in the fields of `ForwardOrder` from the forward pass inside."""
    outputs: list[tuple[Tensor, str]] = []  # kept alive, so that no other tensor can have the same identity

    def after_layer(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        layers.append(name)
        outputs.append((output, name))

    def after_pooling(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        outputs.extend([(output, layer) for pooled, layer in outputs if pooled is inputs[0]])

    def after_norm(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        norms.update({layer: name for normed, layer in outputs if normed is inputs[0]})

    hooks = {
        (nn.Conv1d, nn.Conv2d, nn.Linear): after_layer,
        (nn.AvgPool1d, nn.AvgPool2d): after_pooling,
        (_BatchNorm,): after_norm,
    }
    handles = [
        module.register_forward_hook(partial(hook, name))
        for name, module in model.named_modules()
        for kinds, hook in hooks.items()
        if isinstance(module, kinds)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def channel_groups(model: Tagger) -> dict[str, ChannelGroup]:
    """Return each prunable group of channels by the name of the layer that leads it, in forward order.

    Raises:
        PruningError: If a layer reads a group's channels in another order than they have, as no family here does.
    """
    return groups_and_order(model)[0]


def groups_and_order(model: Tagger) -> tuple[dict[str, ChannelGroup], ForwardOrder]:
    """Return `channel_groups` and `forward_order` from one forward pass."""
    order: list[str] = []
    norms: dict[str, str] = {}
    with torch.inference_mode(False), torch.enable_grad():
        traced = _sharing_weights(model).eval().requires_grad_(True)
        with _recording_order(traced, order, norms):
            graph = _traced(traced)
        names = {module: name for name, module in traced.named_modules()}

        def members(layer: str, width: int) -> Iterator[_Member]:
            channels = list(range(width))
            for item in _group_of(graph, traced, layer, channels):
                module, handler = item.dep.target.module, item.dep.handler.__name__
                if module not in names:
                    continue
                yield names[module], module, handler, item.idxs
                if names[module] in model.depthwise_layers and handler == "prune_in_channels":
                    yield from members(names[module], width)  # depthwise on one channel: traced as a plain convolution

        groups = {
            layer: _group(layer, width, list(members(layer, width)), order, model)
            for layer, width in model.spec.widths.items()
        }
    return groups, ForwardOrder(tuple(order), norms)


# Name, module, name of the function that would prune it, and its channels.
_Member = tuple[str, nn.Module, str, Sequence[int]]


def _group_of(graph: Any, model: Tagger, layer: str, channels: Sequence[int]) -> Any:
    """Return Torch-Pruning's group of output channels of a convolution or linear layer."""
    import torch_pruning as tp

    module = model.get_submodule(layer)
    removal = tp.prune_linear_out_channels if isinstance(module, nn.Linear) else tp.prune_conv_out_channels
    return graph.get_pruning_group(module, removal, list(channels))


def _group(layer: str, width: int, members: Sequence[_Member], order: Sequence[str], model: Tagger) -> ChannelGroup:
    """Sort the modules that lose the channels of `layer` by their use of them."""
    producers, norms, depthwise, gates = set[str](), list[str](), set[str](), set[str]()
    readers = dict[str, int]()
    for name, module, handler, channels in members:
        if isinstance(module, _BatchNorm):
            norms.append(name)
        elif name in model.depthwise_layers:
            depthwise.add(name)
        elif name in model.gate_layers and handler.endswith("out_channels"):
            gates.add(name)
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
        gates=tuple(name for name in order if name in gates),
        readers=tuple(Reader(name, readers[name]) for name in order if name in readers),
    )


def remove_channels(model: Tagger, kept_channels: Mapping[str, Sequence[int]]) -> Tagger:
    """Return a copy of `model` without the channels that are not kept; `model` itself is not touched.

    The copy has the modes and ``requires_grad`` flags of `model`, module by module and parameter by parameter, its
    labels and provenance, and a new `spec`. Optimizers of `model` do not fit the copy: make new ones.

    Args:
        model: The network; it may be frozen, in any mode, on any device, and the caller may be under ``no_grad``.
        kept_channels: Layer -> ascending channel indices; layers not named keep all.

    Raises:
        PruningError: If the surgery did not give exactly the network of the new spec.
    """
    spec = model.spec.with_widths({layer: len(kept) for layer, kept in kept_channels.items()})
    with torch.inference_mode(False), torch.enable_grad():
        pruned = _sharing_weights(model)
        with evaluation_mode(pruned), requires_grad_restored(pruned):
            pruned.requires_grad_(True)  # tracing follows gradients
            graph = _traced(pruned)
            for name, kept in kept_channels.items():
                removed = sorted(set(range(model.spec.widths[name])) - set(kept))
                if removed:
                    _group_of(graph, pruned, name, removed).prune(record_history=False)
            pruned.spec = spec
            if problem := shape_difference(pruned, spec):
                raise PruningError(f"surgery did not give the planned network: {problem}; please report it as a bug")
        shared = {weight.data_ptr() for weight in model.parameters()}
        for weight in pruned.parameters():
            if weight.data_ptr() in shared:
                weight.data = weight.data.clone()
    return pruned


def _sharing_weights(model: Tagger) -> Tagger:
    """Return a copy whose parameters share memory with `model`: surgery replaces parameters and writes to none."""
    shared: dict[int, Any] = {
        id(weight): nn.Parameter(weight.clone() if weight.is_inference() else weight.detach(), weight.requires_grad)
        for weight in model.parameters()
    }
    return copy.deepcopy(model, shared)


def _traced(model: Tagger) -> Any:
    """Return Torch-Pruning's dependency graph of a network."""
    import torch_pruning as tp

    read: list[Tensor] = []

    def forward(network: Any, inputs: tuple[Tensor, ...]) -> list[Tensor]:
        outputs = network.forward_inputs(inputs)
        return read or list(outputs.values())

    handles = [
        model.get_submodule(name).register_forward_hook(lambda module, inputs, output: read.append(output))
        for name in (model.last_reader,)
        if name is not None  # the layers behind it are not traced back from the outputs
    ]
    try:
        return tp.DependencyGraph().build_dependency(model, zero_inputs(model), forward_fn=forward)
    finally:
        for handle in handles:
            handle.remove()
