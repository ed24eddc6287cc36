"""Paired comparison of networks that were scored on the same clips: bootstrap intervals, p values, Holm's correction.

Every resample draws clips, or groups of clips, once for all networks, so that the difference of two networks does not
contain the spread of the clips that both find easy or difficult (the paired bootstrap; Efron and Tibshirani 1993).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
from numpy.typing import NDArray

from epanns.seeding import derive_seed, numpy_generator
from epanns.statistics.bootstrap import percentiles, resampled_weights

CONFIDENCE = 0.95
Interval = tuple[float, float]

# Score of a network for each row of clip weights, ``(rows, clips)`` -> ``(rows,)``, such as its mAP.
Measure = Callable[[NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True)
class Part:
    """One set of clips, such as the test fold of a rotation, and the networks of every row that were scored on it.

    Attributes:
        n_clips: Number of clips.
        rows: For each row, seed -> score of its network.
        groups: Group of each clip, ``(clips,)``, to draw groups instead of clips; None for clips.
    """

    n_clips: int
    rows: Sequence[Mapping[int, Measure]]
    groups: Sequence[str] | None = None


@dataclass(frozen=True)
class RowScore:
    """Score of a row.

    Attributes:
        mean: Mean over the parts of the mean over the seeds.
        sd: Sample standard deviation over the networks; None for one network.
        n: Number of networks, over all seeds and parts.
        interval: 95 % interval of the mean; None without resamples.
    """

    mean: float
    sd: float | None
    n: int
    interval: Interval | None


@dataclass(frozen=True)
class Difference:
    """Difference of two rows, the second minus the first.

    Attributes:
        first: Index of a row.
        second: Index of the other row.
        difference: Difference of their means.
        interval: 95 % interval; None without resamples.
        p: Two-sided p value, see `two_sided_p`; None without resamples.
        p_holm: The p value after `holm` over all differences of the table.
    """

    first: int
    second: int
    difference: float
    interval: Interval | None
    p: float | None
    p_holm: float | None


def compare_rows(
    parts: Sequence[Part], pairs: Sequence[tuple[int, int]], *, resamples: int = 1000, seed: int = 0
) -> tuple[list[RowScore], list[Difference]]:
    """Score rows and the differences of pairs of rows.

    In each resample every part draws its clips (or groups) once for all rows; then every row with several seeds draws
    as many of them with replacement, the same ones as other rows with the same seeds. The score of a row is the mean
    over the drawn seeds and over the parts, which are all kept.

    Args:
        parts: Sets of clips, all with the same number of rows and at least one network of each row.
        pairs: Indices of rows; a difference is the second minus the first.
        resamples: Number of resamples; 0 for no intervals and p values.
        seed: Seed of the draws.
    """
    n_rows = len(parts[0].rows)
    once = [
        [{at: float(measure(np.ones((1, part.n_clips)))[0]) for at, measure in row.items()} for row in part.rows]
        for part in parts
    ]
    means = [fmean(fmean(part[row].values()) for part in once) for row in range(n_rows)]
    drawn = _resampled_means(parts, resamples, seed) if resamples else None
    rows = []
    for row in range(n_rows):
        networks = [score for part in once for score in part[row].values()]
        sd = stdev(networks) if len(networks) > 1 else None
        rows.append(
            RowScore(means[row], sd, len(networks), None if drawn is None else percentiles(drawn[row], CONFIDENCE))
        )
    if drawn is None:
        return rows, [Difference(*pair, means[pair[1]] - means[pair[0]], None, None, None) for pair in pairs]
    resampled = [drawn[second] - drawn[first] for first, second in pairs]
    p_values = [two_sided_p(differences) for differences in resampled]
    return rows, [
        Difference(first, second, means[second] - means[first], percentiles(differences, CONFIDENCE), p, corrected)
        for (first, second), differences, p, corrected in zip(pairs, resampled, p_values, holm(p_values), strict=True)
    ]


def _resampled_means(parts: Sequence[Part], resamples: int, seed: int) -> NDArray[np.float64]:
    """Return the score of every row in every resample, ``(rows, resamples)``."""
    found = []
    for place, part in enumerate(parts):
        # The first part has the resamples of the intervals of `epanns evaluate`.
        own = seed if place == 0 else derive_seed("bootstrap of a part", seed, place)
        chunks: list[list[NDArray[np.float64]]] = [[] for row in part.rows for _ in row]
        for weights in resampled_weights(part.n_clips, resamples, own, groups=part.groups):
            measures = [measure for row in part.rows for measure in row.values()]
            for chunk, measure in zip(chunks, measures, strict=True):
                chunk.append(measure(weights))
        networks = iter([np.concatenate(chunk) for chunk in chunks])
        found.append([_of_drawn_seeds({at: next(networks) for at in row}, own) for row in part.rows])
    means: NDArray[np.float64] = np.mean(found, axis=0)
    return means


def _of_drawn_seeds(by_seed: Mapping[int, NDArray[np.float64]], seed: int) -> NDArray[np.float64]:
    """Return the mean over seeds drawn with replacement, for each resample; equal seeds give equal draws."""
    seeds = sorted(by_seed)
    values = np.stack([by_seed[each] for each in seeds])
    if len(seeds) == 1:
        return by_seed[seeds[0]]
    drawn = numpy_generator("bootstrap of seeds", seed, *seeds).integers(len(seeds), size=values.shape)
    means: NDArray[np.float64] = np.take_along_axis(values, drawn, axis=0).mean(axis=0)
    return means


def two_sided_p(differences: NDArray[np.float64]) -> float:
    """Return twice the share of resamples in which a difference is 0 or has the other sign, at most 1.

    It is the largest significance level at which the percentile interval of the difference holds 0. One resample is
    added to both counts (Davison and Hinkley 1997, 4.2.3), so that B resamples give at least 2 / (B + 1). NaN does not
    count.

    Args:
        differences: ``(resamples,)``.
    """
    defined = differences[~np.isnan(differences)]
    fewer = min(int((defined <= 0).sum()), int((defined >= 0).sum()))
    return min(1.0, 2 * (fewer + 1) / (len(defined) + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values corrected for their number (Holm 1979), in the given order.

    Whoever rejects the hypotheses with a corrected p of at most a rejects a true one with a probability of at most a.
    """
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected
