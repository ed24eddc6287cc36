"""The Cnn family: Cnn6, Cnn10, Cnn14 and their variants, at any widths."""

import functools
from collections.abc import Iterator
from itertools import groupby

from torch import Tensor

from epanns.clip_random import dropout
from epanns.labels import LabelSet
from epanns.models.layers.convolution import ConvBlock, linear
from epanns.models.layers.pooling import (
    AttentionBlock,
    ModelOutput,
    averaged,
    pool_clip,
    smooth_time,
    stretch_to_frames,
)
from epanns.models.spec import ModelSpec
from epanns.models.tagger import Features, LogMelTagger, Stage


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
        if spec.head == "decision_att":
            self.att_block = AttentionBlock(spec.embedding_size, spec.num_classes)
        else:
            self.fc_audioset = linear(spec.embedding_size, spec.num_classes)

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
        return [
            functools.partial(self._stage, block, index, pools)
            for block, pools in self.blocks()
            for index in range(1, block.depth + 1)
        ]

    def _stage(self, block: ConvBlock, index: int, pools: bool, features: Features) -> Features:
        is_last = index == block.depth
        (last,) = features
        last = block.step(last, index=index, pool=pools and is_last)
        return (dropout(last, 0.2, self.training) if is_last else last,)

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

    def _new_classifier(self, spec: ModelSpec) -> None:
        if not self._attends:
            super()._new_classifier(spec)
            return
        device = next(self.parameters()).device
        self.att_block = AttentionBlock(spec.embedding_size, spec.num_classes).to(device).train(self.training)
