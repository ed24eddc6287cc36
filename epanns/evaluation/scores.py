"""How good a tagger is, as plain numbers."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class ClassScore:
    """Scores of one class; `ap` is None without positives, `auc` also without negatives.

    `recall`, the share of its clips that the network takes for it, is of single-label networks alone, else None.
    """

    index: int
    name: str
    ap: float | None
    auc: float | None
    n_positive: int
    recall: float | None = None


@dataclass(frozen=True)
class GroupIntervals:
    """95 % bootstrap intervals of which each resample draws groups of clips, such as recordings, instead of clips.

    Attributes:
        pattern: Regular expression that found the groups in the clips' ids.
        n_groups: Number of groups.
        mAP_interval: Of mAP; None where intervals were not asked for.
        accuracy_interval: Of accuracy; None for multi-label networks too.
    """

    pattern: str
    n_groups: int
    mAP_interval: tuple[float, float] | None  # noqa: N815
    accuracy_interval: tuple[float, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; the interval of accuracy only where there is one."""
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
        mAUC: Mean over classes of the area under the ROC curve; None where no class has both kinds of clips.
        d_prime: sqrt(2) * Phi^-1(mAUC); None where that is infinite or mAUC is None.
        n_clips: Clips scored.
        n_classes_scored: Classes with a positive clip, over which mAP is the mean.
        classes_without_positives: Names of the classes left out.
        protocol: How a clip became a score, in words.
        per_class: One row per class, in label order.
        mAP_interval: 95 % bootstrap interval over clips; None where it was not asked for.
        accuracy: Share of clips whose class has the highest score (top 1), in [0, 1]; None for multi-label networks.
        accuracy_interval: Like `mAP_interval`.
        by_group: Intervals over groups of clips; None where no groups were given.
        resamples: Number of resamples of every interval; 0 where there is none.
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

        Accuracy and recall are those of single-label networks only; `by_group` is left out where there are no groups.
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
        """Return the numbers that go into a run record; accuracy only where there is one."""
        numbers = {
            "mAP": self.mAP,
            "mAUC": self.mAUC,
            "d_prime": self.d_prime,
            "n_clips": self.n_clips,
            "n_classes_scored": self.n_classes_scored,
        }
        return numbers if self.accuracy is None else {**numbers, "accuracy": self.accuracy}

    def intervals(self) -> dict[str, Any]:
        """Return the intervals as a run record has them, with what was drawn; empty where there are none."""
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
