"""Which clips of one class each are classified correctly."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from epanns.errors import DataError


def right_clips(target: NDArray[np.bool_], scores: NDArray[np.floating], clip_ids: Sequence[str]) -> NDArray[np.bool_]:
    """Return ``(clips,)``: whether the class with the highest score, the first of equals, is the clip's class.

    Args:
        target: ``(clips, classes)`` bool.
        scores: ``(clips, classes)``.
        clip_ids: ``(clips,)``, for the message.

    Raises:
        DataError: If a clip has no or several classes.
    """
    n_classes = target.sum(axis=1)
    if len(others := np.flatnonzero(n_classes != 1)):
        raise DataError(
            f"{len(others)} of {len(n_classes)} clips have no or several classes, first "
            f"{clip_ids[others[0]]!r} with {n_classes[others[0]]}: accuracy needs exactly one for each"
        )
    hits: NDArray[np.bool_] = scores.argmax(axis=1) == target.argmax(axis=1)
    return hits
