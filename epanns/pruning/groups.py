"""Which layers lose the same channels together, and what reads them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from epanns.models.modes import evaluation_mode
from epanns.models.tagger import Features, Tagger


@dataclass(frozen=True)
class Reader:
    """A layer that reads the channels of a group.

    Attributes:
        name: Name of the convolution or linear layer.
        offset: Its first input channel that is the group's; above 0 where it reads joined tensors.
    """

    name: str
    offset: int


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that must stay or go together: those of one layer, or of a residual stream.

    All names are in forward order.

    Attributes:
        layer: Name of the layer that leads the group, its key in ``spec.widths``.
        width: Channels.
        producers: Layers whose outputs the channels are, or are added to.
        norms: Batch norms over them.
        depthwise: Convolutions that filter each of them by itself.
        readers: Layers that mix them.
    """

    layer: str
    width: int
    producers: tuple[str, ...]
    norms: tuple[str, ...]
    depthwise: tuple[str, ...]
    readers: tuple[Reader, ...]


def zero_inputs(model: Tagger) -> Features:
    """Return what `Tagger.inputs_of` gives for the shortest clip, all zero: enough where only shapes matter."""
    weight = next(model.parameters())
    shapes = model.input_shapes(model.minimum_samples)
    return tuple(torch.zeros(shape, device=weight.device, dtype=weight.dtype) for shape in shapes)


@dataclass(frozen=True)
class ForwardOrder:
    """What a forward pass meets.

    Attributes:
        layers: Convolutions and linear layers in the order they run.
        norms: Layer -> the batch norm that reads its output, average pooling between them or not, and nothing else
            does before it.
    """

    layers: tuple[str, ...]
    norms: dict[str, str]


def forward_order(model: Tagger) -> ForwardOrder:
    """Run the shortest clip through a network and note its layers and the batch norms that scale their outputs."""
    layers: list[str] = []
    norms: dict[str, str] = {}
    with noting_order(model, layers, norms), evaluation_mode(model), torch.inference_mode(False), torch.no_grad():
        model.forward_inputs(zero_inputs(model))
    return ForwardOrder(tuple(layers), norms)


@contextmanager
def noting_order(model: Tagger, layers: list[str], norms: dict[str, str]) -> Iterator[None]:
    """Fill in what `ForwardOrder` says of the forward pass that runs inside."""
    outputs: list[tuple[Tensor, str]] = []  # kept, so that no other tensor can take the place of one in memory

    def leave_layer(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        layers.append(name)
        outputs.append((output, name))

    def leave_pooling(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        outputs.extend([(output, layer) for pooled, layer in outputs if pooled is inputs[0]])

    def leave_norm(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        norms.update({layer: name for normed, layer in outputs if normed is inputs[0]})

    hooks = {
        (nn.Conv1d, nn.Conv2d, nn.Linear): leave_layer,
        (nn.AvgPool1d, nn.AvgPool2d): leave_pooling,
        (_BatchNorm,): leave_norm,
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
