"""Gains and losses of each class between two networks or rows of networks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from epanns.statistics.average_precision import weighted_average_precision

POINTS = (0.05, 0.1, 0.2)  # LEAN's Table II counts classes that are better at all, by 5, by 10 and by 20 %
_EQUAL = 1e-12  # a mean over networks is exact up to rounding


@dataclass(frozen=True)
class ClassChanges:
    """How many classes gain and lose average precision from one row to another.

    Attributes:
        higher: Number of classes whose average precision rises.
        lower: Number of classes whose average precision falls.
        equal: Number of classes with the same average precision.
        undefined: Number of classes without a positive clip.
        by: Points of average precision, in [0, 1], and the numbers of classes that rise and that fall by as much.
    """

    higher: int
    lower: int
    equal: int
    undefined: int
    by: tuple[tuple[float, int, int], ...]


def average_precisions(target: NDArray[np.bool_], scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the average precision of each class, ``(classes,)``, NaN for a class without a positive.

    Args:
        target: ``(clips, classes)`` bool.
        scores: ``(clips, classes)``.
    """
    once = np.ones((len(target), 1))
    return np.array([weighted_average_precision(*column, once)[0] for column in zip(target.T, scores.T, strict=True)])


def mean_over_networks(ap: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the mean average precision of each class over networks, NaN where no network has one."""
    stacked = np.stack(ap)
    n_defined = np.isfinite(stacked).sum(axis=0)
    return np.where(n_defined > 0, np.nansum(stacked, axis=0) / np.maximum(n_defined, 1), np.nan)


def changes_between(first: NDArray[np.float64], second: NDArray[np.float64]) -> ClassChanges:
    """Count the classes that gain and lose from one row to another.

    Args:
        first: Average precision of each class, ``(classes,)``, NaN where undefined.
        second: That of the other row.
    """
    change = second - first
    defined = np.isfinite(change)
    change = np.where(defined & (np.abs(change) > _EQUAL), change, 0.0)

    def count(chosen: NDArray[np.bool_]) -> int:
        return int((chosen & defined).sum())

    return ClassChanges(
        higher=count(change > 0),
        lower=count(change < 0),
        equal=count(change == 0),
        undefined=int((~defined).sum()),
        by=tuple((points, count(change >= points - _EQUAL), count(change <= _EQUAL - points)) for points in POINTS),
    )
