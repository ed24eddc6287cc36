"""Convolutions that the families share; attribute names are those of released PANNs weights."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from epanns.clip_random import dropout

_NARROW, _RATHER_NARROW = 2, 4  # mel bins; maps of 3 and 4 gain only if the weights exceed a cache
_LEAST_WIDTH = 128  # output channels; with fewer, building the patches takes the time that the product saves
_MANY_WEIGHTS = 1 << 22
_MOST_PATCHES = 1 << 26  # elements of the matrix of patches, 256 MiB in float32; beyond, torch convolves


class Convolution(nn.Conv2d):
    """`torch.nn.Conv2d`, faster on a CPU where maps are narrow; equal to it up to the order of sums."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002 - torch's name
        output: Tensor
        size = self.kernel_size[0]
        is_plain = (
            (self.groups, self.stride, self.dilation) == (1, (1, 1), (1, 1))
            and self.kernel_size == (size, size)
            and self.padding == (size // 2, size // 2)
            and self.padding_mode == "zeros"
            and size % 2 == 1
        )
        if not is_plain or not is_narrow(input, weight):
            output = super()._conv_forward(input, weight, bias)
            return output
        if torch.is_autocast_enabled("cpu"):
            precision = torch.get_autocast_dtype("cpu")
            input, weight = input.to(precision), weight.to(precision)
        output = _NarrowConvolution.apply(input, weight)
        return output if bias is None else output + bias.to(output.dtype)[:, None, None]


def is_narrow(maps: Tensor, weight: Tensor) -> bool:
    """Return whether a product of matrices is faster for ``(batch, in, time, mel)`` maps and these weights."""
    if maps.device.type != "cpu" or maps.dim() != 4 or torch.compiler.is_compiling():
        return False
    batch, _, time, mel = maps.shape
    patches = batch * time * mel * weight[0].numel()
    narrow = mel <= _NARROW or (mel <= _RATHER_NARROW and weight.numel() >= _MANY_WEIGHTS)
    return narrow and weight.shape[0] >= _LEAST_WIDTH and 0 < patches <= _MOST_PATCHES


class _NarrowConvolution(torch.autograd.Function):
    """The convolution and its gradients, each a product with the matrix of patches or of weights."""

    @staticmethod
    def forward(context: torch.autograd.function.FunctionCtx, maps: Tensor, weight: Tensor) -> Tensor:
        """Return ``(batch, out, time, mel)``, channels-last."""
        context.save_for_backward(maps, weight)
        batch, _, time, mel = maps.shape
        rows = _product(_patches(maps, weight.shape[2]), _matrix(weight).t())
        return rows.view(batch, time, mel, len(weight)).permute(0, 3, 1, 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return the required gradients of maps and weights."""
        maps, weight = context.saved_tensors  # type: ignore[attr-defined]
        wants_maps, wants_weight = context.needs_input_grad  # type: ignore[attr-defined]
        (batch, _, time, mel), (out, channels, size, _) = maps.shape, weight.shape
        rows = gradient.permute(0, 2, 3, 1).reshape(-1, out)
        of_maps = of_weight = None
        if wants_weight:
            product = _product(rows.t(), _patches(maps, size))
            of_weight = product.view(out, size, size, channels).permute(0, 3, 1, 2)
        if wants_maps:
            patches = _product(rows, _matrix(weight)).view(batch, time, mel, size, size, channels)
            margin = size // 2
            padded = patches.new_zeros(batch, time + 2 * margin, mel + 2 * margin, channels)
            for row in range(size):
                for column in range(size):
                    padded[:, row : row + time, column : column + mel] += patches[:, :, :, row, column]
            of_maps = padded[:, margin : margin + time, margin : margin + mel].permute(0, 3, 1, 2)
        return of_maps, of_weight


def _patches(maps: Tensor, size: int) -> Tensor:
    """Return the inputs of the kernel at each place, ``(batch * time * mel, size * size * channels)``."""
    batch, channels, time, mel = maps.shape
    margin = size // 2
    padded = F.pad(maps.permute(0, 2, 3, 1), (0, 0, margin, margin, margin, margin))
    of_batch, of_time, of_mel, _ = padded.stride()
    windows = padded.as_strided(
        (batch, time, mel, size, size, channels), (of_batch, of_time, of_mel, of_time, of_mel, padded.stride(3))
    )
    return windows.reshape(batch * time * mel, size * size * channels)


def _matrix(weight: Tensor) -> Tensor:
    """Return ``(out, in, size, size)`` weights as ``(out, size * size * in)``; a view where they are channels-last."""
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Return the product of two matrices; in float32 by oneDNN, on some processors faster than torch's own."""
    if left.dtype == torch.float32 and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        product: Tensor = torch.ops.mkldnn._linear_pointwise(left, right.t(), None, "none", [], "")
        return product
    return left @ right


class ConvBlock(nn.Module):
    """One or two convolutions, each with batch norm and ReLU, then average pooling.

    Args of the constructor:
        in_channels: Input channels.
        widths: Output channels of ``conv1`` and, for Cnn10 and Cnn14, ``conv2``.
        kernel_size: 3, or 5 in Cnn6; "same" padding.
    """

    def __init__(self, in_channels: int, widths: Sequence[int], kernel_size: int) -> None:
        super().__init__()
        self.depth = len(widths)
        for index, width in enumerate(widths, start=1):
            self.add_module(f"conv{index}", convolution(in_channels, width, kernel_size))
            self.add_module(f"bn{index}", nn.BatchNorm2d(width))
            in_channels = width

    def steps(self, *, pools: bool) -> list[Callable[[Tensor], Tensor]]:
        """Return a function for each convolution; the last one also pools, if `pools`, and applies dropout."""
        first = [partial(self.step, index=index, pool=False) for index in range(1, self.depth)]
        return [*first, lambda features: dropout(self.step(features, index=self.depth, pool=pools), 0.2, self.training)]

    def step(self, features: Tensor, *, index: int, pool: bool) -> Tensor:
        """Apply convolution `index`, from 1, with its batch norm and ReLU, and average pooling if `pool`."""
        conv, norm = self.get_submodule(f"conv{index}"), self.get_submodule(f"bn{index}")
        features = F.relu(norm(conv(features)), inplace=True)
        return F.avg_pool2d(features, 2) if pool else features


def convolution(in_channels: int, width: int, kernel_size: int, *, groups: int = 1) -> nn.Conv2d:
    """Return a convolution with "same" padding and without bias, initialised as in PANNs: Xavier uniform."""
    conv = Convolution(in_channels, width, kernel_size, padding=kernel_size // 2, groups=groups, bias=False)
    nn.init.xavier_uniform_(conv.weight)
    return conv


def linear(inputs: int, outputs: int) -> nn.Linear:
    """Return a linear layer initialised as in PANNs: Xavier uniform weights, zero bias."""
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
