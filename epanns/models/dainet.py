"""DaiNet19: a residual network on the waveform that begins with one long convolution."""

import functools

import torch.nn.functional as F
from torch import Tensor, nn

from epanns.labels import LabelSet
from epanns.models.blocks import linear
from epanns.models.spec import ModelSpec
from epanns.models.tagger import Features, Stage
from epanns.models.waveform_tagger import WaveformTagger, conv1d

_PUBLISHED_WIDTH = 64  # of the first stream; of PANNs' tensors that no forward pass reaches too
_UNUSED = "PANNs hold it in the block that needs none; no forward pass reaches it, so it costs nothing but its bytes"


class DaiNetBlock(nn.Module):
    """Four convolutions around which the input passes, through ``downsample`` where the width changes.

    PANNs decide by the shapes whether ``downsample`` is used; here it is decided by the block, so that a stream pruned
    to the width of the one before still passes through it.

    Args of the constructor:
        in_channels: Channels that come in.
        widths: Output channels of ``conv1`` to ``conv4``; the last is the stream's.
        changes: Whether the input passes through ``downsample``; else that is held without a use.
    """

    def __init__(self, in_channels: int, widths: list[int], *, changes: bool) -> None:
        super().__init__()
        self.changes = changes
        inputs = in_channels
        for index, width in enumerate(widths, start=1):
            self.add_module(f"conv{index}", conv1d(inputs, width, 3, padding=1))
            inputs = width
        around = (in_channels, widths[-1]) if changes else (_PUBLISHED_WIDTH, _PUBLISHED_WIDTH)
        self.downsample = conv1d(*around, 1)
        for index, width in enumerate(widths, start=1):
            self.add_module(f"bn{index}", nn.BatchNorm1d(width))
        nn.init.zeros_(self.get_submodule("bn4").get_parameter("weight"))
        self.bn_downsample = nn.BatchNorm1d(around[1])

    def forward(self, features: Tensor) -> Tensor:
        """Return the block's stream, ``(batch, channels, time)``, time unchanged."""
        last = features
        for index in (1, 2, 3):
            last = F.relu(self._convolved(last, index), inplace=True)
        last = self._convolved(last, 4)
        return F.relu(last + (self.bn_downsample(self.downsample(features)) if self.changes else features))

    def _convolved(self, features: Tensor, index: int) -> Tensor:
        normed: Tensor = self.get_submodule(f"bn{index}")(self.get_submodule(f"conv{index}")(features))
        return normed


class DaiNet19(WaveformTagger):
    """A convolution of 80 samples and four residual blocks; source: Kong et al. 2020, after Dai et al. 2017.

    (arXiv 1610.00087)
    """

    def __init__(self, spec: ModelSpec, labels: LabelSet | None = None) -> None:
        super().__init__(spec, labels)
        widths = spec.widths
        channels = widths["conv0"]
        self.conv0 = conv1d(1, channels, 80, stride=4)
        self.bn0 = nn.BatchNorm1d(channels)
        for name in ("conv_block1", "conv_block2", "conv_block3", "conv_block4"):
            inner = [widths[f"{name}.conv{index}"] for index in (1, 2, 3)]
            stream = widths.get(f"{name}.conv4", channels)
            self.add_module(name, DaiNetBlock(channels, [*inner, stream], changes=f"{name}.conv4" in widths))
            channels = stream
        self.fc1 = linear(channels, spec.embedding_size)
        self.fc_audioset = linear(spec.embedding_size, spec.num_classes)

    @property
    def fixed_layers(self) -> dict[str, str]:
        """Layers that PANNs never run."""
        return dict.fromkeys(self.idle_layers, _UNUSED)

    @property
    def idle_layers(self) -> tuple[str, ...]:
        """The change of width in the block that needs none."""
        return ("conv_block1.downsample", "conv_block1.bn_downsample")

    @property
    def minimum_samples(self) -> int:
        """332: 64 steps of 4 samples after the first 80, and time is cut to a quarter three times."""
        return 80 + 4 * (4**3 - 1)

    def stages(self) -> list[Stage]:
        """Return the first convolution and the four blocks."""
        blocks = [self.get_submodule(f"conv_block{number}") for number in range(1, 5)]
        return [self._first, *(functools.partial(_pooled_block, block) for block in blocks[:-1]), self._last]

    def _first(self, features: Features) -> Features:
        (waveform,) = features
        return (self.bn0(self.conv0(waveform)),)  # no ReLU here

    def _last(self, features: Features) -> Features:
        (stream,) = features
        return (self.get_submodule("conv_block4")(stream),)


def _pooled_block(block: nn.Module, features: Features) -> Features:
    (stream,) = features
    return (F.max_pool1d(block(stream), 4),)
