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
        norms: Layer -> the batch norm that reads its output and nothing else does before it.
    """

    layers: tuple[str, ...]
    norms: dict[str, str]


def forward_order(model: Tagger) -> ForwardOrder:
    """Run the shortest clip through a network and note its layers and the batch norms right behind them."""
    layers: list[str] = []
    norms: dict[str, str] = {}
    with _noting(model, layers, norms), evaluation_mode(model), torch.inference_mode(False), torch.no_grad():
        model.forward_inputs(zero_inputs(model))
    return ForwardOrder(tuple(layers), norms)


@contextmanager
def _noting(model: Tagger, layers: list[str], norms: dict[str, str]) -> Iterator[None]:
    outputs: list[tuple[Tensor, str]] = []  # kept, so that no other tensor can take the place of one in memory

    def leave_layer(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        layers.append(name)
        outputs.append((output, name))

    def enter_norm(name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        norms.update({layer: name for output, layer in outputs if output is inputs[0]})

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
            handles.append(module.register_forward_hook(partial(leave_layer, name)))
        elif isinstance(module, _BatchNorm):
            handles.append(module.register_forward_pre_hook(partial(enter_norm, name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
