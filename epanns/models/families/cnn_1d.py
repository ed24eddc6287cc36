"""DaiNet19, LeeNet and Res1dNet: one-dimensional convolutions on the waveform."""

from collections import OrderedDict
from functools import partial
from itertools import groupby

import torch.nn.functional as F
from torch import Tensor, nn

from epanns.clip_random import dropout
from epanns.labels import LabelSet
from epanns.models.layers.convolution import linear
from epanns.models.layers.mixup import mix_pairs
from epanns.models.layers.pooling import pool_time
from epanns.models.spec import ModelSpec
from epanns.models.tagger import Features, Stage, Tagger, on_first


class WaveformTagger(Tagger):
    """A tagger without a front end: its stages start from the waveform and end in ``(batch, channels, time)``."""

    def inputs_of(self, waveform: Tensor) -> Features:
        """Return the waveform as it is, ``(batch, samples)``."""
        return (self.in_own_type(waveform),)

    def input_shapes(self, samples: int) -> list[tuple[int, ...]]:
        """Return ``(1, samples)``."""
        return [(1, samples)]

    def begin(self, inputs: Features, mixup_lambda: Tensor | None = None) -> Features:
        """Mix pairs of waveforms; PANNs use no SpecAugment here. Returns ``(batch, 1, samples)``."""
        (waveform,) = inputs
        return (mix_pairs(waveform, mixup_lambda)[:, None],)

    def pooled(self, features: Features) -> Tensor:
        """Pool the last stage's ``(batch, channels, time)`` to ``(batch, channels)``, the input of `fc1`."""
        (last,) = features
        return pool_time(last)


def conv1d(
    inputs: int, outputs: int, kernel_size: int, *, stride: int = 1, padding: int = 0, dilation: int = 1
) -> nn.Conv1d:
    """Return a convolution over time as in PANNs: no bias, Xavier uniform weights."""
    conv = nn.Conv1d(inputs, outputs, kernel_size, stride=stride, padding=padding, dilation=dilation, bias=False)
    nn.init.xavier_uniform_(conv.weight)
    return conv


_PUBLISHED_WIDTH = 64  # of the first stream, and of tensors that no forward pass uses
_UNUSED = "released files hold it, but no forward pass uses it: it costs only memory"


class DaiNetBlock(nn.Module):
    """Four convolutions with a shortcut, which passes through ``downsample`` if the width changes.

    PANNs decide by shapes whether ``downsample`` is used; here the block decides, so that a stream that is pruned to
    the width of its input still passes through it.

    Args of the constructor:
        in_channels: Input channels.
        widths: Output channels of ``conv1`` to ``conv4``; the last is the stream's.
        changes: Whether the shortcut passes through ``downsample``, which is unused otherwise.
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
        """Return the output stream, ``(batch, channels, time)``, time unchanged."""
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
        self.add_classifier(spec)

    @property
    def fixed_layers(self) -> dict[str, str]:
        """Layers that no forward pass uses."""
        return dict.fromkeys(self.idle_layers, _UNUSED)

    @property
    def idle_layers(self) -> tuple[str, ...]:
        """The shortcut's convolution in the block that does not change the width."""
        return ("conv_block1.downsample", "conv_block1.bn_downsample")

    @property
    def minimum_samples(self) -> int:
        """332: a kernel of 80 samples at stride 4, and time is divided by 4 three times."""
        return 80 + 4 * (4**3 - 1)

    def stages(self) -> list[Stage]:
        """Return the first convolution and the four blocks."""
        blocks = [self.get_submodule(f"conv_block{number}") for number in range(1, 5)]
        pooled = [partial(self._block, block, pool=4) for block in blocks[:-1]]
        return [self._first, *pooled, partial(self._block, blocks[-1])]

    def _first(self, features: Features) -> Features:
        (waveform,) = features
        return (self.bn0(self.conv0(waveform)),)  # no ReLU here

    def _block(self, block: nn.Module, features: Features, *, pool: int = 1) -> Features:
        stream = block(*features)
        return (F.max_pool1d(stream, pool) if pool > 1 else stream,)


class LeeNetBlock(nn.Module):
    """One or two convolutions of three samples, each with batch norm and ReLU.

    Args of the constructor:
        in_channels: Input channels.
        widths: Output channels of ``conv1`` and, in LeeNet24, ``conv2``.
        stride: Of ``conv1``.
    """

    def __init__(self, in_channels: int, widths: list[int], *, stride: int) -> None:
        super().__init__()
        self.depth = len(widths)
        for index, width in enumerate(widths, start=1):
            self.add_module(f"conv{index}", conv1d(in_channels, width, 3, stride=stride, padding=1))
            in_channels, stride = width, 1
        for index, width in enumerate(widths, start=1):
            self.add_module(f"bn{index}", nn.BatchNorm1d(width))

    def step(self, features: Tensor, *, index: int) -> Tensor:
        """Apply convolution `index`, from 1, with its batch norm and ReLU."""
        conv, norm = self.get_submodule(f"conv{index}"), self.get_submodule(f"bn{index}")
        return F.relu(norm(conv(features)), inplace=True)


class LeeNet(WaveformTagger):
    """Nine blocks; source: Kong et al. 2020, after Lee et al. 2017 (arXiv 1703.01789).

    LeeNet24 has two convolutions in a block, dropout between blocks, and no pooling after the last one.
    """

    def __init__(self, spec: ModelSpec, labels: LabelSet | None = None) -> None:
        super().__init__(spec, labels)
        channels, stride = 1, 3
        for name, group in groupby(spec.widths.items(), key=lambda item: item[0].split(".")[0]):
            widths = [width for _, width in group]
            self.add_module(name, LeeNetBlock(channels, widths, stride=stride))
            channels, stride = widths[-1], 1
        self.fc1 = linear(channels, spec.embedding_size)
        self.add_classifier(spec)

    @property
    def minimum_samples(self) -> int:
        """One: every convolution and pooling is padded, so that no clip is too short."""
        return 1

    def stages(self) -> list[Stage]:
        """Return a stage for each convolution."""
        stages: list[Stage] = []
        for number in range(1, 10):
            block = self.get_submodule(f"conv_block{number}")
            assert isinstance(block, LeeNetBlock)
            pools = 1 < number < 9 or (number == 9 and block.depth == 1)
            drops = 0.1 if number < 9 and block.depth == 2 else 0.0
            stages += [partial(self._stage, block, index) for index in range(1, block.depth)]
            stages.append(partial(self._stage, block, block.depth, pools=pools, drops=drops))
        return stages

    def _stage(
        self, block: LeeNetBlock, index: int, features: Features, *, pools: bool = False, drops: float = 0.0
    ) -> Features:
        (last,) = features
        last = block.step(last, index=index)
        if pools:
            last = F.max_pool1d(last, 3, padding=1)
        return (dropout(last, drops, self.training),)


_LAYERS = 7
_STRIDE = 4  # every layer but the first divides time by 4


class Res1dBlock(nn.Module):
    """Two convolutions with a shortcut.

    Args of the constructor:
        in_channels: Input channels.
        width: Output channels of ``conv1``.
        stream: Output channels of ``conv2``, and of the block.
        shortens: Whether the block divides time by 4 and changes the stream by ``downsample``.
    """

    def __init__(self, in_channels: int, width: int, stream: int, *, shortens: bool) -> None:
        super().__init__()
        self.conv1 = conv1d(in_channels, width, 3, padding=1)
        self.bn1 = nn.BatchNorm1d(width)
        self.relu = nn.ReLU(inplace=True)  # a module, because PANNs' count of operations counts modules
        self.conv2 = conv1d(width, stream, 3, padding=2, dilation=2)
        self.bn2 = nn.BatchNorm1d(stream)
        nn.init.zeros_(self.bn2.weight)
        self.downsample = None
        if shortens:
            self.downsample = nn.Sequential(
                nn.AvgPool1d(_STRIDE), conv1d(in_channels, stream, 1), nn.BatchNorm1d(stream)
            )

    def forward(self, features: Tensor) -> Tensor:
        """Return the output stream, ``(batch, channels, time)``."""
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
            blocks: list[nn.Module] = []
            for layer, width in spec.widths.items():
                if layer.startswith(f"resnet.{name}.") and layer.endswith(".conv1"):
                    shortens = number > 1 and not blocks
                    blocks.append(Res1dBlock(channels, width, stream, shortens=shortens))
                    channels = stream
            layers[name] = nn.Sequential(*blocks)
        self.resnet = nn.Sequential(layers)
        self.fc1 = linear(channels, spec.embedding_size)
        self.add_classifier(spec)

    @property
    def minimum_samples(self) -> int:
        """20,476 samples, 0.64 s at 32 kHz: a stride of 5, and time is divided by 4 six times."""
        shrinks: int = _STRIDE ** (_LAYERS - 1)
        return 5 * (shrinks - 1) + 1

    def stages(self) -> list[Stage]:
        """Return the first convolution and every block."""
        blocks = [block for layer in self.resnet for block in layer.children()]
        return [self._first, *(partial(on_first, block) for block in blocks)]

    def _first(self, features: Features) -> Features:
        (waveform,) = features
        return (self.bn0(self.conv0(waveform)),)  # no ReLU here
