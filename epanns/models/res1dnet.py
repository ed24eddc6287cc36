"""Res1dNet31 and Res1dNet51: residual networks on the waveform."""

import functools
from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from epanns.clip_random import dropout
from epanns.labels import LabelSet
from epanns.models.blocks import linear
from epanns.models.spec import ModelSpec
from epanns.models.tagger import Features, Stage
from epanns.models.waveform_tagger import WaveformTagger, conv1d

_LAYERS = 7
_STRIDE = 4  # every layer but the first cuts time to a quarter


class Res1dBlock(nn.Module):
    """Two convolutions around which the input passes.

    Args of the constructor:
        in_channels: Channels that come in.
        width: Output channels of ``conv1``.
        stream: Output channels of ``conv2``, and of the block.
        shortens: Whether the block cuts time to a quarter and changes the stream, by ``downsample``.
    """

    def __init__(self, in_channels: int, width: int, stream: int, *, shortens: bool) -> None:
        super().__init__()
        self.conv1 = conv1d(in_channels, width, 3, padding=1)
        self.bn1 = nn.BatchNorm1d(width)
        self.relu = nn.ReLU(inplace=True)  # a module, because PANNs' own count of operations sees modules
        self.conv2 = conv1d(width, stream, 3, padding=2, dilation=2)
        self.bn2 = nn.BatchNorm1d(stream)
        nn.init.zeros_(self.bn2.weight)
        self.downsample = None
        if shortens:
            self.downsample = nn.Sequential(
                nn.AvgPool1d(_STRIDE), conv1d(in_channels, stream, 1), nn.BatchNorm1d(stream)
            )

    def forward(self, features: Tensor) -> Tensor:
        """Return the block's stream, ``(batch, channels, time)``."""
        last = features if self.downsample is None else F.max_pool1d(features, _STRIDE)
        last = dropout(self.relu(self.bn1(self.conv1(last))), 0.1, self.training)
        last = self.bn2(self.conv2(last))
        stream: Tensor = self.relu(last + (features if self.downsample is None else self.downsample(features)))
        return stream


class Res1dNet(WaveformTagger):
    """A convolution of 11 samples and seven layers of residual blocks; source: Kong et al. 2020, section III-B."""

    def __init__(self, spec: ModelSpec, labels: LabelSet | None = None) -> None:
        super().__init__(spec, labels)
        channels = spec.widths["conv0"]
        self.conv0 = conv1d(1, channels, 11, stride=5, padding=5)
        self.bn0 = nn.BatchNorm1d(channels)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for number in range(1, _LAYERS + 1):
            name = f"layer{number}"
            stream = spec.widths.get(f"resnet.{name}.0.conv2", channels)
            layers[name] = _layer(channels, _inner_widths(spec, name), stream, shortens=number > 1)
            channels = stream
        self.resnet = nn.Sequential(layers)
        self.fc1 = linear(channels, spec.embedding_size)
        self.fc_audioset = linear(spec.embedding_size, spec.num_classes)

    @property
    def minimum_samples(self) -> int:
        """20,476 samples, 0.64 s at 32 kHz: one step every 5 samples, and time is cut to a quarter six times."""
        shrinks: int = _STRIDE ** (_LAYERS - 1)
        return 5 * (shrinks - 1) + 1

    def stages(self) -> list[Stage]:
        """Return the first convolution and every block."""
        blocks = [block for layer in self.resnet for block in layer.children()]
        return [self._first, *(functools.partial(_block, block) for block in blocks)]

    def _first(self, features: Features) -> Features:
        (waveform,) = features
        return (self.bn0(self.conv0(waveform)),)  # no ReLU here


def _inner_widths(spec: ModelSpec, layer: str) -> list[int]:
    prefix = f"resnet.{layer}."
    return [width for name, width in spec.widths.items() if name.startswith(prefix) and name.endswith(".conv1")]


def _layer(channels: int, widths: list[int], stream: int, *, shortens: bool) -> nn.Sequential:
    first = Res1dBlock(channels, widths[0], stream, shortens=shortens)
    return nn.Sequential(first, *(Res1dBlock(stream, width, stream, shortens=False) for width in widths[1:]))


def _block(block: nn.Module, features: Features) -> Features:
    (stream,) = features
    return (block(stream),)
