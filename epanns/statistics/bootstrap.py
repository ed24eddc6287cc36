"""Bootstrap intervals of mAP, of means over clips and of correlations, over clips or groups of clips.

Clips of one recording are similar, so an interval over single clips is too narrow. An interval over groups draws whole
recordings (the cluster bootstrap; Davison and Hinkley 1997, 3.8).
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from epanns.seeding import numpy_generator
from epanns.statistics.average_precision import weighted_average_precision

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
    values = [
        mean_average_precision(target, scores, weights)
        for weights in resampled_weights(len(target), resamples, seed, groups=groups)
    ]
    return percentiles(np.concatenate(values), confidence)


def mean_average_precision(
    target: NDArray[np.bool_], scores: NDArray[np.floating], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return mAP for each row of clip weights, ``(rows,)``, NaN for a row without weight on a positive.

    Args:
        target: ``(clips, classes)`` bool.
        scores: ``(clips, classes)``.
        weights: ``(rows, clips)``, >= 0, as `resampled_weights` yields them.
    """
    by_clip = np.ascontiguousarray(weights.T)
    total, scored = np.zeros(len(weights)), np.zeros(len(weights))
    for truth, score in zip(target.T, scores.T, strict=True):
        if truth.any():
            ap = weighted_average_precision(truth, score, by_clip)
            defined = ~np.isnan(ap)
            total[defined] += ap[defined]
            scored += defined
    return np.where(scored > 0, total / np.maximum(scored, 1), np.nan)


def mean_interval(
    values: NDArray[np.bool_] | NDArray[np.float64],
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    groups: ArrayLike | None = None,
) -> tuple[float, float] | None:
    """Return the percentile bootstrap interval of a mean over clips, over the same resamples as that of mAP.

    `values` ``(clips,)`` holds a value of each clip, or whether it is classified correctly (for accuracy); NaN values
    are left out of the mean. The other arguments are those of `mean_average_precision_interval`.
    """
    defined = ~np.isnan(values)
    if resamples == 0 or not defined.any():
        return None
    means = [
        weighted_mean(values, weights) for weights in resampled_weights(len(values), resamples, seed, groups=groups)
    ]
    return percentiles(np.concatenate(means), confidence)


def weighted_mean(values: NDArray[np.bool_] | NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of the values ``(clips,)`` that are not NaN, for each row of weights ``(rows, clips)``.

    NaN for a row without weight on such a value.
    """
    defined = ~np.isnan(values)
    total = weights[:, defined].sum(axis=1)
    return np.where(total > 0, weights[:, defined] @ values[defined] / np.maximum(total, 1), np.nan)


def mean_correlation_interval(
    one: NDArray[np.float64],
    other: NDArray[np.float64],
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    groups: ArrayLike | None = None,
) -> tuple[float, float] | None:
    """Return the percentile bootstrap interval of the mean correlation of columns, over the resamples of mAP.

    Both arrays are ``(clips, classes)``, and at least one column varies in both; columns that do not vary in a resample
    are left out of its mean. The other arguments are those of `mean_average_precision_interval`.
    """
    if resamples == 0:
        return None
    values = []
    for weights in resampled_weights(len(one), resamples, seed, groups=groups):
        correlations = weighted_correlation(one, other, weights)
        n_defined = np.isfinite(correlations).sum(axis=1)
        values.append(np.where(n_defined > 0, np.nansum(correlations, axis=1) / np.maximum(n_defined, 1), np.nan))
    return percentiles(np.concatenate(values), confidence)


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


def percentiles(values: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    """Return the interval that holds a fraction of the values, as many below it as above; NaN values do not count."""
    low, high = np.nanquantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


# Smallest range of a varying column, as a share of its largest magnitude: a few roundings of float32.
_VARIES = 1e-6


def weighted_correlation(
    one: NDArray[np.float64], other: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return Pearson's correlation of each column for each row of clip weights.

    Args:
        one: ``(clips, classes)``.
        other: Of the same shape.
        weights: ``(rows, clips)``, >= 0, with a positive sum in each row.

    Returns:
        ``(rows, classes)`` in [-1, 1], NaN where a column does not vary: where it has the same value on all clips, up
        to rounding, or on all clips of positive weight.
    """
    weights = weights / weights.sum(axis=1, keepdims=True)
    x, y = (_centred(values) for values in (one, other))
    mean_x, mean_y = weights @ x, weights @ y
    square_x, square_y = weights @ (x * x), weights @ (y * y)
    variance_x, variance_y = square_x - mean_x * mean_x, square_y - mean_y * mean_y
    covariance = weights @ (x * y) - mean_x * mean_y
    # Where all weight is on equal values, the difference of the squares is a rounding of 0.
    varies = (variance_x > 1e-12 * square_x) & (variance_y > 1e-12 * square_y)
    scale = np.sqrt(np.where(varies, variance_x * variance_y, 1.0))
    return np.where(varies, np.clip(covariance / scale, -1.0, 1.0), np.nan)  # rounding passes 1 by 1e-16


def _centred(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Subtract the mean of each column, and divide by its range; columns that do not vary become 0."""
    spans, largest = np.ptp(values, axis=0), np.abs(values).max(axis=0)
    varies = spans > _VARIES * largest
    centred: NDArray[np.float64] = (values - values.mean(axis=0)) / np.where(varies, spans, 1.0)
    return np.where(varies, centred, 0.0)
