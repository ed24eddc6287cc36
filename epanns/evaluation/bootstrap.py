"""How far mAP would move with other clips of the same kind: bootstrap intervals over clips."""

import numpy as np
from numpy.typing import NDArray

from epanns.seeding import numpy_generator

# Bounds the memory of one chunk of resamples: clips x resamples, a few arrays of 8 bytes each.
_CHUNK_ELEMENTS = 2_000_000


def mean_average_precision_interval(
    target: NDArray[np.bool_],
    scores: NDArray[np.float64],
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Return the percentile bootstrap interval of mAP, clips drawn with replacement (Efron and Tibshirani 1993, 13).

    A class that has no positive in a resample is left out of that resample's mean, as it is outside.

    Args:
        target: ``(clips, classes)`` bool, with at least one positive.
        scores: ``(clips, classes)``.
        resamples: Number of resamples; 0 returns None.
        confidence: Share of resamples inside the interval, in (0, 1).
        seed: Seed of the draws.
    """
    if resamples == 0:
        return None
    n_clips = len(target)
    generator = numpy_generator("bootstrap", seed)
    per_chunk = max(1, _CHUNK_ELEMENTS // n_clips)
    means = []
    for first in range(0, resamples, per_chunk):
        size = min(per_chunk, resamples - first)
        draws = generator.multinomial(n_clips, np.full(n_clips, 1 / n_clips), size=size).astype(np.float64)
        means.append(_mean_over_classes(target, scores, draws))
    values = np.concatenate(means)
    low, high = np.nanquantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def weighted_average_precision(
    truth: NDArray[np.bool_], score: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return one class's average precision for each row of clip weights, sorting the clips once.

    A whole-number weight stands for so many copies of the clip; equals scikit-learn's ``average_precision_score`` with
    ``sample_weight``, tied scores included.

    Args:
        truth: ``(clips,)`` bool.
        score: ``(clips,)``.
        weights: ``(rows, clips)``, >= 0.

    Returns:
        ``(rows,)``, NaN where a row has no weight on a positive.
    """
    order = np.argsort(-score, kind="stable")
    ordered = score[order]
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))  # last clip of each run of tied scores
    weights = weights[:, order]
    positives = np.cumsum(weights * truth[order], axis=1)[:, ends]
    drawn = np.cumsum(weights, axis=1)[:, ends]
    gained = np.diff(positives, axis=1, prepend=0.0)
    # Where nothing is drawn yet nothing is gained either, so the quotient's value there does not matter.
    precision = positives / np.maximum(drawn, np.finfo(np.float64).tiny)
    total = positives[:, -1]
    return np.where(total > 0, (gained * precision).sum(axis=1) / np.where(total > 0, total, 1.0), np.nan)


def _mean_over_classes(
    target: NDArray[np.bool_], scores: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return mAP ``(rows,)`` for each row of clip weights, NaN where no class has a positive."""
    total, scored = np.zeros(len(weights)), np.zeros(len(weights))
    for truth, score in zip(target.T, scores.T, strict=True):
        if truth.any():
            ap = weighted_average_precision(truth, score, weights)
            defined = ~np.isnan(ap)
            total[defined] += ap[defined]
            scored += defined
    return np.where(scored > 0, total / np.maximum(scored, 1), np.nan)
