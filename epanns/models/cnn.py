"""The Cnn family: Cnn6, Cnn10, Cnn14, every variant of theirs, and every pruned version, in one class."""

import functools
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from epanns.audio.frontend import LogMel, repeat_to_minimum
from epanns.audio.specaugment import SpecAugmenter
from epanns.errors import CheckpointError, ConfigError
from epanns.labels import LabelSet
from epanns.models.blocks import ConvBlock, linear
from epanns.models.frozen_front_end import FRONT_END_NAMES, check_front_end
from epanns.models.pooling import AttentionBlock, ModelOutput, averaged, pool_clip, smooth_time, stretch_to_frames
from epanns.models.spec import ModelSpec


class Cnn(nn.Module):
    """Log-mel CNN of Kong et al. (2020) with any number of blocks and any widths.

    Module names are those of the released PANNs weights, which therefore load as they are.

    Attributes:
        spec: What was built; pruning replaces it.
        labels: Names of the classes, in output order.
        provenance: Where the weights come from; kept in checkpoints.
    """

    def __init__(self, spec: ModelSpec, labels: LabelSet | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.labels = labels or LabelSet.numbered(spec.num_classes)
        self.provenance: dict[str, Any] = {}
        self.front_end = LogMel(spec.front_end)
        self.spec_augmenter = SpecAugmenter()
        self.bn0 = nn.BatchNorm2d(spec.front_end.mel_bins)
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
        self.register_load_state_dict_pre_hook(_check_and_drop_front_end)  # type: ignore[no-untyped-call]

    @property
    def conv_names(self) -> tuple[str, ...]:
        """Names of the convolutions in forward order."""
        return tuple(self.spec.widths)

    @property
    def classifier_names(self) -> tuple[str, ...]:
        """Names of the modules whose outputs are classes."""
        return ("att_block.att", "att_block.cla", "att_block.bn_att") if self._attends else ("fc_audioset",)

    @property
    def _attends(self) -> bool:
        return self.spec.head == "decision_att"

    @property
    def n_blocks(self) -> int:
        """Number of convolution blocks."""
        return len({name.split(".")[0] for name in self.spec.widths})

    @property
    def pools(self) -> int:
        """How often time and mel are halved; Cnn14's sixth block does not pool."""
        return min(self.n_blocks, 5)

    @property
    def minimum_samples(self) -> int:
        """Shortest clip the network takes as it is; shorter ones are repeated from their start to this length.

        Cnn14 at 32 kHz: 32 frames for five poolings, 9,920 samples, 0.31 s.
        """
        frames: int = 2**self.pools
        front_end = self.spec.front_end
        reflected = front_end.window_size // 2 + 1  # the front end mirrors half a window at both ends
        return max((frames - 1) * front_end.hop_size, reflected)

    def blocks(self) -> Iterator[tuple[ConvBlock, bool]]:
        """Yield each convolution block and whether it pools."""
        for index in range(1, self.n_blocks + 1):
            block = self.get_submodule(f"conv_block{index}")
            assert isinstance(block, ConvBlock)
            yield block, index <= self.pools

    def steps(self) -> list[Callable[[Tensor], Tensor]]:
        """Return what each convolution of `conv_names` does, batch norm, ReLU and pooling included, dropout not."""
        return [
            functools.partial(block.step, index=index, pool=pools and index == block.depth)
            for block, pools in self.blocks()
            for index in range(1, block.depth + 1)
        ]

    def features_of(self, waveform: Tensor) -> Tensor:
        """Return what the first convolution reads, ``(batch, 1, time, mel)``; `waveform` as in `forward`."""
        logmel = self.front_end(repeat_to_minimum(waveform, self.minimum_samples))
        features: Tensor = self.bn0(logmel.transpose(1, 3)).transpose(1, 3)
        return features

    def pooled(self, features: Tensor) -> Tensor:
        """Return what `fc1` reads of the last convolution's features: ``(batch, channels)``, or segments of them."""
        return pool_clip(features) if self.spec.head == "clip" else smooth_time(features).transpose(1, 2)

    def forward(self, waveform: Tensor, mixup_lambda: Tensor | None = None) -> ModelOutput:
        """Tag clips.

        Args:
            waveform: ``(batch, samples)`` float32 in [-1, 1] at ``spec.front_end.sample_rate``, of any length >= 1;
                clips shorter than `minimum_samples` are repeated to that length.
            mixup_lambda: ``(batch / 2,)`` in [0, 1]; mixes the log-mel of clip 2i with that of clip 2i + 1, so that
                the output has half the batch.
        """
        return self.forward_logmel(self.front_end(repeat_to_minimum(waveform, self.minimum_samples)), mixup_lambda)

    def forward_logmel(self, logmel: Tensor, mixup_lambda: Tensor | None = None) -> ModelOutput:
        """Tag clips from their log-mel ``(batch, 1, time, mel)`` in dB; the rest as in `forward`."""
        features = self.bn0(logmel.transpose(1, 3)).transpose(1, 3)
        features = self.spec_augmenter(features)
        if mixup_lambda is not None:
            if mixup_lambda.shape != (len(features) / 2,):
                raise ConfigError(
                    f"mixup_lambda of shape {tuple(mixup_lambda.shape)} for {len(features)} clips: give one per pair"
                )
            weight = mixup_lambda.to(features)[:, None, None, None]
            features = features[0::2] * weight + features[1::2] * (1 - weight)
        for block, pools in self.blocks():
            features = F.dropout(block(features, pool=pools), 0.2, self.training)  # (batch, channels, time, mel)
        if self.spec.head == "clip":
            return self._clip_head(features)
        return self._decision_head(features, frames=logmel.shape[2])

    def _clip_head(self, features: Tensor) -> ModelOutput:
        hidden = F.relu(self.fc1(F.dropout(self.pooled(features), 0.5, self.training)))
        logits = self.fc_audioset(hidden)
        # PANNs drop out the embedding they return, not the one the classifier reads.
        embedding = F.dropout(hidden, 0.5, self.training)
        return ModelOutput(clipwise_logits=logits, clipwise_output=logits.sigmoid(), embedding=embedding)

    def _decision_head(self, features: Tensor, frames: int) -> ModelOutput:
        over_time = F.dropout(self.pooled(features), 0.5, self.training)  # (batch, segments, channels)
        hidden = F.relu(self.fc1(over_time))
        dropped = F.dropout(hidden, 0.5, self.training)
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
        return ModelOutput(
            clipwise_logits=logits,
            clipwise_output=clipwise,
            embedding=hidden.mean(dim=1),
            framewise_output=stretch_to_frames(segment_logits.sigmoid(), frames, 2**self.pools),
        )

    def reset_classifier(self, num_classes: int, labels: LabelSet | None = None) -> None:
        """Replace the classifier by a fresh one for other classes; all other weights stay.

        Raises:
            ConfigError: If `labels` are not `num_classes` long.
        """
        if labels is not None and len(labels) != num_classes:
            raise ConfigError(f"{len(labels)} labels for num_classes={num_classes}: give one label per class")
        spec = self.spec.with_num_classes(num_classes)  # refuses what is no number of classes before anything changes
        size, device = self.spec.embedding_size, next(self.parameters()).device
        if self._attends:
            self.att_block = AttentionBlock(size, num_classes).to(device).train(self.training)
        else:
            self.fc_audioset = linear(size, num_classes).to(device).train(self.training)
        self.spec = spec
        self.labels = labels or LabelSet.numbered(num_classes)

    def train(self, mode: bool = True) -> "Cnn":
        """Set the mode; batch norms that may not learn stay in evaluation mode, or their statistics would drift."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and not module.weight.requires_grad:
                module.eval()
        return self

    def freeze_backbone(self) -> None:
        """Stop every parameter but the classifier's from learning, and fix the batch norms' statistics."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.startswith(("fc_audioset.", "att_block.")))
        self.train(self.training)


def _check_and_drop_front_end(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: object) -> None:
    """Let released state dicts load as they are: their front-end tensors are checked against ours and left out."""
    assert isinstance(module, Cnn)
    front_end = module.spec.front_end
    given = {name: state_dict.pop(prefix + name) for name in FRONT_END_NAMES if prefix + name in state_dict}
    if given and (problem := check_front_end(given, front_end)):
        raise CheckpointError(f"{module.spec.name}: {problem}")
