"""From a feature map to scores: pooling over time before or after the classifier."""

from typing import NotRequired, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ModelOutput(TypedDict):
    """Output of every tagger.

    ``clipwise_logits`` and ``clipwise_output`` ``(batch, classes)``, before and after the sigmoid, or the softmax of
    single-label networks; ``embedding`` ``(batch, embedding_size)``; ``framewise_output`` ``(batch, frames, classes)``,
    one row per log-mel frame, for decision-level heads only; ``hidden`` is the embedding before the dropout that PANNs
    put on the one they return, where the family has it.
    """

    clipwise_logits: Tensor
    clipwise_output: Tensor
    embedding: Tensor
    framewise_output: NotRequired[Tensor]
    hidden: NotRequired[Tensor]


def probabilities_of(logits: Tensor, activation: str) -> Tensor:
    """Return scores in [0, 1] of logits ``(..., classes)``; `activation` is that of the network's `ModelSpec`."""
    return logits.softmax(dim=-1) if activation == "softmax" else logits.sigmoid()


def pool_clip(features: Tensor) -> Tensor:
    """Pool ``(batch, channels, time, mel)`` to ``(batch, channels)``: mean over mel, then max plus mean over time."""
    return pool_time(features.mean(dim=3))


def pool_time(features: Tensor) -> Tensor:
    """Pool ``(batch, channels, time)`` to ``(batch, channels)``: max plus mean over time."""
    return features.amax(dim=2) + features.mean(dim=2)


def smooth_time(features: Tensor) -> Tensor:
    """Pool ``(batch, channels, time, mel)`` to ``(batch, channels, time)``: mean over mel, then max plus mean of 3."""
    over_time = features.mean(dim=3)
    return F.max_pool1d(over_time, 3, stride=1, padding=1) + F.avg_pool1d(over_time, 3, stride=1, padding=1)


def stretch_to_frames(segmentwise: Tensor, frames: int, ratio: int) -> Tensor:
    """Repeat each segment `ratio` times and pad with the last one to `frames`.

    ``segmentwise (batch, segments, classes)`` becomes ``(batch, frames, classes)``: segment ``s`` covers the frames
    ``[s * ratio, (s + 1) * ratio)``, and up to ``ratio - 1`` frames at the end remain, which the poolings cut off.
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
        self.bn_att = nn.BatchNorm1d(classes)  # unused in PANNs' forward pass too; released files hold its tensors
        for conv in (self.att, self.cla):
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(nn.Module.get_parameter(conv, "bias"))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``(batch, inputs, segments)`` to segment logits and the logarithms of the weights that average them.

        Both are ``(batch, segments, classes)``; the weights of a class sum to 1 over the segments.
        """
        log_weights = self.att(features).clamp(-10, 10).log_softmax(dim=-1)
        return self.cla(features).transpose(1, 2), log_weights.transpose(1, 2)


def averaged(segment_logits: Tensor, log_weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Average the probabilities of segments; return ``(batch, classes)`` logits and probabilities.

    The logits are log p - log(1 - p), each a log of a sum of exponentials: they stay exact, and so does their gradient,
    where p itself has rounded to 0 or 1.

    Args:
        segment_logits: ``(batch, segments, classes)``.
        log_weights: Of the same shape, their exponentials summing to 1 over the segments; equal weights by default.
    """
    if log_weights is None:
        log_weights = -_log_count(segment_logits)
    probability = (log_weights.exp() * segment_logits.sigmoid()).sum(dim=1)
    # log of a sigmoid as a softplus: ONNX has the latter, and would take the former for the log of a rounded 0.
    log_present = (log_weights - F.softplus(-segment_logits)).logsumexp(dim=1)
    log_absent = (log_weights - F.softplus(segment_logits)).logsumexp(dim=1)
    return log_present - log_absent, probability


def averaged_choices(segment_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Average the softmax of segments over ``(batch, segments, classes)``; return logits and probabilities.

    Both are ``(batch, classes)``; the logits are the logarithms of the probabilities, whose softmax is the same again.
    """
    logits = segment_logits.log_softmax(dim=-1).logsumexp(dim=1) - _log_count(segment_logits)[:, 0]
    return logits, logits.exp()


def _log_count(segment_logits: Tensor) -> Tensor:
    """Return the logarithm of the number of segments, ``(batch, 1, 1)``.

    Computed from the tensor: a Python number would be a constant in an exported graph, right for one length of clips.
    """
    return torch.ones_like(segment_logits[:, :, :1]).sum(dim=1, keepdim=True).log()
