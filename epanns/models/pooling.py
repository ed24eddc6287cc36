"""From a feature map to scores: pooling over time before or after the classifier."""

from typing import NotRequired, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Probabilities of decision-level heads are turned back into logits; this keeps them finite in float32.
_LOGIT_EPSILON = 1e-6


class ModelOutput(TypedDict):
    """What every tagger returns.

    ``clipwise_logits`` and ``clipwise_output`` ``(batch, classes)``, before and after the sigmoid; ``embedding``
    ``(batch, embedding_size)``; ``framewise_output`` ``(batch, frames, classes)``, one row per log-mel frame, for
    decision-level heads only.
    """

    clipwise_logits: Tensor
    clipwise_output: Tensor
    embedding: Tensor
    framewise_output: NotRequired[Tensor]


def pool_clip(features: Tensor) -> Tensor:
    """Pool ``(batch, channels, time, mel)`` to ``(batch, channels)``: mean over mel, then max plus mean over time."""
    over_time = features.mean(dim=3)
    return over_time.amax(dim=2) + over_time.mean(dim=2)


def smooth_time(features: Tensor) -> Tensor:
    """Pool ``(batch, channels, time, mel)`` to ``(batch, channels, time)``: mean over mel, then max plus mean of 3."""
    over_time = features.mean(dim=3)
    return F.max_pool1d(over_time, 3, stride=1, padding=1) + F.avg_pool1d(over_time, 3, stride=1, padding=1)


def stretch_to_frames(segmentwise: Tensor, frames: int, ratio: int) -> Tensor:
    """Repeat each segment `ratio` times and pad with the last one to `frames`.

    ``segmentwise (batch, segments, classes)`` becomes ``(batch, frames, classes)``: segment ``s`` covers the frames
    ``[s * ratio, (s + 1) * ratio)``, and the poolings' rounding leaves up to ``ratio - 1`` frames at the end over.
    """
    stretched = segmentwise.repeat_interleave(ratio, dim=1)
    missing = frames - stretched.shape[1]
    return torch.cat([stretched, stretched[:, -1:].expand(-1, missing, -1)], dim=1) if missing > 0 else stretched


class AttentionBlock(nn.Module):
    """PANNs' ``AttBlock``: classes attend over time. Module names are those of the released weights."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.att = nn.Conv1d(inputs, classes, 1)
        self.cla = nn.Conv1d(inputs, classes, 1)
        self.bn_att = nn.BatchNorm1d(classes)  # unused in PANNs' forward pass too; kept because the files hold it
        for conv in (self.att, self.cla):
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(nn.Module.get_parameter(conv, "bias"))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``(batch, inputs, segments)`` to probabilities ``(batch, classes)``, ``(batch, segments, classes)``."""
        attention = self.att(features).clamp(-10, 10).softmax(dim=-1)
        segmentwise = self.cla(features).sigmoid()
        return (attention * segmentwise).sum(dim=2), segmentwise.transpose(1, 2)


def logits_of(probabilities: Tensor) -> Tensor:
    """Return finite logits of probabilities that are not a single sigmoid's output."""
    return torch.logit(probabilities, eps=_LOGIT_EPSILON)
