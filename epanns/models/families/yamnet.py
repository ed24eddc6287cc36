"""YAMNet: the body of MobileNetV1 on patches of 0.96 s, each scored by itself."""

import math
from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from epanns.audio.frontend import SILENCE, YamnetLogMel, count_patches, patches_of
from epanns.audio.short_clips import pad_to_patches
from epanns.errors import ConfigError
from epanns.labels import LabelSet
from epanns.models.layers.mixup import mix_pairs
from epanns.models.layers.pooling import ModelOutput, averaged, averaged_choices, probabilities_of
from epanns.models.spec import YAMNET_STRIDES, ModelSpec
from epanns.models.tagger import Features, Stage, Tagger, on_first

BATCH_NORM_EPSILON = 1e-4


class ShiftNorm2d(nn.BatchNorm2d):
    """Batch norm over ``(batch, channels, time, mel)`` without a learned scale: ``weight`` is a constant 1.

    Args of the constructor:
        channels: Number of channels.
        eps: Added to the variance; by default that of YAMNet.
    """

    def __init__(self, channels: int, eps: float = BATCH_NORM_EPSILON) -> None:
        super().__init__(channels, eps=eps)
        del self.weight
        self.register_buffer("weight", torch.ones(channels), persistent=False)

    @property
    def is_folded(self) -> bool:
        """Whether it is folded into the convolution before it, as in some files, and is the identity.

        It has counted no batch, and its variance is not the 1 of a new batch norm.
        """
        seen, variance = self.get_buffer("num_batches_tracked"), self.get_buffer("running_var")
        return not seen.is_meta and int(seen) == 0 and bool((variance != 1).any())

    def train(self, mode: bool = True) -> "ShiftNorm2d":
        """Set the mode; a folded batch norm stays in evaluation mode, because statistics of batches would change it."""
        super().train(mode and not self.is_folded)
        return self

    def __setattr__(self, name: str, value: Any) -> None:
        """Keep the scale a constant when pruning replaces it by a parameter."""
        super().__setattr__(name, value.detach() if name == "weight" else value)


BODY = "layer"  # prefix of the names of the body's modules
_KERNEL = 3


class SeparableLayer(nn.Module):
    """A depthwise and a pointwise convolution, each with batch norm and ReLU.

    Args of the constructor:
        in_channels: Input channels.
        width: Output channels.
        stride: Stride of the depthwise convolution.
    """

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.depthwise_conv = _convolution(in_channels, in_channels, _KERNEL, stride, groups=in_channels)
        self.depthwise_bn = ShiftNorm2d(in_channels)
        self.pointwise_conv = _convolution(in_channels, width, 1, 1)
        self.pointwise_bn = ShiftNorm2d(width)

    def filtered(self, features: Tensor) -> Tensor:
        """Filter each channel by itself."""
        return F.relu(self.depthwise_bn(self.depthwise_conv(_padded(features, self.depthwise_conv))), inplace=True)

    def mixed(self, features: Tensor) -> Tensor:
        """Mix the channels at each place."""
        return F.relu(self.pointwise_bn(self.pointwise_conv(features)), inplace=True)


class FirstLayer(nn.Module):
    """A convolution of the log-mel to `width` channels, with batch norm and ReLU."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.conv = _convolution(1, width, _KERNEL, stride)
        self.bn = ShiftNorm2d(width)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(batch, 1, time, mel)``."""
        return F.relu(self.bn(self.conv(_padded(features, self.conv))), inplace=True)


class YamnetBody(Tagger):
    """YAMNet up to the mean over a patch: 14 layers with 27 convolutions; base of YAMNet and LEAN.

    A clip is split into segments of 96 frames, each of which is scored by itself; the clip's probabilities are the
    means over its segments. Layers have the names of Google's code. Padding is TensorFlow's "same": at stride 2 and
    even sizes, only at the end of each axis. There is no dropout.
    """

    def __init__(self, spec: ModelSpec, labels: LabelSet | None = None) -> None:
        super().__init__(spec, labels)
        self.front_end = YamnetLogMel(spec.front_end)
        channels, *widths = spec.widths.values()
        self.layer1 = FirstLayer(channels, YAMNET_STRIDES[0])
        for number, (width, stride) in enumerate(zip(widths, YAMNET_STRIDES[1:], strict=True), start=2):
            self.add_module(f"layer{number}", SeparableLayer(channels, width, stride))
            channels = width

    @property
    def depthwise_layers(self) -> tuple[str, ...]:
        """See `Tagger`."""
        return tuple(f"layer{number}.depthwise_conv" for number in range(2, len(YAMNET_STRIDES) + 1))

    @abstractmethod
    def count_segments(self, inputs: Features) -> int:
        """Return the number of segments of each clip, from the output of `inputs_of`."""

    def stages(self) -> list[Stage]:
        """Return a stage for each convolution; features beside the map of the log-mel are passed on unchanged."""
        parts: list[Callable[[Tensor], Tensor]] = [self.layer1]
        for number in range(2, len(YAMNET_STRIDES) + 1):
            layer = self.get_submodule(f"layer{number}")
            assert isinstance(layer, SeparableLayer)
            parts += [layer.filtered, layer.mixed]
        return [partial(on_first, part) for part in parts]

    def masked(self, logmel: Tensor) -> Tensor:
        """Return a log-mel ``(batch, ..., time, mel)``, in training mode with SpecAugment's stripes set to silence."""
        return self.spec_augmenter(logmel - SILENCE) + SILENCE if self.spec_augmenter.training else logmel

    def freeze_yamnet(self) -> None:
        """Freeze the parameters of the body and the statistics of its batch norms."""
        for name, parameter in self.named_parameters():
            if name.startswith(BODY):
                parameter.requires_grad_(False)
        self.train(self.training)

    def pooled(self, features: Features) -> Tensor:
        """Return the mean over time and mel of each segment, ``(segments, channels)``."""
        return features[0].mean(dim=(2, 3))

    def hidden(self, features: Features) -> Tensor:
        """Return the embedding of each segment, ``(segments, embedding_size)``."""
        return self.pooled(features)

    def head(self, features: Features, inputs: Features) -> ModelOutput:
        """Return the scores of the clips, and the mean embedding of their segments."""
        hidden = self.hidden(features)
        logits = self.fc_audioset(hidden)
        segments, activation = self.count_segments(inputs), self.spec.activation
        if segments == 1:
            scores = probabilities_of(logits, activation)
            return ModelOutput(clipwise_logits=logits, clipwise_output=scores, embedding=hidden)
        average = averaged_choices if activation == "softmax" else averaged
        clipwise_logits, clipwise_output = average(logits.reshape(-1, segments, logits.shape[1]))
        embedding = hidden.reshape(-1, segments, hidden.shape[1]).mean(dim=1)
        return ModelOutput(clipwise_logits=clipwise_logits, clipwise_output=clipwise_output, embedding=embedding)


def yamnet_body(model: Tagger) -> YamnetBody:
    """Return `model`, which must be built on YAMNet's body.

    Raises:
        ConfigError: If it is not.
    """
    if not isinstance(model, YamnetBody):
        raise ConfigError(f"freeze_yamnet: {model.spec.name} is not built on YAMNet's body (--freeze-yamnet)")
    return model


class Yamnet(YamnetBody):
    """YAMNet of Plakal and Ellis (tensorflow/models, `research/audioset/yamnet`).

    Segments are patches of 0.96 s, every 0.48 s. A clip is padded with silence to 0.975 s or to the end of the last
    patch, and never repeated. The classifier reads the pooled channels of the last layer: pruning that layer shrinks
    the embedding.
    """

    def __init__(self, spec: ModelSpec, labels: LabelSet | None = None) -> None:
        super().__init__(spec, labels)
        self.add_classifier(spec)

    @property
    def minimum_samples(self) -> int:
        """1: short clips are padded, never repeated."""
        return 1

    def inputs_of(self, waveform: Tensor) -> Features:
        """Return the log-mel, ``(batch, 1, time, mel)``, of whole patches."""
        return (self.front_end(pad_to_patches(waveform, self.spec.front_end))[:, None],)

    def input_shapes(self, samples: int) -> list[tuple[int, ...]]:
        """Return ``(1, 1, time, mel)``."""
        front_end = self.spec.front_end
        return [(1, 1, front_end.frames(samples), front_end.mel_bins)]

    def count_segments(self, inputs: Features) -> int:
        """Return the number of patches of each clip."""
        (logmel,) = inputs
        return count_patches(logmel.shape[2])

    def begin(self, inputs: Features, mixup_lambda: Tensor | None = None) -> Features:
        """Mask stripes, mix pairs and cut patches, ``(batch * patches, 1, 96, mel)``."""
        (logmel,) = inputs
        return (patches_of(mix_pairs(self.masked(logmel), mixup_lambda)),)


def _convolution(in_channels: int, width: int, kernel_size: int, stride: int, *, groups: int = 1) -> nn.Conv2d:
    """Return a convolution without bias, Xavier uniform as in Keras; at stride 2 its input is padded by `_padded`."""
    padding = kernel_size // 2 if stride == 1 else 0
    conv = nn.Conv2d(in_channels, width, kernel_size, stride, padding, groups=groups, bias=False)
    nn.init.xavier_uniform_(conv.weight)
    return conv


def _padded(features: Tensor, conv: nn.Conv2d) -> Tensor:
    """Pad ``(batch, channels, time, mel)`` as TensorFlow's "same" does before a convolution that strides."""
    (stride, _) = conv.stride
    if stride == 1:
        return features
    rows, columns = (max(0, (math.ceil(size / stride) - 1) * stride + _KERNEL - size) for size in features.shape[2:])
    return F.pad(features, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
