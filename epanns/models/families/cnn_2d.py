"""Cnn6, Cnn10 and Cnn14, ResNets and MobileNets: two-dimensional convolutions on the log-mel, at any widths."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby

import torch.nn.functional as F
from torch import Tensor, nn

from epanns.clip_random import dropout
from epanns.labels import LabelSet
from epanns.models.layers.convolution import ConvBlock, convolution, linear
from epanns.models.layers.pooling import (
    AttentionBlock,
    ModelOutput,
    averaged,
    pool_clip,
    smooth_time,
    stretch_to_frames,
)
from epanns.models.spec import INVERTED_GROUPS, RESNETS, SEPARABLE_POOLS, ModelSpec
from epanns.models.tagger import Features, LogMelTagger, Stage, on_first


class Cnn(LogMelTagger):
    """Log-mel CNN of Kong et al. (2020) with any number of blocks and any widths."""

    def __init__(self, spec: ModelSpec, labels: LabelSet | None = None) -> None:
        super().__init__(spec, labels)
        channels = 1
        for name, group in groupby(spec.widths.items(), key=lambda item: item[0].split(".")[0]):
            widths = [width for _, width in group]
            self.add_module(name, ConvBlock(channels, widths, spec.kernel_size))
            channels = widths[-1]
        self.fc1 = linear(channels, spec.embedding_size)
        self.add_classifier(spec)

    def add_classifier(self, spec: ModelSpec) -> None:
        """Add the classifier, or PANNs' attention if the head attends."""
        if self._attends:
            device = next(self.parameters()).device
            self.att_block = AttentionBlock(spec.embedding_size, spec.num_classes).to(device).train(self.training)
        else:
            super().add_classifier(spec)

    @property
    def classifier_names(self) -> tuple[str, ...]:
        """Names of the modules whose outputs are classes."""
        return ("att_block.att", "att_block.cla", "att_block.bn_att") if self._attends else ("fc_audioset",)

    @property
    def idle_layers(self) -> tuple[str, ...]:
        """The batch norm in PANNs' attention, which no forward pass uses."""
        return ("att_block.bn_att",) if self._attends else ()

    @property
    def _attends(self) -> bool:
        return self.spec.head == "decision_att"

    @property
    def n_blocks(self) -> int:
        """Number of convolution blocks."""
        return len({name.split(".")[0] for name in self.spec.widths})

    @property
    def pools(self) -> int:  # type: ignore[override]
        """Number of poolings; the sixth block of Cnn14 does not pool."""
        return min(self.n_blocks, 5)

    def blocks(self) -> Iterator[tuple[ConvBlock, bool]]:
        """Yield each convolution block and whether it pools."""
        for index in range(1, self.n_blocks + 1):
            block = self.get_submodule(f"conv_block{index}")
            assert isinstance(block, ConvBlock)
            yield block, index <= self.pools

    def stages(self) -> list[Stage]:
        """Return a stage for each convolution."""
        return [partial(on_first, step) for block, pools in self.blocks() for step in block.steps(pools=pools)]

    def pooled(self, features: Features) -> Tensor:
        """Return the input of `fc1`: ``(batch, channels)``, or ``(batch, segments, channels)`` for decision levels."""
        (last,) = features  # (batch, channels, time, mel)
        return pool_clip(last) if self.spec.head == "clip" else smooth_time(last).transpose(1, 2)

    def head(self, features: Features, inputs: Features) -> ModelOutput:
        """Return the scores of clips; decision-level heads also score each frame of the log-mel."""
        if self.spec.head == "clip":
            return super().head(features, inputs)
        hidden = self.hidden(features)  # (batch, segments, embedding_size)
        dropped = dropout(hidden, 0.5, self.training)
        if self._attends:
            segment_logits, log_weights = self.att_block(dropped.transpose(1, 2))
            logits, clipwise = averaged(segment_logits, log_weights)
        else:
            segment_logits = self.fc_audioset(dropped)
            if self.spec.head == "decision_max":
                logits = segment_logits.amax(dim=1)
                clipwise = logits.sigmoid()
            else:
                logits, clipwise = averaged(segment_logits)
        (logmel,) = inputs
        return ModelOutput(
            clipwise_logits=logits,
            clipwise_output=clipwise,
            embedding=hidden.mean(dim=1),
            framewise_output=stretch_to_frames(segment_logits.sigmoid(), logmel.shape[2], 2**self.pools),
        )


class ResidualBlock(nn.Module):
    """Convolutions with a shortcut; attribute names are those of released PANNs weights.

    Args of the constructor:
        in_channels: Input channels.
        widths: Output channels of each convolution: two of 3x3, or 1x1, 3x3 and 1x1.
        halves: Whether time and mel are halved.
        projects: Whether the shortcut has a 1x1 convolution; required with `halves` or if the widths differ.
    """

    def __init__(self, in_channels: int, widths: Sequence[int], *, halves: bool, projects: bool) -> None:
        super().__init__()
        self.depth, self.halves = len(widths), halves
        kernel_sizes = (3, 3) if self.depth == 2 else (1, 3, 1)
        channels = in_channels
        for index, (width, kernel_size) in enumerate(zip(widths, kernel_sizes, strict=True), start=1):
            self.add_module(f"conv{index}", convolution(channels, width, kernel_size))
            self.add_module(f"bn{index}", nn.BatchNorm2d(width))
            channels = width
        pooling = [nn.AvgPool2d(2)] if halves else []
        projection = (convolution(in_channels, channels, 1), nn.BatchNorm2d(channels)) if projects else ()
        self.downsample = nn.Sequential(*pooling, *projection) if projects else None
        self.relu = nn.ReLU(inplace=True)
        nn.init.zeros_(self.get_parameter(f"bn{self.depth}.weight"))  # so that a new block is the identity

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(batch, channels, time, mel)`` to the same, or to half the time and mel."""
        inner = F.avg_pool2d(features, 2) if self.halves else features
        for index in range(1, self.depth):
            inner = self.relu(self._normed(inner, index))
        inner = self._normed(dropout(inner, 0.1, self.training), self.depth)
        added = features if self.downsample is None else self.downsample(features)
        return self.relu(inner + added)  # type: ignore[no-any-return]

    def _normed(self, features: Tensor, index: int) -> Tensor:
        conv, norm = self.get_submodule(f"conv{index}"), self.get_submodule(f"bn{index}")
        return norm(conv(features))  # type: ignore[no-any-return]


class ResNet(LogMelTagger):
    """Log-mel ResNet of Kong et al. (2020): two convolutions, four layers of residual blocks, two convolutions."""

    pools = 5

    def __init__(self, spec: ModelSpec, labels: LabelSet | None = None) -> None:
        super().__init__(spec, labels)
        depths, convs = RESNETS[spec.family]
        stem = [spec.widths[f"conv_block1.conv{index}"] for index in (1, 2)]
        self.conv_block1 = ConvBlock(1, stem, 3)
        stream = stem[-1]
        self.resnet = nn.ModuleDict()
        for layer, depth in enumerate(depths, start=1):
            name = f"resnet.layer{layer}"
            in_channels, stream = stream, spec.widths.get(f"{name}.0.conv{convs}", stream)
            blocks = []
            for block in range(depth):
                inner = [spec.widths[f"{name}.{block}.conv{index}"] for index in range(1, convs)]
                starts = block == 0
                halves = starts and layer > 1
                projects = starts and f"{name}.0.conv{convs}" in spec.widths
                blocks.append(
                    ResidualBlock(in_channels if starts else stream, [*inner, stream], halves=halves, projects=projects)
                )
            self.resnet[f"layer{layer}"] = nn.Sequential(*blocks)
        widths = [spec.widths[f"conv_block_after1.conv{index}"] for index in (1, 2)]
        self.conv_block_after1 = ConvBlock(stream, widths, 3)
        self.fc1 = linear(widths[-1], spec.embedding_size)
        self.add_classifier(spec)

    def blocks(self) -> Iterator[ResidualBlock]:
        """Yield the residual blocks, in forward order."""
        for layer in self.resnet.values():
            for block in layer.children():
                assert isinstance(block, ResidualBlock)
                yield block

    def stages(self) -> list[Stage]:
        """Return a stage for each convolution before and after the residual blocks, and for each of these."""
        *blocks, last = self.blocks()

        def halved(features: Tensor) -> Tensor:
            return dropout(F.avg_pool2d(last(features), 2), 0.2, self.training)

        steps: list[Callable[[Tensor], Tensor]] = [*self.conv_block1.steps(pools=True), *blocks, halved]
        return [partial(on_first, step) for step in (*steps, *self.conv_block_after1.steps(pools=False))]


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
        self.add_classifier(spec)

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
        self.add_classifier(spec)

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
