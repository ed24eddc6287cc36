"""Average precision of one class for many weightings of the clips at once."""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array


def weighted_average_precision(
    truth: NDArray[np.bool_], score: NDArray[np.floating], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the average precision of a class for each column of clip weights.

    Equals scikit-learn's ``average_precision_score`` with ``sample_weight``, tied scores included. An integer weight is
    a number of copies of the clip.

    Precision counts only where recall rises: at the scores of the positive clips. So the weights are summed between
    these scores, in one pass over the clips, without a cumulative sum over all of them.

    Args:
        truth: ``(clips,)`` bool.
        score: ``(clips,)``; only the order matters.
        weights: ``(clips, columns)``, >= 0; fastest where the columns of a clip are beside each other in memory.

    Returns:
        ``(columns,)``, NaN for a column without weight on a positive.
    """
    thresholds, of_positive = np.unique(score[truth], return_inverse=True)  # ascending
    if not len(thresholds):
        return np.full(weights.shape[1], np.nan)
    # The highest threshold that a clip's score reaches; clips below all of them never count.
    reached = np.searchsorted(thresholds, score, side="right") - 1
    drawn = _from_the_highest(reached, weights, len(thresholds))
    positives = _from_the_highest(of_positive, weights[truth], len(thresholds))
    gained = np.diff(positives, axis=0, prepend=0.0)
    # Where no clip is drawn, `gained` is 0, so any quotient will do.
    precision = positives / np.maximum(drawn, np.finfo(np.float64).tiny)
    total = positives[-1]
    return np.where(total > 0, (gained * precision).sum(axis=0) / np.where(total > 0, total, 1.0), np.nan)


def _from_the_highest(place: NDArray[np.int64], weights: NDArray[np.float64], n_places: int) -> NDArray[np.float64]:
    """Return ``(places, columns)``: the weights of all clips at a place or a higher one, the highest place first.

    A sparse matrix with a one for each clip adds the rows of the weights in the order in which they are in memory.
    """
    counted = place >= 0
    starts = np.concatenate([[0], np.cumsum(counted)])
    members = csc_array((np.ones(starts[-1]), place[counted], starts), shape=(n_places, len(place)))
    sums: NDArray[np.float64] = np.cumsum((members @ weights)[::-1], axis=0)
    return sums
