"""MobileNetV1, MobileNetV2 and every pruned version: depthwise convolutions between pointwise ones."""

from collections.abc import Iterable
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from epanns.labels import LabelSet
from epanns.models.layers.convolution import convolution, linear
from epanns.models.spec import INVERTED_GROUPS, SEPARABLE_POOLS, ModelSpec
from epanns.models.tagger import Features, LogMelTagger, Stage

Activation = type[nn.ReLU] | type[nn.ReLU6]


def _pooled_convolution(
    in_channels: int, width: int, pool: int, activation: Activation, *, groups: int = 1
) -> list[nn.Module]:
    """Return a 3x3 convolution with average pooling, batch norm and activation, in PANNs' order."""
    conv = convolution(in_channels, width, 3, groups=groups)
    return [conv, nn.AvgPool2d(pool), nn.BatchNorm2d(width), activation(inplace=True)]


def _pointwise(in_channels: int, width: int, activation: Activation | None) -> list[nn.Module]:
    """Return a 1x1 convolution with batch norm and activation, or without one."""
    conv = [convolution(in_channels, width, 1), nn.BatchNorm2d(width)]
    return conv if activation is None else [*conv, activation(inplace=True)]


def _through(modules: Iterable[nn.Module], features: Features) -> Features:
    (last,) = features
    for module in modules:
        last = module(last)
    return (last,)


class MobileNetV1(LogMelTagger):
    """A convolution, then thirteen blocks of a depthwise and a pointwise convolution."""

    pools = 5

    def __init__(self, spec: ModelSpec, labels: LabelSet | None = None) -> None:
        super().__init__(spec, labels)
        channels, *widths = spec.widths.values()
        blocks = [_pooled_convolution(1, channels, 2, nn.ReLU)]
        for width, pool in zip(widths, SEPARABLE_POOLS, strict=True):
            depthwise = _pooled_convolution(channels, channels, pool, nn.ReLU, groups=channels)
            blocks.append(depthwise + _pointwise(channels, width, nn.ReLU))
            channels = width
        self.features = nn.Sequential(*(nn.Sequential(*block) for block in blocks))
        self.fc1 = linear(channels, spec.embedding_size)
        self.fc_audioset = linear(spec.embedding_size, spec.num_classes)

    @property
    def depthwise_layers(self) -> tuple[str, ...]:
        """See `Tagger`."""
        return tuple(f"features.{block}.0" for block in range(1, len(self.features)))

    def stages(self) -> list[Stage]:
        """Return a stage for each convolution."""
        first, *blocks = (list(block.children()) for block in self.features)
        parts = [part for block in blocks for part in (block[:4], block[4:])]
        return [partial(_through, part) for part in (first, *parts)]


class InvertedResidual(nn.Module):
    """A pointwise, a depthwise and a pointwise convolution, with an optional shortcut.

    Args of the constructor:
        in_channels: Input channels.
        expanded: Channels of the depthwise convolution; None leaves out the first convolution.
        width: Output channels.
        pool: Pooling factor of time and mel.
        adds: Whether the input is added to the output.
    """

    def __init__(self, in_channels: int, expanded: int | None, width: int, *, pool: int, adds: bool) -> None:
        super().__init__()
        self.adds = adds
        inner = in_channels if expanded is None else expanded
        self.conv = nn.Sequential(
            *(_pointwise(in_channels, expanded, nn.ReLU6) if expanded is not None else ()),
            *_pooled_convolution(inner, inner, pool, nn.ReLU6, groups=inner),
            *_pointwise(inner, width, None),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(batch, channels, time, mel)``."""
        convolved: Tensor = self.conv(features)
        return features + convolved if self.adds else convolved


class MobileNetV2(LogMelTagger):
    """A convolution, then seventeen inverted residuals, then a pointwise convolution."""

    pools = 5

    def __init__(self, spec: ModelSpec, labels: LabelSet | None = None) -> None:
        super().__init__(spec, labels)
        channels = spec.widths["features.0.0"]
        blocks: list[nn.Module] = [nn.Sequential(*_pooled_convolution(1, channels, 2, nn.ReLU6))]
        for depth, pool in INVERTED_GROUPS:
            name = f"features.{len(blocks)}"
            width = spec.widths.get(f"{name}.conv.7") or spec.widths[f"{name}.conv.4"]
            for index in range(depth):
                expanded = spec.widths.get(f"features.{len(blocks)}.conv.0")
                starts = index == 0
                block = InvertedResidual(channels, expanded, width, pool=pool if starts else 1, adds=not starts)
                blocks.append(block)
                channels = width
        last = spec.widths[f"features.{len(blocks)}.0"]
        blocks.append(nn.Sequential(*_pointwise(channels, last, nn.ReLU6)))
        self.features = nn.Sequential(*blocks)
        self.fc1 = linear(last, spec.embedding_size)
        self.fc_audioset = linear(spec.embedding_size, spec.num_classes)

    @property
    def depthwise_layers(self) -> tuple[str, ...]:
        """See `Tagger`."""
        blocks = range(1, len(self.features) - 1)
        return tuple(f"features.{block}.conv.{0 if block == 1 else 3}" for block in blocks)

    def stages(self) -> list[Stage]:
        """Return a stage for the first and the last convolution and for each inverted residual."""
        return [partial(_through, (block,)) for block in self.features]

    def hidden(self, features: Features) -> Tensor:
        """Return the embedding; unlike other networks, MobileNetV2 has no dropout before `fc1`."""
        return F.relu(self.fc1(self.pooled(features)))
