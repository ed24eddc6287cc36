"""The scores of every clip in one NumPy file, for intervals, comparisons and plots that need no network."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from epanns import atomic
from epanns.evaluation.predict import Predictions
from epanns.labels import LabelSet


def write_clip_scores(path: Path, predictions: Predictions, labels: LabelSet, *, groups: Sequence[str] = ()) -> None:
    """Write the scores and the truth of every clip as ``.npz``, which `numpy.load` reads without pickle.

    The arrays are ``clip_ids`` (clips,), ``class_names`` (classes,) and ``groups`` (clips,) of text, the last one empty
    where there are no groups, ``scores`` (clips, classes) float32 in [0, 1], as the network gave them, and ``target``
    (clips, classes) bool.

    Args:
        path: File to write.
        predictions: Scores and truth of every clip.
        labels: Names of the classes, in the order of the scores.
        groups: Name of each clip's group; empty for none.
    """
    with atomic.replacing(path) as partial, partial.open("wb") as file:
        np.savez_compressed(
            file,
            clip_ids=np.array(predictions.clip_ids, np.str_),
            class_names=np.array(labels.names, np.str_),
            groups=np.array(groups, np.str_),
            scores=predictions.scores.astype(np.float32),
            target=predictions.target,
        )
