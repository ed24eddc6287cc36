"""Zero-shot evaluation: scores of a network on the labels of another data set, through a class map."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from epanns.errors import DataError
from epanns.evaluation.class_map import MappedClasses
from epanns.evaluation.metrics import evaluate
from epanns.evaluation.predict import Predictions
from epanns.evaluation.protocol import EvaluationProtocol
from epanns.evaluation.scores import Scores


@dataclass(frozen=True)
class ZeroShot:
    """Scores on the mapped classes of a data set.

    Attributes:
        scores: As of `epanns.evaluate`; with accuracy where every clip has exactly one mapped class.
        predictions: Scores and targets of the mapped classes, of the clips that have one.
        mapped: The mapped classes, and the classes left out.
        n_clips_left_out: Number of clips without a mapped class.
    """

    scores: Scores
    predictions: Predictions
    mapped: MappedClasses
    n_clips_left_out: int

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values: those of the scores, and those of the map as ``class_map``."""
        return {**self.scores.to_dict(), "class_map": self.class_map()}

    def class_map(self) -> dict[str, Any]:
        """Return the JSON values of the map and the number of clips left out."""
        return {**self.mapped.to_dict(), "n_clips_left_out": self.n_clips_left_out}

    def remarks(self) -> list[str]:
        """Return one line for each kind of class or clip that is left out."""
        left_out = f"{self.n_clips_left_out} clips have no mapped class and are left out"
        return [*self.mapped.remarks(), *([left_out] if self.n_clips_left_out else [])]


def zero_shot(
    predictions: Predictions,
    mapped: MappedClasses,
    protocol: EvaluationProtocol,
    *,
    bootstrap: int = 1000,
    seed: int = 0,
    group_pattern: str = "",
) -> ZeroShot:
    """Score predictions on the labels of a data set with other classes.

    The score of a class of the data set is the highest score of its classes of the network. Clips without a mapped
    class are left out.

    Args:
        predictions: Scores of the network's classes, targets of the data set's classes (`epanns.predict` with
            ``same_classes=False``).
        mapped: From `ClassMap.between`.
        protocol: Protocol of the predictions.
        bootstrap: As in `epanns.evaluate`, also `seed` and `group_pattern`.
        seed: Seed of the resampling.
        group_pattern: Regular expression that finds each clip's group in its id; empty for none.

    Raises:
        DataError: If no clip has a mapped class, or as `epanns.evaluate`.
        ConfigError: If the pattern is invalid.
    """
    target = predictions.target[:, list(mapped.columns)]
    n_mapped = target.sum(axis=1)
    kept = np.flatnonzero(n_mapped > 0)
    if not len(kept):
        raise DataError(
            f"none of {len(target)} clips has one of the {len(mapped.columns)} mapped classes: zero-shot scores need "
            "labelled clips; give the pack whose classes the class map names"
        )
    scores = np.stack([predictions.scores[:, list(columns)].max(axis=1) for columns in mapped.columns.values()], axis=1)
    chosen = replace(
        predictions,
        clip_ids=tuple(predictions.clip_ids[row] for row in kept),
        scores=scores[kept],
        target=target[kept],
        task="single-label" if (n_mapped[kept] == 1).all() else "multi-label",
        logits=None,
    )
    found = evaluate(chosen, mapped.labels, protocol, bootstrap=bootstrap, seed=seed, group_pattern=group_pattern)
    words = f"{protocol.describe()}; zero-shot, {len(mapped.columns)} of {len(mapped.data)} classes"
    return ZeroShot(
        replace(found, protocol=f"{words}, class map {mapped.digest[:8]}"), chosen, mapped, len(target) - len(kept)
    )
