"""How good a tagger is, as plain numbers."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class ClassScore:
    """Scores of one class; `ap` is None without positives, `auc` also without negatives."""

    index: int
    name: str
    ap: float | None
    auc: float | None
    n_positive: int


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

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, the keys of ``epanns evaluate --json``."""
        interval = None if self.mAP_interval is None else list(self.mAP_interval)
        return asdict(self) | {
            "classes_without_positives": list(self.classes_without_positives),
            "per_class": [asdict(row) for row in self.per_class],
            "mAP_interval": interval,
        }

    def summary(self) -> Mapping[str, float | int | None]:
        """Return the numbers that go into a run record."""
        return {
            "mAP": self.mAP,
            "mAUC": self.mAUC,
            "d_prime": self.d_prime,
            "n_clips": self.n_clips,
            "n_classes_scored": self.n_classes_scored,
        }
