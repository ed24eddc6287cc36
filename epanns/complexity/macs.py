"""Counting multiply-adds in closed form from the shapes a forward pass meets; nothing large is computed.

One multiply-add is 1 MAC. `epanns.complexity.cost` says what each figure includes.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from epanns.audio.frontend import FrontEndSpec
from epanns.complexity.cost import LayerCost, ModelCost
from epanns.errors import ConfigError
from epanns.models.convolution import Convolution
from epanns.models.lean import BiLSTM, DotProducts, WeightedSum
from epanns.models.spec import ModelSpec
from epanns.models.tagger import Tagger
from epanns.models.tensors import count_parameters, shape_difference
from epanns.models.yamnet import ShiftNorm2d
from epanns.models.zoo import build_model

_FLOAT32_BYTES = 4
_ALLOCATIONS = ("aten.empty", "aten.empty_like")

# Every counter below receives a layer, the shape of its input and the shape of its output, both without the batch
# axis, and returns an exact count for one clip.
LayerCounter = Callable[[Any, torch.Size, torch.Size], int]


def conv_macs(conv: nn.Conv1d | nn.Conv2d, inputs: torch.Size, outputs: torch.Size) -> int:
    """Each output element is a sum over the kernel and the input channels of its group."""
    return outputs.numel() * (conv.in_channels // conv.groups) * math.prod(conv.kernel_size)


def linear_macs(linear: nn.Linear, inputs: torch.Size, outputs: torch.Size) -> int:
    """Each output element is a sum over the input features, at every position of the leading axes."""
    return outputs.numel() * linear.in_features


def lstm_macs(lstm: BiLSTM, inputs: torch.Size, outputs: torch.Size) -> int:
    """At each step, in both directions, four gates weigh what comes in and the last state; the rest is elementwise."""
    steps = inputs[0]
    return 2 * steps * 4 * lstm.hidden_size * (lstm.input_size + lstm.hidden_size)


def product_macs(product: nn.Module, inputs: torch.Size, outputs: torch.Size) -> int:
    """Each number of the states is weighted once."""
    return inputs.numel()


MACS: dict[type[nn.Module], LayerCounter] = {
    nn.Conv1d: conv_macs,
    nn.Conv2d: conv_macs,
    Convolution: conv_macs,
    nn.Linear: linear_macs,
    BiLSTM: lstm_macs,
    DotProducts: product_macs,
    WeightedSum: product_macs,
}


def panns_conv(conv: nn.Conv1d | nn.Conv2d, inputs: torch.Size, outputs: torch.Size) -> int:
    """2 per multiply-add, and 1 per output element where there is a bias."""
    return 2 * conv_macs(conv, inputs, outputs) + (outputs.numel() if conv.bias is not None else 0)


def panns_linear(linear: nn.Linear, inputs: torch.Size, outputs: torch.Size) -> int:
    """2 per weight and 1 per bias, *once* however many positions the input has.

    PANNs' counter reads a batch size only from two-dimensional inputs, so the per-frame layers of the decision-level
    networks count as one frame. Kept, because the published figures were made with it.
    """
    return 2 * linear.weight.numel() + (linear.bias.numel() if linear.bias is not None else 0)


def panns_batch_norm(norm: nn.Module, inputs: torch.Size, outputs: torch.Size) -> int:
    """2 per element."""
    return 2 * inputs.numel()


def panns_relu(activation: nn.Module, inputs: torch.Size, outputs: torch.Size) -> int:
    """2 per element, where the activation is a module of its own; PANNs' counter overlooks ReLU6."""
    return 2 * inputs.numel()


def panns_pooling(pooling: nn.AvgPool1d | nn.AvgPool2d, inputs: torch.Size, outputs: torch.Size) -> int:
    """1 per element of each window, where the pooling is a module of its own."""
    kernel = pooling.kernel_size
    window = math.prod(kernel) if isinstance(kernel, tuple) else kernel**2  # one number is the side of a square
    return outputs.numel() * window


def panns_nothing(module: nn.Module, inputs: torch.Size, outputs: torch.Size) -> int:
    """PANNs' counter knows no recurrent layer and no attention."""
    return 0


PANNS_MULTIPLY_ADDS: dict[type[nn.Module], LayerCounter] = {
    nn.Conv1d: panns_conv,
    nn.Conv2d: panns_conv,
    Convolution: panns_conv,
    nn.Linear: panns_linear,
    nn.BatchNorm1d: panns_batch_norm,
    nn.BatchNorm2d: panns_batch_norm,
    ShiftNorm2d: panns_batch_norm,
    nn.ReLU: panns_relu,
    nn.AvgPool1d: panns_pooling,  # holds its window as a tuple of one
    nn.AvgPool2d: panns_pooling,
    **dict.fromkeys((BiLSTM, DotProducts, WeightedSum), panns_nothing),
}


@dataclass
class LayerCounts:
    """What one forward pass met.

    Attributes:
        macs: Layer name -> MACs of one clip of the layers in `MACS`, in the order met.
        panns_multiply_adds: PANNs' count of one clip, front end apart.
        uncounted: Operation -> calls outside the counted layers; views and allocations, which do no work, are left out.
    """

    macs: Counter[str] = field(default_factory=Counter)
    panns_multiply_adds: int = 0
    uncounted: Counter[str] = field(default_factory=Counter)


class _OperationLog(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every operation that runs while no counted layer is running."""

    def __init__(self, uncounted: Counter[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.uncounted = uncounted
        self.inside_counted_layer = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        operation = str(func.overloadpacket)
        if not (self.inside_counted_layer or func.is_view or operation in _ALLOCATIONS):
            self.uncounted[operation] += 1
        return func(*args, **(kwargs or {}))


def count_layers(
    model: nn.Module, *example: Tensor | tuple[Tensor, ...], forward: Callable[..., Any] | None = None
) -> LayerCounts:
    """Run `model` once and count, per clip, what its layers do.

    Args:
        model: In the mode it is to be counted in; its tensors and the example may be on the meta device.
        example: Inputs, batch first; any batch size gives the same count.
        forward: Called with `example` instead of `model`, where the entry point is another method.
    """
    counts = LayerCounts()
    clips = len(example[0] if isinstance(example[0], Tensor) else example[0][0])
    log = _OperationLog(counts.uncounted)

    def enter(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        log.inside_counted_layer = type(module) in MACS

    def leave(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        log.inside_counted_layer = False
        shapes = inputs[0].shape[1:], output.shape[1:]
        segments = len(inputs[0]) // clips  # of a clip, where they stand in the batch one after the other
        if type(module) in MACS:
            counts.macs[name] += segments * MACS[type(module)](module, *shapes)
        counts.panns_multiply_adds += segments * PANNS_MULTIPLY_ADDS[type(module)](module, *shapes)

    with _hooks(model, enter, leave), torch.no_grad(), log:
        (forward or model)(*example)
    return counts


@contextmanager
def _hooks(model: nn.Module, enter: Callable[..., None], leave: Callable[..., None]) -> Iterator[None]:
    handles = []
    for name, module in model.named_modules():
        if type(module) in PANNS_MULTIPLY_ADDS:
            handles.append(module.register_forward_pre_hook(enter))
            handles.append(module.register_forward_hook(partial(leave, name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def stft_macs(front_end: FrontEndSpec, frames: int) -> int:
    """Return the MACs of the STFT as torchlibrosa computes it: two convolutions, real and imaginary.

    YAMNet's windows are followed by zeros up to the size of the transform; conversions of it multiply them too.
    """
    return 2 * front_end.frequency_bins * front_end.fft_size * frames


def mel_macs(front_end: FrontEndSpec, frames: int) -> int:
    """Return the MACs of the product with the mel matrix."""
    return front_end.frequency_bins * front_end.mel_bins * frames


def front_end_params(front_end: FrontEndSpec) -> int:
    """Return the frozen numbers of a released PANNs file: two STFT kernels and the mel matrix; YAMNet's holds none."""
    if front_end.is_yamnet:
        return 0
    return front_end.frequency_bins * (2 * front_end.window_size + front_end.mel_bins)


def profile(model: Tagger | ModelSpec, *, seconds: float = 10.0) -> ModelCost:
    """Return parameters and MACs of a network for one clip.

    The network is rebuilt from its specification on the meta device, so profiling the largest one takes no memory.

    Args:
        model: A network or its specification.
        seconds: Clip length; shorter clips than the network's minimum cost what the minimum does, to which they are
            repeated.

    Raises:
        ConfigError: If `seconds` is not positive, or the network's tensors are not those of its specification.
    """
    if not 0 < seconds < math.inf:
        raise ConfigError(f"seconds={seconds}: the clip length to count for must be a positive number")
    spec = model if isinstance(model, ModelSpec) else model.spec
    if isinstance(model, Tagger) and (problem := shape_difference(model, spec)):
        raise ConfigError(f"this {spec.name} is not what its spec says, which is what would be counted: {problem}")
    with torch.device("meta"):
        twin = build_model(spec).eval()
    front_end = spec.front_end
    samples = max(round(seconds * front_end.sample_rate), twin.minimum_samples)
    frames = twin.front_end_frames(samples)
    inputs = tuple(torch.empty(shape, device="meta") for shape in twin.input_shapes(samples))
    counts = count_layers(twin, inputs, forward=twin.forward_inputs)
    size = count_parameters(twin)
    stft, mel = (stft_macs(front_end, frames), mel_macs(front_end, frames)) if spec.reads_logmel else (0, 0)
    return ModelCost(
        name=spec.name,
        sample_rate=front_end.sample_rate,
        clip_seconds=float(seconds),
        n_params=size.trainable,
        n_params_with_front_end=size.trainable + (front_end_params(front_end) if spec.reads_logmel else 0),
        n_params_with_statistics=size.with_statistics,
        n_params_folded=size.folded,
        param_bytes=size.trainable * _FLOAT32_BYTES,
        backbone_macs=counts.macs.total(),
        front_end_macs=stft + mel,
        panns_multiply_adds=counts.panns_multiply_adds + 2 * stft,
        layers=_layer_costs(twin, counts.macs),
        uncounted=dict(sorted(counts.uncounted.items())),
    )


def _layer_costs(model: nn.Module, macs: Mapping[str, int]) -> tuple[LayerCost, ...]:
    rows = []
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        if own or name in macs:
            n_params = sum(parameter.numel() for parameter in own)
            rows.append(LayerCost(name, _width(module, own), n_params, macs.get(name, 0)))
    return tuple(rows)


def _width(module: nn.Module, own: Sequence[Tensor]) -> int:
    if isinstance(module, BiLSTM):
        return 2 * module.hidden_size
    return own[0].shape[0] if own else 0
