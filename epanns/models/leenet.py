"""LeeNet11 and LeeNet24: chains of short convolutions on the waveform, time cut to a third again and again."""

import functools
from itertools import groupby

import torch.nn.functional as F
from torch import Tensor, nn

from epanns.clip_random import dropout
from epanns.labels import LabelSet
from epanns.models.blocks import linear
from epanns.models.spec import ModelSpec
from epanns.models.tagger import Features, Stage
from epanns.models.waveform_tagger import WaveformTagger, conv1d


class LeeNetBlock(nn.Module):
    """One or two convolutions of three samples, each with batch norm and ReLU.

    Args of the constructor:
        in_channels: Channels that come in.
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
        """Do convolution `index`, from 1, with its batch norm and ReLU."""
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
        self.fc_audioset = linear(spec.embedding_size, spec.num_classes)

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
            stages += [functools.partial(self._stage, block, index) for index in range(1, block.depth)]
            stages.append(functools.partial(self._stage, block, block.depth, pools=pools, drops=drops))
        return stages

    def _stage(
        self, block: LeeNetBlock, index: int, features: Features, *, pools: bool = False, drops: float = 0.0
    ) -> Features:
        (last,) = features
        last = block.step(last, index=index)
        if pools:
            last = F.max_pool1d(last, 3, padding=1)
        return (dropout(last, drops, self.training),)
