"""Multiply-adds of a network, counted in closed form from the shapes of one forward pass on the meta device.

One multiply-add is 1 MAC; `ModelCost` defines what each figure includes.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from epanns.audio.frontend import FrontEndSpec
from epanns.errors import ConfigError
from epanns.models.families.lean import BiLSTM, DotProducts, WeightedSum
from epanns.models.families.yamnet import ShiftNorm2d
from epanns.models.layers.convolution import Convolution
from epanns.models.spec import ModelSpec
from epanns.models.tagger import Tagger
from epanns.models.tensors import count_parameters, shape_difference
from epanns.models.zoo import build_model

FLOAT32_BYTES = 4
_ALLOCATIONS = ("aten.empty", "aten.empty_like")


@dataclass(frozen=True)
class LayerCost:
    """A layer with parameters or multiply-adds.

    Attributes:
        name: Module name, such as ``conv_block4.conv1``.
        width: Number of output channels; 0 for a layer without parameters.
        n_params: Number of its weights and biases.
        macs: Multiply-adds for one clip; 0 for a batch norm.
    """

    name: str
    width: int
    n_params: int
    macs: int


@dataclass(frozen=True)
class ModelCost:
    """Size and operations of a network for one clip, the operations in three conventions.

    Attributes:
        sample_rate: Hz.
        clip_seconds: Length of the clip in seconds.
        n_params: Number of weights, biases and batch-norm scales and shifts, frozen or not.
        n_params_with_front_end: `n_params` plus the frozen STFT kernels and mel matrix in PANNs' files; equal to
            `n_params` for networks on the waveform alone, whose files have none.
        n_params_with_statistics: `n_params` plus the running means and variances of batch norms: Keras' total, and
            LEAN's convention.
        n_params_folded: Number of parameters after batch norms are folded into the layers before them: of each batch
            norm the shifts remain, as biases. The batch norm of the mel bins, which follows no layer, keeps its scales.
        param_bytes: Bytes of `n_params` in float32.
        backbone_macs: Convolutions, linear and recurrent layers and the products of attention, one multiply-add = 1.
        front_end_macs: STFT as two convolutions plus the mel matrix, as torchlibrosa computes them; included in the
            published "36 % fewer" of E-PANNs. 0 for networks on the waveform alone.
        panns_multiply_adds: PANNs' own count: 2 per multiply-add, biases, 2 per batch-norm element, ReLUs and poolings
            that are modules (the residual and mobile families'), the STFT's convolutions but not the mel matrix
            (audioset_tagging_cnn, `pytorch_utils.count_flops`).
        layers: Layers with parameters or multiply-adds, in forward order.
        uncounted: Operation -> number of calls in one forward pass that `backbone_macs` leaves out, without views and
            allocations.
    """

    name: str
    sample_rate: int
    clip_seconds: float
    n_params: int
    n_params_with_front_end: int
    n_params_with_statistics: int
    n_params_folded: int
    param_bytes: int
    backbone_macs: int
    front_end_macs: int
    panns_multiply_adds: int
    layers: tuple[LayerCost, ...]
    uncounted: Mapping[str, int]

    @property
    def macs_with_front_end(self) -> int:
        """Sum of the MACs of backbone and front end."""
        return self.backbone_macs + self.front_end_macs

    def to_dict(self) -> dict[str, Any]:
        """Return the keys of ``epanns profile --json``."""
        return asdict(self) | {"layers": [asdict(layer) for layer in self.layers], "uncounted": dict(self.uncounted)}

    def summary(self) -> dict[str, Any]:
        """Return `to_dict` without lists, for run records."""
        return {key: value for key, value in self.to_dict().items() if key not in ("layers", "uncounted")}


# Each counter receives a layer and the shapes of its input and output without the batch axis, and returns an exact
# count for one clip.
LayerCounter = Callable[[Any, torch.Size, torch.Size], int]


def conv_macs(conv: nn.Conv1d | nn.Conv2d, inputs: torch.Size, outputs: torch.Size) -> int:
    """Count a convolution: each output element is a sum over the kernel and the input channels of its group."""
    return outputs.numel() * (conv.in_channels // conv.groups) * math.prod(conv.kernel_size)


def linear_macs(linear: nn.Linear, inputs: torch.Size, outputs: torch.Size) -> int:
    """Count a linear layer: each output element, at every position of the leading axes, sums over the inputs."""
    return outputs.numel() * linear.in_features


def lstm_macs(lstm: BiLSTM, inputs: torch.Size, outputs: torch.Size) -> int:
    """Count an LSTM: in both directions and at each frame, four gates multiply the input and the last state."""
    return 2 * inputs[0] * 4 * lstm.hidden_size * (lstm.input_size + lstm.hidden_size)


def product_macs(product: nn.Module, inputs: torch.Size, outputs: torch.Size) -> int:
    """Count a product of attention: each element of the states is multiplied once."""
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
    """Count a convolution as PANNs do: 2 per multiply-add, and 1 per output element if there is a bias."""
    return 2 * conv_macs(conv, inputs, outputs) + (outputs.numel() if conv.bias is not None else 0)


def panns_linear(linear: nn.Linear, inputs: torch.Size, outputs: torch.Size) -> int:
    """Count a linear layer as PANNs do: 2 per weight and 1 per bias, *once* for any number of positions.

    PANNs' counter reads a batch size only from two-dimensional inputs, so the per-frame layers of the decision-level
    networks count as one frame. The published figures are counted in this way.
    """
    return 2 * linear.weight.numel() + (linear.bias.numel() if linear.bias is not None else 0)


def panns_elementwise(module: nn.Module, inputs: torch.Size, outputs: torch.Size) -> int:
    """Count a batch norm, or a ReLU that is a module, as PANNs do: 2 per element; ReLU6 is not counted."""
    return 2 * inputs.numel()


def panns_pooling(pooling: nn.AvgPool1d | nn.AvgPool2d, inputs: torch.Size, outputs: torch.Size) -> int:
    """Count an average pooling that is a module as PANNs do: 1 per element of each window."""
    kernel = pooling.kernel_size
    window = math.prod(kernel) if isinstance(kernel, tuple) else kernel**2  # one number is the side of a square
    return outputs.numel() * window


PANNS_MULTIPLY_ADDS: dict[type[nn.Module], LayerCounter] = {
    nn.Conv1d: panns_conv,
    nn.Conv2d: panns_conv,
    Convolution: panns_conv,
    nn.Linear: panns_linear,
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, ShiftNorm2d, nn.ReLU), panns_elementwise),
    nn.AvgPool1d: panns_pooling,  # its kernel size is a tuple of one number
    nn.AvgPool2d: panns_pooling,
    **dict.fromkeys((BiLSTM, DotProducts, WeightedSum), lambda *_: 0),  # PANNs' counter has no such layers
}


@dataclass
class LayerCounts:
    """Counts of one forward pass.

    Attributes:
        macs: Layer name -> MACs of one clip, for the layers in `MACS` in forward order.
        panns_multiply_adds: PANNs' count of one clip, without the front end.
        uncounted: Operation -> number of calls outside the counted layers, without views and allocations.
    """

    macs: Counter[str] = field(default_factory=Counter)
    panns_multiply_adds: int = 0
    uncounted: Counter[str] = field(default_factory=Counter)


class _OperationLog(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations that run outside the counted layers."""

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
    """Run `model` once, and count the operations of its layers per clip.

    Args:
        model: Model in the mode to count; its tensors and the example may be on the meta device.
        example: Inputs, batch first; the count does not depend on the batch size.
        forward: Method to call with `example`; None for the model itself.
    """
    counts = LayerCounts()
    clips = len(example[0] if isinstance(example[0], Tensor) else example[0][0])
    log = _OperationLog(counts.uncounted)

    def enter(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        log.inside_counted_layer = type(module) in MACS

    def leave(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        log.inside_counted_layer = False
        shapes = inputs[0].shape[1:], output.shape[1:]
        segments = len(inputs[0]) // clips  # of a clip, if the batch consists of segments
        if type(module) in MACS:
            counts.macs[name] += segments * MACS[type(module)](module, *shapes)
        counts.panns_multiply_adds += segments * PANNS_MULTIPLY_ADDS[type(module)](module, *shapes)

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if type(module) in PANNS_MULTIPLY_ADDS:
                hooks.callback(module.register_forward_pre_hook(enter).remove)
                hooks.callback(module.register_forward_hook(partial(leave, name)).remove)
        with torch.no_grad(), log:
            (forward or model)(*example)
    return counts


def stft_macs(front_end: FrontEndSpec, frames: int) -> int:
    """Return the MACs of the STFT as torchlibrosa computes it: two convolutions, real and imaginary.

    The zeros beside the windows of YAMNet and EfficientAT up to the transform's size are counted, as conversions
    multiply them.
    """
    return 2 * front_end.frequency_bins * front_end.fft_size * frames


def mel_macs(front_end: FrontEndSpec, frames: int) -> int:
    """Return the MACs of the product with the mel matrix."""
    return front_end.frequency_bins * front_end.mel_bins * frames


def front_end_params(front_end: FrontEndSpec) -> int:
    """Return the number of frozen values in a file of PANNs: STFT kernels and mel matrix; 0 for other front ends."""
    if front_end.kind != "panns":
        return 0
    return front_end.frequency_bins * (2 * front_end.window_size + front_end.mel_bins)


def profile(model: Tagger | ModelSpec, *, seconds: float = 10.0) -> ModelCost:
    """Return parameters and MACs of a network for one clip.

    The network is rebuilt from its specification on the meta device, so no memory is allocated.

    Args:
        model: A network or its specification.
        seconds: Clip length; clips shorter than the network's minimum are repeated to it, and counted so.

    Raises:
        ConfigError: If `seconds` is not positive, or the network's tensors are not those of its specification.
    """
    if not 0 < seconds < math.inf:
        raise ConfigError(f"seconds={seconds}: the clip length to count for must be a positive number")
    spec = model if isinstance(model, ModelSpec) else model.spec
    if isinstance(model, Tagger) and (problem := shape_difference(model, spec)):
        raise ConfigError(f"this {spec.name} differs from its spec, which would be counted instead: {problem}")
    with torch.device("meta"):
        twin = build_model(spec).eval()
    front_end = spec.front_end
    samples = max(round(seconds * front_end.sample_rate), twin.minimum_samples)
    frames = twin.front_end_frames(samples)
    inputs = tuple(torch.empty(shape, device="meta") for shape in twin.input_shapes(samples))
    counts = count_layers(twin, inputs, forward=twin.forward_inputs)
    size = count_parameters(twin)
    layers = []
    for name, module in twin.named_modules():
        own = list(module.parameters(recurse=False))
        if own or name in counts.macs:
            width = 2 * module.hidden_size if isinstance(module, BiLSTM) else own[0].shape[0] if own else 0
            layers.append(LayerCost(name, width, sum(parameter.numel() for parameter in own), counts.macs[name]))
    stft, mel = (stft_macs(front_end, frames), mel_macs(front_end, frames)) if spec.reads_logmel else (0, 0)
    return ModelCost(
        name=spec.name,
        sample_rate=front_end.sample_rate,
        clip_seconds=float(seconds),
        n_params=size.trainable,
        n_params_with_front_end=size.trainable + (front_end_params(front_end) if spec.reads_logmel else 0),
        n_params_with_statistics=size.with_statistics,
        n_params_folded=size.folded,
        param_bytes=size.trainable * FLOAT32_BYTES,
        backbone_macs=counts.macs.total(),
        front_end_macs=stft + mel,
        panns_multiply_adds=counts.panns_multiply_adds + 2 * stft,
        layers=tuple(layers),
        uncounted=dict(sorted(counts.uncounted.items())),
    )
