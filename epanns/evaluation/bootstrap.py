"""Bootstrap intervals of mAP and accuracy, over clips or groups of clips.

Clips of one recording are similar, so an interval over single clips is too narrow. An interval over groups draws whole
recordings (the cluster bootstrap; Davison and Hinkley 1997, 3.8).
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

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
    groups: ArrayLike | None = None,
) -> tuple[float, float] | None:
    """Return the percentile bootstrap interval of mAP (Efron and Tibshirani 1993, 13).

    Classes without a positive in a resample are left out of its mean, as in mAP itself.

    Args:
        target: ``(clips, classes)`` bool, with at least one positive.
        scores: ``(clips, classes)``.
        resamples: Number of resamples; 0 returns None.
        confidence: Fraction of resamples inside the interval, in (0, 1).
        seed: Seed of the draws.
        groups: ``(clips,)``: Name or number of each clip's group, to draw groups instead of clips.
    """
    if resamples == 0:
        return None
    values = []
    for weights in resampled_weights(len(target), resamples, seed, groups=groups):
        total, scored = np.zeros(len(weights)), np.zeros(len(weights))
        for truth, score in zip(target.T, scores.T, strict=True):
            if truth.any():
                ap = weighted_average_precision(truth, score, weights)
                defined = ~np.isnan(ap)
                total[defined] += ap[defined]
                scored += defined
        values.append(np.where(scored > 0, total / np.maximum(scored, 1), np.nan))
    return _percentiles(np.concatenate(values), confidence)


def accuracy_interval(
    is_right: NDArray[np.bool_],
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    groups: ArrayLike | None = None,
) -> tuple[float, float] | None:
    """Return the percentile bootstrap interval of accuracy, over the same resamples as that of mAP.

    Args:
        is_right: ``(clips,)`` bool: whether the clip is classified correctly.
        resamples: Number of resamples; 0 returns None.
        confidence: Fraction of resamples inside the interval, in (0, 1).
        seed: Seed of the draws.
        groups: ``(clips,)``: Name or number of each clip's group, to draw groups instead of clips.
    """
    if resamples == 0:
        return None
    draws = resampled_weights(len(is_right), resamples, seed, groups=groups)
    values = np.concatenate([weights @ is_right / weights.sum(axis=1) for weights in draws])
    return _percentiles(values, confidence)


def resampled_weights(
    n_clips: int, resamples: int, seed: int, *, groups: ArrayLike | None = None
) -> Iterator[NDArray[np.float64]]:
    """Yield how often each clip is in each resample, ``(resamples, clips)`` in chunks of bounded memory.

    As many clips, or groups, are drawn with replacement as there are; ``np.repeat(np.arange(n_clips), row)`` are the
    clips of one resample. Equal arguments give equal resamples, so two networks can be compared resample by resample.

    Args:
        n_clips: Number of clips.
        resamples: Number of resamples.
        seed: Seed of the draws.
        groups: ``(clips,)``: Name or number of each clip's group, to draw groups instead of clips.
    """
    group_of = np.arange(n_clips) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    n_groups = int(group_of.max()) + 1
    generator = numpy_generator("bootstrap" if groups is None else "bootstrap by group", seed)
    per_chunk = max(1, _CHUNK_ELEMENTS // n_clips)
    for first in range(0, resamples, per_chunk):
        size = min(per_chunk, resamples - first)
        counts = generator.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=size)
        yield (counts if groups is None else counts[:, group_of]).astype(np.float64)


def _percentiles(values: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    low, high = np.nanquantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def weighted_average_precision(
    truth: NDArray[np.bool_], score: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the average precision of a class for each row of clip weights, sorting the clips once.

    An integer weight is a number of copies of the clip. Equals scikit-learn's ``average_precision_score`` with
    ``sample_weight``, tied scores included.

    Args:
        truth: ``(clips,)`` bool.
        score: ``(clips,)``.
        weights: ``(rows, clips)``, >= 0.

    Returns:
        ``(rows,)``, NaN for a row without weight on a positive.
    """
    order = np.argsort(-score, kind="stable")
    ordered = score[order]
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))  # last clip of each run of tied scores
    weights = weights[:, order]
    positives = np.cumsum(weights * truth[order], axis=1)[:, ends]
    drawn = np.cumsum(weights, axis=1)[:, ends]
    gained = np.diff(positives, axis=1, prepend=0.0)
    # Where no clip is drawn, `gained` is 0, so any quotient will do.
    precision = positives / np.maximum(drawn, np.finfo(np.float64).tiny)
    total = positives[:, -1]
    return np.where(total > 0, (gained * precision).sum(axis=1) / np.where(total > 0, total, 1.0), np.nan)
