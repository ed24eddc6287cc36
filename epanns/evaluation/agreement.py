"""Agreement of a pruned network with the unpruned one on the same clips, without labels.

Three numbers compare the outputs: the correlation of logits (each class over the clips), the mean average precision of
the unpruned network's own tags, and Kendall's tau of the ranking of the classes (each clip over the classes).
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from epanns.data.datasets.splits import groups_to_draw
from epanns.errors import DataError
from epanns.evaluation.metrics import average_precision
from epanns.evaluation.predict import Predictions
from epanns.evaluation.protocol import EvaluationProtocol
from epanns.labels import LabelSet
from epanns.statistics.bootstrap import (
    mean_average_precision_interval,
    mean_correlation_interval,
    mean_interval,
    weighted_correlation,
)

Interval = tuple[float, float]

_FEWEST_TAGS = 3  # of a class with an average precision, see `Agreement.classes_with_few_tags`


@dataclass(frozen=True)
class ClassAgreement:
    """Agreement in one class.

    Attributes:
        index: Index of the class.
        name: Name of the class.
        correlation: Correlation of the logits over the clips; None where they do not vary.
        ap: Average precision of the unpruned network's own tags; None where it tags fewer than three clips or all.
        n_tagged: Number of clips with the unpruned network's tag.
    """

    index: int
    name: str
    correlation: float | None
    ap: float | None
    n_tagged: int


@dataclass(frozen=True)
class AgreementIntervals:
    """95 % bootstrap intervals of the three means; None without resamples or where the mean is None."""

    correlation: Interval | None
    tag_mAP: Interval | None  # noqa: N815
    tau: Interval | None


@dataclass(frozen=True)
class Agreement:
    """Agreement of two networks; all three means are 1 for equal outputs.

    Attributes:
        correlation: Mean over the classes of the correlation of logits, in [-1, 1]; None if no class varies.
        tag_mAP: Mean over classes of the average precision of `own_tags`, in [0, 1]; None if no class is scored.
        tau: Mean over the clips of Kendall's tau-b of the ranking of classes, in [-1, 1]; None if no clip has one.
        threshold: Lowest score of an own tag.
        n_tags: Number of own tags, over all clips.
        n_clips: Number of clips.
        n_classes: Number of classes.
        constant_classes: Classes whose logits do not vary in one of the networks; they have no correlation.
        classes_without_tags: Classes that the unpruned network gives to no clip; they have no average precision.
        classes_with_few_tags: Classes that it gives to one or two clips; their average precision is left out, because
            it is the rank of one or two clips and its bootstrap is biased.
        classes_tagged_in_all: Classes that it gives to all clips; their average precision would be 1 for every ranking.
        n_clips_without_ranking: Number of clips on which one of the networks scores all classes equally.
        protocol: Evaluation protocol in words.
        per_class: One row per class, in label order.
        intervals: By clip.
        resamples: Number of resamples of every interval; 0 without intervals.
        seed: Seed of the resampling.
        by_group: Intervals over groups of clips; None without groups.
        group_pattern: Regular expression that finds the group in the id of a clip; empty without groups.
    """

    correlation: float | None
    tag_mAP: float | None  # noqa: N815
    tau: float | None
    threshold: float
    n_tags: int
    n_clips: int
    n_classes: int
    constant_classes: tuple[str, ...]
    classes_without_tags: tuple[str, ...]
    classes_with_few_tags: tuple[str, ...]
    classes_tagged_in_all: tuple[str, ...]
    n_clips_without_ranking: int
    protocol: str
    per_class: tuple[ClassAgreement, ...]
    intervals: AgreementIntervals
    resamples: int = 0
    seed: int = 0
    by_group: AgreementIntervals | None = None
    group_pattern: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, the keys of ``agree --json``; `by_group` is left out without groups."""
        values = asdict(self)
        if self.by_group is None:
            del values["by_group"], values["group_pattern"]
        return values

    def summary(self) -> dict[str, float | None]:
        """Return the numbers of a run record."""
        return {
            "agreement_correlation": self.correlation,
            "agreement_tag_mAP": self.tag_mAP,
            "agreement_tau": self.tau,
        }


def agreement(
    pruned: Predictions,
    dense: Predictions,
    labels: LabelSet,
    protocol: EvaluationProtocol,
    *,
    bootstrap: int = 1000,
    seed: int = 0,
    group_pattern: str = "",
) -> Agreement:
    """Compare the predictions of two networks with the same classes on the same clips; targets are not used.

    Args:
        pruned: Predictions of the pruned network, with logits.
        dense: Predictions of the unpruned network, with logits.
        labels: Names of their classes.
        protocol: Protocol of the predictions, described in the result.
        bootstrap: Number of resamples of the 95 % intervals; 0 for no intervals.
        seed: Seed of the resampling.
        group_pattern: As in `epanns.evaluate`.

    Raises:
        DataError: If the clips or the numbers of classes differ, logits are missing, or there are fewer than two
            groups.
        ConfigError: If the pattern is invalid.
    """
    if pruned.clip_ids != dense.clip_ids or pruned.scores.shape != dense.scores.shape:
        raise DataError(
            f"predictions of {pruned.scores.shape} clips and classes and of {dense.scores.shape}: must be of the same "
            "clips and classes; score both networks on one pack"
        )
    logits, dense_logits = _logits_of(pruned), _logits_of(dense)
    correlation = weighted_correlation(logits, dense_logits, np.ones((1, len(logits))))[0]
    tags, threshold = own_tags(dense.scores)
    n_tagged = tags.sum(axis=0)
    is_scored = (n_tagged >= _FEWEST_TAGS) & (n_tagged < len(tags))
    ap = np.where(is_scored, average_precision(tags, pruned.scores), math.nan)
    tau = rank_correlation(pruned.scores, dense.scores)

    def intervals(groups: Sequence[str] | None) -> AgreementIntervals:
        drawn: dict[str, Any] = {"resamples": bootstrap, "seed": seed, "groups": groups}
        return AgreementIntervals(
            mean_correlation_interval(logits, dense_logits, **drawn) if np.isfinite(correlation).any() else None,
            mean_average_precision_interval(tags[:, is_scored], pruned.scores[:, is_scored], **drawn)
            if is_scored.any()
            else None,
            mean_interval(tau, **drawn),
        )

    def names_of(chosen: NDArray[np.bool_]) -> tuple[str, ...]:
        return tuple(labels.names[index] for index in np.flatnonzero(chosen))

    return Agreement(
        correlation=_mean(correlation),
        tag_mAP=_mean(ap),
        tau=_mean(tau),
        threshold=threshold,
        n_tags=int(tags.sum()),
        n_clips=len(tags),
        n_classes=len(labels),
        constant_classes=names_of(np.isnan(correlation)),
        classes_without_tags=names_of(n_tagged == 0),
        classes_with_few_tags=names_of((n_tagged > 0) & (n_tagged < _FEWEST_TAGS) & (n_tagged < len(tags))),
        classes_tagged_in_all=names_of(n_tagged == len(tags)),
        n_clips_without_ranking=int(np.isnan(tau).sum()),
        protocol=protocol.describe(),
        per_class=tuple(
            ClassAgreement(index, name, _mean(correlation[[index]]), _mean(ap[[index]]), int(n_tagged[index]))
            for index, name in enumerate(labels.names)
        ),
        intervals=intervals(None),
        resamples=bootstrap,
        seed=seed,
        by_group=intervals(groups_to_draw(group_pattern, dense.clip_ids)) if group_pattern else None,
        group_pattern=group_pattern,
    )


def own_tags(scores: NDArray[np.float64]) -> tuple[NDArray[np.bool_], float]:
    """Return a network's own tags, ``(clips, classes)``, and the threshold: the lowest score of a tag.

    The sum of the scores is the number of tags that the network expects, as each score is a probability. The tags are
    as many pairs of clip and class, those with the highest scores, and at least one; further pairs with the score of
    the last are tags too. One threshold for all classes leaves a class that is nowhere in the clips without tags, and
    no pair outside the tags of a class has a higher score than one inside: a network has average precision 1 in its
    own tags. AudioSet has 2.7 labels a clip (Gemmeke et al. 2017), YAMNet expects 2.3 on ESC-50; a softmax expects 1.

    Args:
        scores: ``(clips, classes)`` in [0, 1].
    """
    n_tags = min(max(1, round(float(scores.sum()))), scores.size)
    threshold = float(np.partition(scores.ravel(), -n_tags)[-n_tags])
    return scores >= threshold, threshold


def rank_correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Kendall's tau-b of each row (Kendall 1945), NaN where all values of a row of one array are equal.

    Args:
        one: ``(clips, classes)``; only the order within a clip matters.
        other: Of the same shape.
    """
    if one.shape[1] < 2:
        return np.full(len(one), math.nan)
    return np.array([kendalltau(*rows).statistic for rows in zip(one, other, strict=True)], np.float64)


def _logits_of(predictions: Predictions) -> NDArray[np.float64]:
    """Return logits; of a softmax less their mean over classes, on which its probabilities do not depend."""
    if predictions.logits is None:
        raise DataError("predictions without logits: must have the network's logits; make them with epanns.predict")
    logits = predictions.logits.astype(np.float64)
    return logits - logits.mean(axis=1, keepdims=True) if predictions.task == "single-label" else logits


def _mean(values: NDArray[np.float64]) -> float | None:
    """Return the mean of the defined values; None where no value is defined."""
    return float(np.nanmean(values)) if np.isfinite(values).any() else None
