"""Settings of a training run, and presets: named sets of settings, each of which can be overridden."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from epanns import strict
from epanns.data.batches.crop import LONGEST_SECONDS, SHORT_CLIPS, SHORTEST_SECONDS, Crop
from epanns.data.batches.sampler import SAMPLERS
from epanns.errors import ConfigError
from epanns.feedback import note
from epanns.labels import TASKS

SCHEDULES = ("constant", "cosine", "linear")
PRECISIONS = ("float32", "bfloat16")
TEACHER_WEIGHTS = ("distil_weight", "feature_weight")
KEPT_STEPS = ("best", "last")

RULES: Mapping[str, strict.Rule] = {
    "iterations": strict.integer(1),
    "batch_size": strict.integer(1),
    "learning_rate": strict.POSITIVE,
    "weight_decay": strict.number("a finite number >= 0; 0 switches weight decay off", lambda value: value >= 0),
    "schedule": strict.one_of(SCHEDULES),
    "warmup_iterations": strict.integer(0),
    "mixup_alpha": strict.number("a finite number >= 0; 0 switches mixup off", lambda value: value >= 0),
    "spec_augment": strict.BOOLEAN,
    "shift": strict.BOOLEAN,
    "gain_decibels": strict.number("a number in [0, 60]; 0 for no gain", lambda value: 0 <= value <= 60),
    "dropout": strict.BOOLEAN,
    "sampler": strict.one_of(SAMPLERS),
    "crop_seconds": strict.or_none(
        strict.number(
            f"a length in seconds, {SHORTEST_SECONDS} to {LONGEST_SECONDS}",
            lambda value: SHORTEST_SECONDS <= value <= LONGEST_SECONDS,
        )
    ),
    "short_clips": strict.one_of(SHORT_CLIPS),
    "validate_every": strict.integer(1),
    "keep": strict.one_of(KEPT_STEPS),
    "freeze_backbone": strict.BOOLEAN,
    "freeze_yamnet": strict.BOOLEAN,
    "head_iterations": strict.integer(0),
    "backbone_rate": strict.number(
        "a finite number > 0; freeze_backbone keeps the backbone as it is", lambda value: value > 0
    ),
    "task": strict.or_none(strict.one_of(TASKS)),
    "precision": strict.one_of(PRECISIONS),
    "compile": strict.BOOLEAN,
    "accumulate": strict.integer(1),
    "clip_norm": strict.number("a finite number >= 0; 0 switches clipping off", lambda value: value >= 0),
    "ema_decay": strict.number("a number in [0, 1); 0 switches the average off", lambda value: 0 <= value < 1),
    "distil_weight": strict.number(
        "a number in [0, 1]: 0 for the labels alone, 1 for the teacher alone", lambda value: 0 <= value <= 1
    ),
    "feature_weight": strict.number("a finite number >= 0; 0 ignores embeddings", lambda value: value >= 0),
    "teacher_precision": strict.or_none(strict.one_of(PRECISIONS)),
    "seed": strict.integer(0),
}
# Settings that `to_dict` leaves out at their defaults, so that adding a setting keeps the identity of older runs.
_OMITTED_AT_DEFAULT = (
    "freeze_yamnet",
    *("weight_decay", "shift", "gain_decibels", "keep"),
    *("crop_seconds", "short_clips", "precision", "compile", "accumulate", "clip_norm", "ema_decay"),
    *("dropout", "head_iterations", "backbone_rate", "task", "distil_weight", "feature_weight", "teacher_precision"),
)


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of a run; the defaults are those of PANNs (audioset_tagging_cnn `pytorch/main.py`) but for the length.

    Attributes:
        iterations: Number of optimisation steps.
        batch_size: Number of clips in the loss of a step; with mixup twice as many are drawn and mixed in pairs.
        learning_rate: Highest learning rate of Adam.
        weight_decay: Decoupled weight decay (AdamW) of matrices and kernels; biases and batch norms have none.
        schedule: ``constant``, or ``cosine`` or ``linear`` decay to zero at the last step.
        warmup_iterations: Number of steps of linear warm-up from zero.
        mixup_alpha: Both parameters of the Beta distribution of mixup; 0 for no mixup.
        spec_augment: Whether to zero time and mel stripes of the log-mel.
        shift: Whether to shift each clip in time by a random number of samples; the end continues at the start.
        gain_decibels: Largest random gain of each clip, louder or quieter, in dB; 0 for none.
        dropout: Whether to use dropout as PANNs do: after blocks and before `fc1`.
        sampler: ``balanced`` takes the classes in turn, ``shuffled`` the clips; ``weighted`` draws clips at random,
            with more weight for rare classes.
        crop_seconds: Length of a crop at a random position of each clip; None for the whole packed clip.
        short_clips: ``pad`` or ``repeat`` clips that are shorter than the crop or the packed length.
        validate_every: Number of steps between validations; the state is saved at each.
        keep: ``best`` keeps the step with the best validation score, ``last`` the last step, so that the validation
            set chooses nothing.
        freeze_backbone: Whether to train the classifier alone, with fixed batch norms.
        freeze_yamnet: Whether to freeze YAMNet's body, batch norms too, in networks that are built on it.
        head_iterations: Number of steps at the start in which the classifier is trained alone, with fixed batch norms.
        backbone_rate: Factor on the learning rate of all parameters but the classifier's.
        task: ``multi-label`` or ``single-label``: sets the task of the network, which decides the loss and the score
            that chooses the best step, mAP or accuracy; None keeps the network's task.
        precision: Precision of the network's forward and backward pass; ``bfloat16`` is autocast. Weights, front end,
            loss and optimizer are float32 in both cases.
        compile: Whether to use torch.compile. Rounding differs, and dropout draws its masks from torch's generator,
            seeded by the step: as reproducible, but another run.
        accumulate: Number of parts in which a batch passes through the network, to save memory; batch norms normalise
            each part by itself.
        clip_norm: Largest Euclidean norm of the gradient, which is scaled down to it; 0 for no clipping.
        ema_decay: Decay of the moving average of the weights (EMA), which is then scored and kept; 0 for no average.
        distil_weight: Weight of the loss on a teacher's scores, in [0, 1]; the loss on the labels has the rest.
        feature_weight: Weight of the relative distance of the embedding from the teacher's, added to the loss.
        teacher_precision: Precision of the teacher's forward pass; None for that of `precision`.
        seed: Seed of dropout, masks, mixup and the order of clips.
    """

    iterations: int = 10_000
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    schedule: str = "constant"
    warmup_iterations: int = 0
    mixup_alpha: float = 1.0
    spec_augment: bool = True
    shift: bool = False
    gain_decibels: float = 0.0
    dropout: bool = True
    sampler: str = "balanced"
    crop_seconds: float | None = None
    short_clips: str = "pad"
    validate_every: int = 1_000
    keep: str = "best"
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
        problems = strict.value_problems(strict.field_values(self), RULES, hint=_option_hint)
        if not problems:
            contradictions = {
                f"accumulate={self.accumulate}: must divide batch_size={self.batch_size} (--accumulate)": (
                    self.batch_size % self.accumulate > 0
                ),
                f"warmup_iterations={self.warmup_iterations}: must be below iterations={self.iterations} "
                "(--warmup-iterations)": self.warmup_iterations >= self.iterations,
                f"head_iterations={self.head_iterations}: must be below iterations={self.iterations}; "
                "freeze_backbone trains the classifier alone to the end (--head-iterations)": (
                    self.head_iterations >= self.iterations
                ),
                f"head_iterations={self.head_iterations}, backbone_rate={self.backbone_rate:g} with freeze_backbone: "
                "a frozen backbone has no second phase and no rate; they must be 0 and 1 (--head-iterations, "
                "--backbone-rate)": self.freeze_backbone and (self.head_iterations > 0 or self.backbone_rate != 1),
                "freeze_yamnet with freeze_backbone, which freezes it too: give one (--freeze-yamnet)": (
                    self.freeze_backbone and self.freeze_yamnet
                ),
            }
            problems = [problem for problem, holds in contradictions.items() if holds]
        if problems:
            raise ConfigError("training: " + "; ".join(problems))

    @property
    def drawn_clips(self) -> int:
        """Number of clips drawn for one step."""
        return self.batch_size * (2 if self.mixup_alpha > 0 else 1)

    @property
    def teacher_weights(self) -> dict[str, float]:
        """Weights of the teacher that are above 0, by name; empty without distillation."""
        return {name: getattr(self, name) for name in TEACHER_WEIGHTS if getattr(self, name) > 0}

    @property
    def crop(self) -> Crop | None:
        """Crop of each training clip; None for the whole packed clip."""
        if self.crop_seconds is None and self.short_clips == "pad":
            return None
        return Crop(self.crop_seconds, short=self.short_clips, seed=self.seed)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON values; equal settings give equal text, also where 1 was given for 1.0.

        Some settings are left out at their defaults, see `_OMITTED_AT_DEFAULT`.
        """
        kept = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in _OMITTED_AT_DEFAULT or value != field.default:
                kept[field.name] = float(value) if RULES[field.name].is_number and value is not None else value
        return kept

    @classmethod
    def from_dict(cls, values: object) -> "TrainingConfig":
        """Return the settings in a table; missing keys have their defaults.

        Raises:
            ConfigError: With every unknown key and wrong value, or if it is not a table.
        """
        return strict.from_table(cls, values, RULES, what="training: ", hint=_option_hint)


def frozen_in(config: TrainingConfig, requested: bool | None, *, by_default: bool) -> TrainingConfig:
    """Return the settings with `freeze_yamnet` as requested, or else as by default.

    Args:
        config: Settings; with `freeze_backbone`, which includes YAMNet's body, the default is not to freeze it again.
        requested: Whether to freeze YAMNet's body; None if the user did not choose.
        by_default: Whether it was frozen before, by `models.warm_start.stays_frozen`, or has just been added.
    """
    return replace(config, freeze_yamnet=by_default and not config.freeze_backbone if requested is None else requested)


def option_of(name: str) -> str:
    """Return the command-line option of a setting."""
    return f"--{name.replace('_', '-')}"


def _option_hint(name: str) -> str:
    return f" ({option_of(name)})"


@dataclass(frozen=True)
class Preset:
    """A named set of settings.

    Attributes:
        purpose: Its purpose in a few words.
        settings: Values by the keys of `TrainingConfig`.
    """

    purpose: str
    settings: Mapping[str, Any]


PRESETS: Mapping[str, Preset] = {
    # audioset_tagging_cnn `pytorch/main.py`, with Adam as in `optimizer.py`. It stops at 1,000,000 steps; the published
    # Cnn14 is from step 600,000, and with a constant rate the later steps have no effect on it.
    "panns": Preset(
        "AudioSet, with the settings and the length of PANNs' own training",
        {
            "iterations": 600_000,
            "batch_size": 32,
            "learning_rate": 1e-3,
            "schedule": "constant",
            "warmup_iterations": 0,
            "mixup_alpha": 1.0,
            "spec_augment": True,
            "sampler": "balanced",
            "validate_every": 2_000,
            "clip_norm": 0.0,
            "ema_decay": 0.0,
        },
    ),
    # The new classifier first, whose random weights would damage the others; then all, the others slowly.
    "transfer": Preset(
        "A checkpoint on other classes",
        {
            "iterations": 2_000,
            "learning_rate": 1e-3,
            "schedule": "cosine",
            "warmup_iterations": 100,
            "head_iterations": 200,
            "backbone_rate": 0.1,
            "validate_every": 100,
            "clip_norm": 5.0,
            "ema_decay": 0.999,
        },
    ),
    # The learning rate decays to zero within the short run, and the average smooths the last few hundred steps.
    "short": Preset(
        "A few thousand steps, as for a pruned network",
        {
            "iterations": 3_000,
            "learning_rate": 1e-3,
            "schedule": "cosine",
            "warmup_iterations": 100,
            "validate_every": 250,
            "clip_norm": 5.0,
            "ema_decay": 0.999,
        },
    ),
}

_OF_THE_BACKBONE = ("head_iterations", "backbone_rate")  # without effect if it is frozen
_FIRST_STEPS = ("warmup_iterations", "head_iterations")  # must be below iterations
_PRESET = strict.or_none(strict.one_of(PRESETS))


def read_training(table: Mapping[str, Any], *, defaults: Mapping[str, Any] | None = None) -> TrainingConfig:
    """Read a table of settings that may name a preset: ``preset = "short"``.

    A key of the table overrides the preset, which overrides `defaults`, which replace those of `TrainingConfig`; with
    ``freeze_backbone`` in the table, the preset's settings of the backbone are ignored. If the table has fewer
    iterations than the preset's first steps (warm-up, classifier alone), these are scaled down in proportion, with a
    note. The name is not kept: a run is identified by its settings, so that a later change of a preset cannot make two
    runs look equal.

    Raises:
        ConfigError: If there is no such preset, a key is unknown or a value is wrong.
    """
    if not isinstance(table, Mapping):
        raise ConfigError(f"training: must be a table, is {strict.shown(table)}")
    name = table.get("preset")
    if problem := _PRESET.problem("preset", name, " (--preset)"):
        raise ConfigError(f"training: {problem}")
    ignored = _OF_THE_BACKBONE if table.get("freeze_backbone") else ()
    settings = {} if name is None else PRESETS[name].settings
    preset = {setting: value for setting, value in settings.items() if setting not in ignored}
    iterations = table.get("iterations")
    scaled = {}
    if preset and strict.integer(1).holds(iterations):
        scaled = {
            setting: preset[setting] * iterations // preset["iterations"]
            for setting in _FIRST_STEPS
            if setting not in table and preset.get(setting, 0) >= iterations
        }
    given = {**(defaults or {}), **preset, **scaled, **table}
    given.pop("preset", None)
    config = TrainingConfig.from_dict(given)
    for setting, value in scaled.items():
        note(
            f"preset {name}: {setting}={value} instead of {preset[setting]}, in proportion to "
            f"iterations={iterations}; set another value with {option_of(setting)}"
        )
    return config
