"""What a training run does, as data."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from epanns.data.crop import LONGEST_SECONDS, SHORT_CLIPS, SHORTEST_SECONDS, Crop
from epanns.data.sampler import SAMPLERS
from epanns.errors import ConfigError
from epanns.labels import TASKS
from epanns.strict import (
    BOOLEAN,
    POSITIVE,
    Rule,
    field_values,
    from_table,
    integer,
    number,
    one_of,
    or_none,
    value_problems,
)

SCHEDULES = ("constant", "cosine", "linear")
PRECISIONS = ("float32", "bfloat16")
TEACHER_WEIGHTS = ("distil_weight", "feature_weight")

RULES: Mapping[str, Rule] = {
    "iterations": integer(1),
    "batch_size": integer(1),
    "learning_rate": POSITIVE,
    "schedule": one_of(SCHEDULES),
    "warmup_iterations": integer(0),
    "mixup_alpha": number("a finite number >= 0; 0 switches mixup off", lambda value: value >= 0),
    "spec_augment": BOOLEAN,
    "dropout": BOOLEAN,
    "sampler": one_of(SAMPLERS),
    "crop_seconds": or_none(
        number(
            f"a length in seconds, {SHORTEST_SECONDS} to {LONGEST_SECONDS}",
            lambda value: SHORTEST_SECONDS <= value <= LONGEST_SECONDS,
        )
    ),
    "short_clips": one_of(SHORT_CLIPS),
    "validate_every": integer(1),
    "freeze_backbone": BOOLEAN,
    "freeze_yamnet": BOOLEAN,
    "head_iterations": integer(0),
    "backbone_rate": number(
        "a finite number > 0; freeze_backbone keeps the backbone as it is", lambda value: value > 0
    ),
    "task": or_none(one_of(TASKS)),
    "precision": one_of(PRECISIONS),
    "compile": BOOLEAN,
    "accumulate": integer(1),
    "clip_norm": number("a finite number >= 0; 0 switches clipping off", lambda value: value >= 0),
    "ema_decay": number("a number in [0, 1); 0 switches the average off", lambda value: 0 <= value < 1),
    "distil_weight": number(
        "a number in [0, 1]: 0 hears labels alone, 1 the teacher alone", lambda value: 0 <= value <= 1
    ),
    "feature_weight": number("a finite number >= 0; 0 leaves embeddings alone", lambda value: value >= 0),
    "teacher_precision": or_none(one_of(PRECISIONS)),
    "seed": integer(0),
}
# What came later is left out of `to_dict` at its default.
_LATER = (
    "freeze_yamnet",
    *("crop_seconds", "short_clips", "precision", "compile", "accumulate", "clip_norm", "ema_decay"),
    *("dropout", "head_iterations", "backbone_rate", "task", "distil_weight", "feature_weight", "teacher_precision"),
)


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
        dropout: Drop out values as PANNs do: of maps behind blocks and of what `fc1` reads.
        sampler: ``balanced`` takes the classes in turn, ``shuffled`` the clips; ``weighted`` draws clips, those of
            rare classes more often.
        crop_seconds: Length of a window at a random place of each clip; None for its whole row.
        short_clips: ``pad`` with zeros or ``repeat`` clips that are shorter than the window or the row.
        validate_every: Steps between validations; the state is saved at each.
        freeze_backbone: Train the classifier alone, batch norms fixed.
        freeze_yamnet: Leave YAMNet's body as it is, batch norms too; of networks that are built on it.
        head_iterations: Steps at the start in which the classifier is trained alone, batch norms fixed; then everything
            is.
        backbone_rate: Factor on the learning rate of everything but the classifier.
        task: ``multi-label`` or ``single-label``: makes the network one of these, which decides its loss and the score
            by which the best step is chosen, mAP or accuracy; None for what the network is.
        precision: Of the network's forward and backward pass; ``bfloat16`` is autocast. Weights, front end, loss and
            optimizer are float32 either way.
        compile: Let torch.compile make the network's passes. They round otherwise, and dropout draws its masks from
            torch's generator, seeded by the step: as repeatable, but another run.
        accumulate: Parts in which the batch of a step goes through the network, to save memory; batch norms see a part
            at a time.
        clip_norm: Highest Euclidean norm of the gradient, which is scaled down to it; 0 leaves it.
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
    dropout: bool = True
    sampler: str = "balanced"
    crop_seconds: float | None = None
    short_clips: str = "pad"
    validate_every: int = 1_000
    freeze_backbone: bool = False
    freeze_yamnet: bool = False
    head_iterations: int = 0
    backbone_rate: float = 1.0
    task: str | None = None
    precision: str = "float32"
    compile: bool = False
    accumulate: int = 1
    clip_norm: float = 0.0
    ema_decay: float = 0.0
    distil_weight: float = 0.0
    feature_weight: float = 0.0
    teacher_precision: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if problems := value_problems(field_values(self), RULES, hint=_option_hint) or self._contradictions():
            raise ConfigError("training: " + "; ".join(problems))

    def _contradictions(self) -> list[str]:
        """Return what is wrong between settings that are right by themselves."""
        problems = []
        if self.batch_size % self.accumulate:
            problems.append(f"accumulate={self.accumulate}: must divide batch_size={self.batch_size} (--accumulate)")
        if self.warmup_iterations >= self.iterations:
            problems.append(
                f"warmup_iterations={self.warmup_iterations}: must be below iterations={self.iterations} "
                "(--warmup-iterations)"
            )
        if self.head_iterations >= self.iterations:
            problems.append(
                f"head_iterations={self.head_iterations}: must be below iterations={self.iterations}; "
                "freeze_backbone trains the classifier alone to the end (--head-iterations)"
            )
        if self.freeze_backbone and (self.head_iterations or self.backbone_rate != 1):
            problems.append(
                f"head_iterations={self.head_iterations}, backbone_rate={self.backbone_rate:g} with freeze_backbone: "
                "a frozen backbone has no second phase and no rate; they must be 0 and 1 (--head-iterations, "
                "--backbone-rate)"
            )
        if self.freeze_backbone and self.freeze_yamnet:
            problems.append("freeze_yamnet with freeze_backbone, which freezes it too: give one (--freeze-yamnet)")
        return problems

    @property
    def drawn_clips(self) -> int:
        """Clips drawn for one step."""
        return self.batch_size * (2 if self.mixup_alpha > 0 else 1)

    @property
    def teacher_weights(self) -> dict[str, float]:
        """The weights by which a teacher is listened to, those above 0; none where there is nobody to listen to."""
        return {name: getattr(self, name) for name in TEACHER_WEIGHTS if getattr(self, name) > 0}

    @property
    def crop(self) -> Crop | None:
        """What is taken of each training clip; None for its whole row as it was packed."""
        if self.crop_seconds is None and self.short_clips == "pad":
            return None
        return Crop(self.crop_seconds, short=self.short_clips, seed=self.seed)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON values; the same settings are the same text, also where 1 was given for 1.0.

        Those that came later are left out at their defaults, so that runs and trials from before keep their identity.
        """
        kept = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in _LATER or value != field.default:
                kept[field.name] = float(value) if RULES[field.name].is_number and value is not None else value
        return kept

    @classmethod
    def from_dict(cls, values: object) -> "TrainingConfig":
        """Return the settings of a table; missing keys keep their defaults.

        Raises:
            ConfigError: With every unknown key and wrong value, or if it is no table.
        """
        return from_table(cls, values, RULES, what="training: ", hint=_option_hint)


def option_of(name: str) -> str:
    """Return the option of the command line that gives a setting."""
    return f"--{name.replace('_', '-')}"


def _option_hint(name: str) -> str:
    return f" ({option_of(name)})"
