"""How far an int8 network tags as its float32 original does, on real clips."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from epanns.data.dataset import PackDataset
from epanns.evaluation.metrics import average_precision
from epanns.evaluation.predict import score_batch
from epanns.evaluation.protocol import EvaluationProtocol
from epanns.export.graph import Array
from epanns.feedback import Progress
from epanns.models.tagger import Tagger

_PIECES = 32  # windows in one forward pass at most


@dataclass(frozen=True)
class Agreement:
    """Two networks on the same clips.

    Attributes:
        clips: How many.
        top1: Fraction of clips whose highest score is of the same class.
        largest_difference: Of any two scores, in [0, 1]; `mean_difference` likewise.
        mAP: Of the original and of the other, over classes with a positive clip; None without labels.
        accuracy: Fraction of clips whose highest score is of their class, likewise; None where clips have several.
    """

    clips: int
    top1: float
    largest_difference: float
    mean_difference: float
    mAP: tuple[float, float] | None  # noqa: N815
    accuracy: tuple[float, float] | None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; pairs are named ``float32`` and ``int8``."""
        values = asdict(self)
        for name in ("mAP", "accuracy"):
            pair = values[name]
            values[name] = (
                None if pair is None else {"float32": pair[0], "int8": pair[1], "difference": pair[1] - pair[0]}
            )
        return values


def compare(
    original: Tagger,
    other: Tagger,
    dataset: PackDataset,
    clips: Sequence[int],
    protocol: EvaluationProtocol | None = None,
    progress: Progress | None = None,
) -> Agreement:
    """Let two networks hear the same clips; where their classes are not the pack's, its labels are not looked at."""
    scores: tuple[list[Array], list[Array]] = ([], [])
    with torch.no_grad():
        for done, clip in enumerate(clips, start=1):
            batch = dataset[clip]
            for network, found in zip((original, other), scores, strict=True):
                found.append(score_batch(network, batch, protocol or EvaluationProtocol(), _PIECES).numpy())
            if progress is not None:
                progress(done, len(clips))
    same_classes = dataset.labels.names == original.labels.names
    target = dataset.targets.dense(clips) if same_classes else None
    return agreement(np.concatenate(scores[0]), np.concatenate(scores[1]), target)


def agreement(ours: Array, theirs: Array, target: NDArray[np.bool_] | None) -> Agreement:
    """Compare the scores of two networks, ``(clips, classes)`` as is `target`."""
    apart = np.abs(ours - theirs)
    labels = target if target is not None and target.any() else None
    classes = labels.argmax(axis=1) if labels is not None and (labels.sum(axis=1) == 1).all() else None
    return Agreement(
        clips=len(ours),
        top1=float((ours.argmax(axis=1) == theirs.argmax(axis=1)).mean()),
        largest_difference=float(apart.max()),
        mean_difference=float(apart.mean()),
        mAP=None if labels is None else (_mean_ap(labels, ours), _mean_ap(labels, theirs)),
        accuracy=None if classes is None else (_accuracy(classes, ours), _accuracy(classes, theirs)),
    )


def _mean_ap(target: NDArray[np.bool_], scores: Array) -> float:
    return float(np.nanmean(average_precision(target, scores.astype(np.float64))))


def _accuracy(classes: NDArray[np.intp], scores: Array) -> float:
    return float((classes == scores.argmax(axis=1)).mean())
