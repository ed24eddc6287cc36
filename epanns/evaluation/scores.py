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

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, the keys of ``evaluate --json``; accuracy and recall of single-label networks only."""
        values = asdict(self) | {
            "classes_without_positives": list(self.classes_without_positives),
            "per_class": [asdict(row) for row in self.per_class],
            "mAP_interval": _as_list(self.mAP_interval),
            "accuracy_interval": _as_list(self.accuracy_interval),
        }
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


def _as_list(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else list(interval)
