"""ResNet22, ResNet38, ResNet54 and every pruned version, in one class."""

from collections.abc import Iterator, Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from epanns.clip_random import dropout
from epanns.labels import LabelSet
from epanns.models.layers.convolution import ConvBlock, convolution, linear
from epanns.models.spec import RESNETS, ModelSpec
from epanns.models.tagger import Features, LogMelTagger, Stage


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
        self.fc_audioset = linear(spec.embedding_size, spec.num_classes)

    def blocks(self) -> Iterator[ResidualBlock]:
        """Yield the residual blocks, in forward order."""
        for layer in self.resnet.values():
            for block in layer.children():
                assert isinstance(block, ResidualBlock)
                yield block

    def stages(self) -> list[Stage]:
        """Return a stage for each convolution before and after the residual blocks, and for each of these."""
        first, last = self.conv_block1, self.conv_block_after1
        *blocks, last_block = self.blocks()
        return [
            partial(self._convolve, first, 1),
            partial(self._convolve, first, 2, pools=True),
            *(partial(self._add, block) for block in blocks),
            partial(self._add, last_block, is_last=True),
            partial(self._convolve, last, 1),
            partial(self._convolve, last, 2),
        ]

    def _convolve(self, block: ConvBlock, index: int, features: Features, *, pools: bool = False) -> Features:
        convolved = block.step(*features, index=index, pool=pools)
        return (dropout(convolved, 0.2, self.training) if index == block.depth else convolved,)

    def _add(self, block: ResidualBlock, features: Features, *, is_last: bool = False) -> Features:
        added = block(*features)
        return (dropout(F.avg_pool2d(added, 2), 0.2, self.training) if is_last else added,)
