"""Building blocks that several families share; attribute names are those of released PANNs weights."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from epanns.models.narrow_maps import Convolution


class ConvBlock(nn.Module):
    """One or two convolutions, each with batch norm and ReLU, then average pooling.

    Args of the constructor:
        in_channels: Channels that come in.
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

    def step(self, features: Tensor, *, index: int, pool: bool) -> Tensor:
        """Do convolution `index`, from 1, with its batch norm and ReLU, and average pooling if `pool`."""
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
