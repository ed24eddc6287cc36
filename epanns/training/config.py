"""What a training run does, as data."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from epanns.data.crop import LONGEST_SECONDS, SHORT_CLIPS, SHORTEST_SECONDS, Crop
from epanns.data.sampler import SAMPLERS
from epanns.errors import ConfigError, did_you_mean
from epanns.models.tasks import TASKS

SCHEDULES = ("constant", "cosine", "linear")
PRECISIONS = ("float32", "bfloat16")

_CHOICES = {
    "schedule": SCHEDULES,
    "sampler": SAMPLERS,
    "short_clips": SHORT_CLIPS,
    "precision": PRECISIONS,
    "task": TASKS,
    "teacher_precision": PRECISIONS,
}
_LEAST = {
    "iterations": 1,
    "batch_size": 1,
    "accumulate": 1,
    "validate_every": 1,
    "warmup_iterations": 0,
    "head_iterations": 0,
    "seed": 0,
}
# Setting -> what it must be, and whether a number is that.
_NUMBERS: Mapping[str, tuple[str, Callable[[float], bool]]] = {
    "learning_rate": ("a number > 0", lambda value: 0 < value < math.inf),
    "mixup_alpha": ("a number >= 0; 0 switches mixup off", lambda value: 0 <= value < math.inf),
    "crop_seconds": (
        f"a length in seconds, {SHORTEST_SECONDS} to {LONGEST_SECONDS}",
        lambda value: SHORTEST_SECONDS <= value <= LONGEST_SECONDS,
    ),
    "clip_norm": ("a number > 0; leave it out not to clip", lambda value: 0 < value < math.inf),
    "backbone_rate": ("a number > 0; freeze_backbone keeps the backbone as it is", lambda value: 0 < value < math.inf),
    "ema_decay": ("a number in [0, 1); 0 switches the average off", lambda value: 0 <= value < 1),
    "distil_weight": ("a number in [0, 1]: 0 hears labels alone, 1 the teacher alone", lambda value: 0 <= value <= 1),
    "feature_weight": ("a number >= 0; 0 leaves embeddings alone", lambda value: 0 <= value < math.inf),
}
# What came later is left out of `to_dict` at these defaults.
_LATER: Mapping[str, Any] = {
    "crop_seconds": None,
    "short_clips": "pad",
    "precision": "float32",
    "accumulate": 1,
    "clip_norm": None,
    "ema_decay": 0.0,
    "task": None,
    "head_iterations": 0,
    "backbone_rate": 1.0,
    "distil_weight": 0.0,
    "feature_weight": 0.0,
    "teacher_precision": None,
}


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of one run; the defaults are PANNs' (audioset_tagging_cnn `pytorch/main.py`) but for the length.

    Attributes:
        iterations: Optimisation steps.
        batch_size: Clips the loss sees in a step; with mixup twice as many are drawn and mixed in pairs.
        learning_rate: Adam's, at its highest.
        schedule: ``constant``, or ``cosine`` or ``linear`` down to zero at the last step.
        warmup_iterations: Steps over which the rate rises linearly from zero.
        mixup_alpha: Both parameters of the Beta distribution of mixup; 0 switches mixup off.
        spec_augment: Zero time and mel stripes of the log-mel.
        sampler: ``balanced`` takes the classes in turn, ``shuffled`` the clips; ``weighted`` draws clips, those of
            rare classes more often.
        crop_seconds: Length of a window at a random place of each clip; None for its whole row.
        short_clips: ``pad`` with zeros or ``repeat`` clips that are shorter than the window or the row.
        validate_every: Steps between validations; the state is saved at each.
        freeze_backbone: Train the classifier alone, batch norms fixed.
        head_iterations: Steps at the start in which the classifier is trained alone, batch norms fixed; then everything
            is.
        backbone_rate: Factor on the learning rate of everything but the classifier.
        task: ``multi-label`` or ``single-label``: makes the network one of these, which decides its loss and the score
            by which the best step is chosen, mAP or accuracy; None for what the network is.
        precision: Of the network's forward and backward pass; ``bfloat16`` is autocast. Weights, front end, loss and
            optimizer are float32 either way.
        accumulate: Parts in which the batch of a step goes through the network, to save memory; batch norms see a part
            at a time.
        clip_norm: Highest Euclidean norm of the gradient, which is scaled down to it; None leaves it.
        ema_decay: Of the moving average of the weights (EMA), which is then what is scored and kept; 0 for none.
        distil_weight: Share of the loss that a teacher's scores have, in [0, 1]; the labels have the rest.
        feature_weight: Of the relative distance of the embedding from the teacher's, which is added to the loss.
        teacher_precision: Of the teacher's pass; None for that of `precision`.
        seed: Of weights' dropout, masks, mixup and the order of clips.
    """

    iterations: int = 10_000
    batch_size: int = 32
    learning_rate: float = 1e-3
    schedule: str = "constant"
    warmup_iterations: int = 0
    mixup_alpha: float = 1.0
    spec_augment: bool = True
    sampler: str = "balanced"
    crop_seconds: float | None = None
    short_clips: str = "pad"
    validate_every: int = 1_000
    freeze_backbone: bool = False
    head_iterations: int = 0
    backbone_rate: float = 1.0
    task: str | None = None
    precision: str = "float32"
    accumulate: int = 1
    clip_norm: float | None = None
    ema_decay: float = 0.0
    distil_weight: float = 0.0
    feature_weight: float = 0.0
    teacher_precision: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        problems = [
            f"{name}={getattr(self, name)!r}: must be a whole number >= {least}"
            for name, least in _LEAST.items()
            if type(getattr(self, name)) is not int or getattr(self, name) < least
        ]
        problems += [
            f"{name}={getattr(self, name)!r}: must be {rule}"
            for name, (rule, holds) in _NUMBERS.items()
            if not self._is_left_out(name) and not (_is_number(getattr(self, name)) and holds(getattr(self, name)))
        ]
        problems += [
            f"{name}={getattr(self, name)!r}: must be true or false"
            for name in ("spec_augment", "freeze_backbone")
            if type(getattr(self, name)) is not bool
        ]
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in choices and not self._is_left_out(name):
                problems.append(
                    f"{name}={value!r}{did_you_mean(str(value), choices)}: must be one of {', '.join(choices)}"
                )
        problems = problems or self._contradictions()
        if problems:
            raise ConfigError("training: " + "; ".join(problems))

    def _contradictions(self) -> list[str]:
        """Return which settings, each possible by itself, do not go together."""
        problems = []
        if self.batch_size % self.accumulate:
            problems.append(f"accumulate={self.accumulate}: must divide batch_size={self.batch_size}")
        if self.head_iterations >= self.iterations:
            problems.append(
                f"head_iterations={self.head_iterations}: must be below iterations={self.iterations}; "
                "freeze_backbone trains the classifier alone to the end"
            )
        if self.freeze_backbone and (self.head_iterations or self.backbone_rate != 1):
            problems.append(
                f"head_iterations={self.head_iterations}, backbone_rate={self.backbone_rate:g} with freeze_backbone: "
                "a frozen backbone has no second phase and no rate; leave them out"
            )
        return problems

    def _is_left_out(self, name: str) -> bool:
        return getattr(self, name) is None and name in _LATER and _LATER[name] is None

    @property
    def drawn_clips(self) -> int:
        """Clips drawn for one step."""
        return self.batch_size * (2 if self.mixup_alpha > 0 else 1)

    @property
    def crop(self) -> Crop | None:
        """What is taken of each training clip; None for its whole row as it was packed."""
        if self.crop_seconds is None and self.short_clips == "pad":
            return None
        return Crop(self.crop_seconds, short=self.short_clips, seed=self.seed)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON values.

        Those that came later are left out at their defaults, so that runs and trials from before keep their identity.
        """
        values = asdict(self)
        return {key: value for key, value in values.items() if key not in _LATER or value != _LATER[key]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainingConfig":
        """Read settings; missing ones keep their defaults, unknown ones are all named in the `ConfigError`."""
        known = {field.name for field in fields(cls)}
        problems = [f"unknown key {key!r}{did_you_mean(key, known)}" for key in values if key not in known]
        if problems:
            raise ConfigError("training: " + "; ".join(problems))
        return cls(**values)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
