"""Average precision, AUC and d-prime, as PANNs define them, and accuracy of single-label networks.

Classes for which a metric is undefined are left out of its mean and counted.
"""

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from epanns.data.datasets.splits import groups_to_draw
from epanns.errors import DataError
from epanns.evaluation.predict import Predictions
from epanns.evaluation.protocol import EvaluationProtocol
from epanns.evaluation.scores import ClassScore, GroupIntervals, Scores
from epanns.labels import LabelSet
from epanns.statistics.accuracy import right_clips
from epanns.statistics.bootstrap import mean_average_precision_interval, mean_interval


def evaluate(
    predictions: Predictions,
    labels: LabelSet,
    protocol: EvaluationProtocol,
    *,
    bootstrap: int = 1000,
    seed: int = 0,
    group_pattern: str = "",
) -> Scores:
    """Score predictions per class and over classes, and by accuracy for a single-label network.

    Args:
        predictions: Scores and targets.
        labels: Names of the classes.
        protocol: Protocol of the predictions, described in the scores.
        bootstrap: Number of resamples of the 95 % intervals; 0 for no intervals.
        seed: Seed of the resampling.
        group_pattern: Regular expression that finds each clip's group in its id, see `epanns.data.datasets.splits`, for
            intervals over groups beside the intervals over clips; empty for none.

    Raises:
        DataError: If no class has a positive clip (mAP is undefined), a clip of a single-label network has no or
            several classes (accuracy is undefined), or there are fewer than two groups.
        ConfigError: If the pattern is invalid.
    """
    ap = average_precision(predictions.target, predictions.scores)
    auc = roc_auc(predictions.target, predictions.scores)
    n_positive = predictions.target.sum(axis=0)
    if not n_positive.any():
        n_clips, n_classes = predictions.target.shape
        raise DataError(f"none of {n_classes} classes has a positive among {n_clips} clips: mAP needs labelled clips")
    groups = groups_to_draw(group_pattern, predictions.clip_ids) if group_pattern else None
    mean_auc = float(np.nanmean(auc)) if np.isfinite(auc).any() else None
    is_right = (
        right_clips(predictions.target, predictions.scores, predictions.clip_ids)
        if predictions.task == "single-label"
        else None
    )
    recall = np.full(len(labels), math.nan)
    if is_right is not None:
        hits = is_right @ predictions.target.astype(np.float64)
        recall = np.where(n_positive > 0, hits / np.maximum(n_positive, 1), math.nan)
    return Scores(
        mAP=float(np.nanmean(ap)),
        mAUC=mean_auc,
        d_prime=None if mean_auc is None else d_prime(mean_auc),
        n_clips=len(predictions.clip_ids),
        n_classes_scored=int(np.isfinite(ap).sum()),
        classes_without_positives=tuple(labels.names[index] for index in np.flatnonzero(n_positive == 0)),
        protocol=protocol.describe(),
        per_class=tuple(
            ClassScore(
                index,
                name,
                _number_or_none(ap[index]),
                _number_or_none(auc[index]),
                int(n_positive[index]),
                _number_or_none(recall[index]),
            )
            for index, name in enumerate(labels.names)
        ),
        mAP_interval=mean_average_precision_interval(
            predictions.target, predictions.scores, resamples=bootstrap, seed=seed
        ),
        accuracy=None if is_right is None else float(is_right.mean()),
        accuracy_interval=None if is_right is None else mean_interval(is_right, resamples=bootstrap, seed=seed),
        by_group=None
        if groups is None
        else GroupIntervals(
            group_pattern,
            len(set(groups)),
            mean_average_precision_interval(
                predictions.target, predictions.scores, resamples=bootstrap, seed=seed, groups=groups
            ),
            None if is_right is None else mean_interval(is_right, resamples=bootstrap, seed=seed, groups=groups),
        ),
        resamples=bootstrap,
        seed=seed,
    )


def mean_loss(predictions: Predictions) -> float:
    """Return the mean loss of the scores, in nats: binary cross-entropy, or cross-entropy where clips have one class.

    Logarithms are at least -100, as in torch's `BCELoss`, so the mean is finite.
    """
    with np.errstate(divide="ignore"):
        present, absent = (np.maximum(np.log(part), -100) for part in (predictions.scores, 1 - predictions.scores))
    if predictions.task == "single-label":
        return float(-present[predictions.target].mean())
    return float(-np.where(predictions.target, present, absent).mean())


def average_precision(target: NDArray[np.bool_], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the average precision of each class by scikit-learn, NaN for a class without positives.

    Args:
        target: ``(clips, classes)`` bool.
        scores: ``(clips, classes)``; only their order within a class matters.
    """
    return np.array(
        [
            average_precision_score(truth, score) if truth.any() else math.nan
            for truth, score in zip(target.T, scores.T, strict=True)
        ]
    )


def roc_auc(target: NDArray[np.bool_], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the area under each class's ROC curve, NaN for a class without positives or without negatives."""
    return np.array(
        [
            roc_auc_score(truth, score) if truth.any() and not truth.all() else math.nan
            for truth, score in zip(target.T, scores.T, strict=True)
        ]
    )


def d_prime(mean_auc: float) -> float | None:
    """Return sqrt(2) * Phi^-1(mean AUC), the separation of two unit normals with that AUC.

    It is computed from the *mean* AUC, as PANNs report it (utils/plot_statistics.py), not averaged over classes. None
    if it is infinite, at an AUC of exactly 0 or 1.
    """
    return math.sqrt(2) * NormalDist().inv_cdf(mean_auc) if 0 < mean_auc < 1 else None


def _number_or_none(value: np.float64) -> float | None:
    return float(value) if math.isfinite(value) else None
