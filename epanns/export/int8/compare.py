"""Agreement of an int8 network with its float32 original on real clips."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from epanns.data.batches.dataset import PackDataset
from epanns.evaluation.metrics import average_precision
from epanns.evaluation.predict import score_batch
from epanns.evaluation.protocol import EvaluationProtocol
from epanns.export.graph import Array
from epanns.feedback import Progress
from epanns.models.tagger import Tagger

_BATCH_SIZE = 32  # windows in one forward pass at most


@dataclass(frozen=True)
class Agreement:
    """Two networks on the same clips.

    Attributes:
        clips: Number of clips.
        top1: Fraction of clips for which both networks have the highest score in the same class.
        largest_difference: Largest difference of two scores, in [0, 1].
        mean_difference: Mean difference of the scores.
        mAP: mAP of the original and of the other network, over classes with a positive clip; None without labels.
        accuracy: Fraction of clips whose highest score is of their class, of both networks; None where a clip has
            several classes.
    """

    clips: int
    top1: float
    largest_difference: float
    mean_difference: float
    mAP: tuple[float, float] | None  # noqa: N815
    accuracy: tuple[float, float] | None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; pairs have the keys ``float32``, ``int8`` and ``difference``."""
        values = asdict(self)
        for name in ("mAP", "accuracy"):
            if (pair := values[name]) is not None:
                values[name] = {"float32": pair[0], "int8": pair[1], "difference": pair[1] - pair[0]}
        return values


def compare(
    original: Tagger,
    other: Tagger,
    dataset: PackDataset,
    clips: Sequence[int],
    protocol: EvaluationProtocol | None = None,
    progress: Progress | None = None,
) -> Agreement:
    """Score the same clips with two networks; the labels are used only if the pack has the networks' classes."""
    scores: tuple[list[Array], list[Array]] = ([], [])
    with torch.no_grad():
        for done, clip in enumerate(clips, start=1):
            batch = dataset[clip]
            for network, found in zip((original, other), scores, strict=True):
                found.append(score_batch(network, batch, protocol or EvaluationProtocol(), _BATCH_SIZE).numpy())
            if progress is not None:
                progress(done, len(clips))
    same_classes = dataset.labels.names == original.labels.names
    target = dataset.targets.dense(clips) if same_classes else None
    return agreement(np.concatenate(scores[0]), np.concatenate(scores[1]), target)


def agreement(ours: Array, theirs: Array, target: NDArray[np.bool_] | None) -> Agreement:
    """Compare the scores of two networks, ``(clips, classes)`` like `target`."""
    difference = np.abs(ours - theirs)
    labels = target if target is not None and target.any() else None
    classes = labels.argmax(axis=1) if labels is not None and (labels.sum(axis=1) == 1).all() else None

    def mean_ap(truth: NDArray[np.bool_], scores: Array) -> float:
        return float(np.nanmean(average_precision(truth, scores.astype(np.float64))))

    def accuracy(truth: NDArray[np.intp], scores: Array) -> float:
        return float((truth == scores.argmax(axis=1)).mean())

    return Agreement(
        clips=len(ours),
        top1=float((ours.argmax(axis=1) == theirs.argmax(axis=1)).mean()),
        largest_difference=float(difference.max()),
        mean_difference=float(difference.mean()),
        mAP=None if labels is None else (mean_ap(labels, ours), mean_ap(labels, theirs)),
        accuracy=None if classes is None else (accuracy(classes, ours), accuracy(classes, theirs)),
    )
