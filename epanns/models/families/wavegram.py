"""Wavegram_Cnn14 and Wavegram_Logmel_Cnn14: a learned map of time and "frequency", alone or beside the log-mel."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from epanns.audio.frontend import LogMel
from epanns.clip_random import dropout
from epanns.errors import ConfigError
from epanns.labels import LabelSet
from epanns.models.families.cnn_1d import conv1d
from epanns.models.layers.convolution import ConvBlock, linear
from epanns.models.layers.mixup import mix_pairs
from epanns.models.spec import ModelSpec
from epanns.models.tagger import Features, Stage, Tagger, on_first

_FIRST_STRIDE = 5  # samples
_POOL = 4  # factor of each of the three blocks on the waveform
_HOP = _FIRST_STRIDE * _POOL**3  # samples between two frames of the wavegram
_GROUPS = 4  # input channels of `pre_block4`; rows = channels of `pre_block3` / groups
_PUBLISHED_WIDTH = 64  # of the first block on log-mel, which Wavegram_Cnn14 holds unused
_UNUSED = "released files hold it, but no forward pass uses it: it costs only memory"
_ROWS = "its channels become the rows of the wavegram, whose number is that of the map of the log-mel"


class WaveBlock(nn.Module):
    """Two convolutions over time, the second one dilated, each with batch norm and ReLU."""

    def __init__(self, in_channels: int, widths: tuple[int, int]) -> None:
        super().__init__()
        self.conv1 = conv1d(in_channels, widths[0], 3, padding=1)
        self.conv2 = conv1d(widths[0], widths[1], 3, padding=2, dilation=2)
        self.bn1 = nn.BatchNorm1d(widths[0])
        self.bn2 = nn.BatchNorm1d(widths[1])

    def first(self, features: Tensor) -> Tensor:
        """Apply the first convolution."""
        return F.relu(self.bn1(self.conv1(features)), inplace=True)

    def second(self, features: Tensor) -> Tensor:
        """Apply the second convolution and max pooling over four time steps."""
        return F.max_pool1d(F.relu(self.bn2(self.conv2(features)), inplace=True), _POOL)


class Wavegram(Tagger):
    """Wavegram_Cnn14 of Kong et al. (2020), section III-C: Cnn14 on a map that is learned from the waveform.

    Features are the wavegram ``(batch, channels, time)``, later ``(batch, channels, time, rows)``, and the weights of
    mixup until its pairs are mixed after `pre_block4`.
    """

    def __init__(self, spec: ModelSpec, labels: LabelSet | None = None) -> None:
        super().__init__(spec, labels)
        widths = spec.widths
        channels = widths["pre_conv0"]
        self.pre_conv0 = conv1d(1, channels, 11, stride=_FIRST_STRIDE, padding=5)
        self.pre_bn0 = nn.BatchNorm1d(channels)
        for name in ("pre_block1", "pre_block2", "pre_block3"):
            block = widths[f"{name}.conv1"], widths.get(f"{name}.conv2", _GROUPS * self.rows)
            self.add_module(name, WaveBlock(channels, block))
            channels = block[1]
        self.pre_block4 = ConvBlock(_GROUPS, _pair(spec, "pre_block4"), 3)
        self.bn0 = nn.BatchNorm2d(spec.front_end.mel_bins)
        self.conv_block1 = ConvBlock(1, _pair(spec, "conv_block1"), 3)
        channels = self._joined_channels
        for number in range(2, 7):
            pair = _pair(spec, f"conv_block{number}")
            self.add_module(f"conv_block{number}", ConvBlock(channels, pair, 3))
            channels = pair[-1]
        self.fc1 = linear(channels, spec.embedding_size)
        self.add_classifier(spec)

    @property
    def rows(self) -> int:
        """Number of rows of the wavegram, equal to that of the log-mel's map after its first block."""
        return self.spec.front_end.mel_bins // 2

    @property
    def _joined_channels(self) -> int:
        return self.spec.widths["pre_block4.conv2"]

    @property
    def fixed_layers(self) -> dict[str, str]:
        """The layer whose channels become rows, and layers that no forward pass uses."""
        return {"pre_block3.conv2": _ROWS, "pre_block3.bn2": _ROWS, **dict.fromkeys(self.idle_layers, _UNUSED)}

    @property
    def idle_layers(self) -> tuple[str, ...]:
        """Layers on the log-mel, which this network does not read."""
        return ("bn0", *(f"conv_block1.{name}" for name in ("conv1", "bn1", "conv2", "bn2")))

    @property
    def minimum_samples(self) -> int:
        """10,236 samples, 0.32 s at 32 kHz: 32 frames of the wavegram, and time is halved five times."""
        return _HOP * 2**5 - (_FIRST_STRIDE - 1)

    def inputs_of(self, waveform: Tensor) -> Features:
        """Return the waveform as it is, ``(batch, samples)``."""
        return (self.in_own_type(waveform),)

    def input_shapes(self, samples: int) -> list[tuple[int, ...]]:
        """Return ``(1, samples)``."""
        return [(1, samples)]

    def begin(self, inputs: Features, mixup_lambda: Tensor | None = None) -> Features:
        """Return ``(batch, 1, samples)`` and, if given, the weights of mixup; PANNs use no SpecAugment here."""
        (waveform,) = inputs
        return (waveform[:, None], *([] if mixup_lambda is None else [mixup_lambda]))

    def stages(self) -> list[Stage]:
        """Return a stage for each convolution."""
        return [*self._stages_on_waveform(), self._wavegram, *self._stages_on_map()]

    def _stages_on_waveform(self) -> list[Stage]:

        def first(waveform: Tensor) -> Tensor:
            return F.relu(self.pre_bn0(self.pre_conv0(waveform)), inplace=True)

        def spread(features: Tensor) -> Tensor:  # channels become rows: (batch, 4, time, rows)
            maps = features.reshape(features.shape[0], _GROUPS, self.rows, features.shape[2]).transpose(2, 3)
            return self.pre_block4.step(maps, index=1, pool=False)

        steps: list[Callable[[Tensor], Tensor]] = [first]
        for name in ("pre_block1", "pre_block2", "pre_block3"):
            block = self.get_submodule(name)
            assert isinstance(block, WaveBlock)
            steps += [block.first, block.second]
        return [partial(on_first, step) for step in (*steps, spread)]

    def _stages_on_map(self) -> list[Stage]:
        stages: list[Stage] = []
        for number in range(2, 7):
            block = self.get_submodule(f"conv_block{number}")
            assert isinstance(block, ConvBlock)
            stages += [partial(on_first, step) for step in block.steps(pools=number < 6)]
        return stages

    def _wavegram(self, features: Features) -> Features:
        """Apply the second convolution on the map, halve time, mix pairs and, without a log-mel, apply dropout."""
        maps, *others = features
        maps = F.avg_pool2d(self.pre_block4.step(maps, index=2, pool=False), (2, 1))
        mixup_lambda = others.pop() if len(features) > len(self.input_shapes(1)) else None
        wavegram = mix_pairs(maps, mixup_lambda)
        return (wavegram, *others) if others else (dropout(wavegram, 0.2, self.training),)


class WavegramLogmel(Wavegram):
    """Wavegram_Logmel_Cnn14: the wavegram concatenated with the map of the log-mel after its first block.

    Features are those of `Wavegram`, then the map of the log-mel, until both are joined.

    Raises:
        ConfigError: If the hop of the front end is not that of the wavegram.
    """

    def __init__(self, spec: ModelSpec, labels: LabelSet | None = None) -> None:
        if spec.front_end.hop_size != _HOP:
            raise ConfigError(
                f"model {spec.name}: hop_size={spec.front_end.hop_size} must be {_HOP}, the hop of the "
                "wavegram that is joined to the log-mel"
            )
        super().__init__(spec, labels)
        self.front_end = LogMel(spec.front_end)

    @property
    def _joined_channels(self) -> int:
        return self.spec.widths["conv_block1.conv2"] + self.spec.widths["pre_block4.conv2"]

    @property
    def idle_layers(self) -> tuple[str, ...]:
        """None: the log-mel passes through them."""
        return ()

    @property
    def fixed_layers(self) -> dict[str, str]:
        """The layer whose channels become rows, and `bn0`."""
        return {
            "pre_block3.conv2": _ROWS,
            "pre_block3.bn2": _ROWS,
            "bn0": "it normalises the mel bins of the front end",
        }

    def inputs_of(self, waveform: Tensor) -> Features:
        """Return the waveform, ``(batch, samples)``, and the log-mel, ``(batch, 1, time, mel)`` in dB."""
        return self.in_own_type(waveform), self.front_end(waveform)

    def input_shapes(self, samples: int) -> list[tuple[int, ...]]:
        """Return ``(1, samples)`` and ``(1, 1, time, mel)``."""
        front_end = self.spec.front_end
        return [(1, samples), (1, 1, front_end.frames(samples), front_end.mel_bins)]

    def begin(self, inputs: Features, mixup_lambda: Tensor | None = None) -> Features:
        """Normalise each mel bin, mask stripes and mix pairs of the log-mel; the waveform's are mixed later."""
        waveform, logmel = inputs
        normalised = self.bn0(logmel.transpose(1, 3)).transpose(1, 3)
        mixed = mix_pairs(self.spec_augmenter(normalised), mixup_lambda)
        return (waveform[:, None], mixed, *([] if mixup_lambda is None else [mixup_lambda]))

    def stages(self) -> list[Stage]:
        """Return a stage for each convolution; the last one on the log-mel alone joins both maps."""

        def first_on_logmel(features: Features) -> Features:
            wavegram, logmel = features
            return wavegram, self.conv_block1.step(logmel, index=1, pool=False)

        def joined(features: Features) -> Features:
            wavegram, logmel = features
            logmel = self.conv_block1.step(logmel, index=2, pool=True)
            if wavegram.shape[2] != logmel.shape[2]:  # the number of hops is odd: cut to the shorter map; PANNs fail
                frames = min(wavegram.shape[2], logmel.shape[2])
                wavegram, logmel = wavegram[:, :, :frames], logmel[:, :, :frames]
            return (dropout(torch.cat([logmel, wavegram], dim=1), 0.2, self.training),)

        return [*self._stages_on_waveform(), self._wavegram, first_on_logmel, joined, *self._stages_on_map()]


def _pair(spec: ModelSpec, block: str) -> tuple[int, int]:
    first, second = (spec.widths.get(f"{block}.conv{index}", _PUBLISHED_WIDTH) for index in (1, 2))
    return first, second
