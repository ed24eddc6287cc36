"""Scores of a tagger as plain numbers."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class ClassScore:
    """Scores of one class.

    Attributes:
        ap: Average precision; None without positives.
        auc: Area under the ROC curve; None without positives or without negatives.
        n_positive: Number of positive clips.
        recall: Share of its clips that are classified correctly; None for multi-label networks.
    """

    index: int
    name: str
    ap: float | None
    auc: float | None
    n_positive: int
    recall: float | None = None


@dataclass(frozen=True)
class GroupIntervals:
    """95 % bootstrap intervals whose resamples draw groups of clips, such as recordings, instead of clips.

    Attributes:
        pattern: Regular expression that finds the group in the id of a clip.
        mAP_interval: Interval of mAP; None without resamples.
        accuracy_interval: Interval of accuracy; None also for multi-label networks.
    """

    pattern: str
    n_groups: int
    mAP_interval: tuple[float, float] | None  # noqa: N815
    accuracy_interval: tuple[float, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, with the interval of accuracy if there is one."""
        intervals = {"mAP_interval": self.mAP_interval, "accuracy_interval": self.accuracy_interval}
        return {
            "pattern": self.pattern,
            "n_groups": self.n_groups,
            **{
                name: _as_list(interval)
                for name, interval in intervals.items()
                if interval is not None or name == "mAP_interval"
            },
        }


@dataclass(frozen=True)
class Scores:
    """Scores of one tagger on one set of clips under one protocol.

    Attributes:
        mAP: Mean over classes of the average precision (macro), in [0, 1].
        mAUC: Mean over classes of the area under the ROC curve; None if no class has positives and negatives.
        d_prime: sqrt(2) * Phi^-1(mAUC); None if it is infinite or mAUC is None.
        n_classes_scored: Number of classes with a positive clip; mAP is the mean over them.
        classes_without_positives: Names of the other classes.
        protocol: Evaluation protocol in words.
        per_class: One row per class, in label order.
        mAP_interval: 95 % bootstrap interval over clips; None without resamples.
        accuracy: Share of clips whose class has the highest score (top 1), in [0, 1]; None for multi-label networks.
        accuracy_interval: Like `mAP_interval`.
        by_group: Intervals over groups of clips; None without groups.
        resamples: Number of resamples of every interval; 0 without intervals.
        seed: Seed of the resampling.
    """

    mAP: float  # noqa: N815
    mAUC: float | None  # noqa: N815
    d_prime: float | None
    n_clips: int
    n_classes_scored: int
    classes_without_positives: tuple[str, ...]
    protocol: str
    per_class: tuple[ClassScore, ...]
    mAP_interval: tuple[float, float] | None  # noqa: N815
    accuracy: float | None = None
    accuracy_interval: tuple[float, float] | None = None
    by_group: GroupIntervals | None = None
    resamples: int = 0
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, the keys of ``evaluate --json``.

        Accuracy and recall are left out for multi-label networks, and `by_group` without groups.
        """
        values = asdict(self) | {
            "classes_without_positives": list(self.classes_without_positives),
            "per_class": [asdict(row) for row in self.per_class],
            "mAP_interval": _as_list(self.mAP_interval),
            "accuracy_interval": _as_list(self.accuracy_interval),
        }
        del values["by_group"], values["resamples"], values["seed"]
        if self.by_group is not None:
            values["by_group"] = self.by_group.to_dict()
        if self.accuracy is None:
            del values["accuracy"], values["accuracy_interval"]
            for row in values["per_class"]:
                del row["recall"]
        return values

    def summary(self) -> Mapping[str, float | int | None]:
        """Return the numbers of a run record, with accuracy for single-label networks."""
        numbers = {
            "mAP": self.mAP,
            "mAUC": self.mAUC,
            "d_prime": self.d_prime,
            "n_clips": self.n_clips,
            "n_classes_scored": self.n_classes_scored,
        }
        return numbers if self.accuracy is None else {**numbers, "accuracy": self.accuracy}

    def intervals(self) -> dict[str, Any]:
        """Return the intervals of a run record, with the settings of the resampling; empty without intervals."""
        if self.mAP_interval is None:
            return {}
        by_clip = {"mAP": list(self.mAP_interval), "accuracy": _as_list(self.accuracy_interval)}
        found: dict[str, Any] = {
            "confidence": 0.95,
            "resamples": self.resamples,
            "seed": self.seed,
            "by_clip": {"n_clips": self.n_clips, **_present(by_clip)},
        }
        if self.by_group is not None:
            by_group = {"mAP": self.by_group.mAP_interval, "accuracy": self.by_group.accuracy_interval}
            found["by_group"] = {
                "n_groups": self.by_group.n_groups,
                "pattern": self.by_group.pattern,
                **_present({name: _as_list(interval) for name, interval in by_group.items()}),
            }
        return found


def _present(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _as_list(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else list(interval)
