"""Options of `epanns train` and `epanns finetune`: the recipe, YAMNet's body and the teacher."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from epanns.cli.shared.options import CHECKPOINT, EXISTING, SEED, Decorator, SectionedCommand
from epanns.cli.shared.terminal import log
from epanns.errors import ConfigError
from epanns.training.config import PRESETS, RULES, TEACHER_WEIGHTS, TrainingConfig, frozen_in, option_of, read_training

if TYPE_CHECKING:
    from epanns.labels import LabelSet
    from epanns.models.tagger import Tagger
    from epanns.training.teacher_scores import TeacherScores

# Section of the help -> setting of TrainingConfig -> help of its option, which has the same name.
_SETTINGS: Mapping[str, Mapping[str, str]] = {
    "Data": {
        "crop_seconds": "Length in seconds of the random crops of training clips.",
        "short_clips": "Padding of short clips: with zeros (pad) or with the clip itself (repeat).",
        "sampler": "Order of the training clips: classes in turn (balanced), clips in turn (shuffled), or at random, "
        "rare classes more often (weighted).",
    },
    "Recipe": {
        "task": "Classes of a clip: several (sigmoid; best step by mAP) or exactly one (softmax; best step by "
        "accuracy).",
        "batch_size": "Number of clips per optimisation step; mixup draws twice as many.",
        "learning_rate": "Highest learning rate of Adam.",
        "weight_decay": "Decoupled weight decay (AdamW); 0 for none.",
        "mixup_alpha": "Parameter of mixup's Beta distribution; 0 for no mixup.",
        "spec_augment": "SpecAugment: masked stripes of time and frequency.",
        "shift": "Random shift of each clip in time; the end continues at the start.",
        "gain_decibels": "Largest random gain of each clip in dB, louder or quieter; 0 for none.",
        "dropout": "Dropout, as in PANNs.",
        "clip_norm": "Largest norm of the gradient; 0 for no limit.",
        "ema_decay": "Decay of the moving average of the weights, which is then scored and kept; 0 for none.",
        "seed": "Seed of all random numbers.",
    },
    "Schedule": {
        "iterations": "Number of optimisation steps.",
        "schedule": "Course of the learning rate after the warm-up; cosine and linear end at zero.",
        "warmup_iterations": "Number of first steps over which the learning rate rises from zero.",
        "validate_every": "Number of steps between validations, at which the state is saved too.",
        "keep": "Step whose weights are kept: the step with the best validation score, or the last.",
    },
    "Transfer": {
        "freeze_backbone": "Whether only the classifier is trained, in all steps, with batch norms fixed.",
        "head_iterations": "Number of first steps in which only the classifier is trained.",
        "backbone_rate": "Factor on the learning rate of all layers but the classifier.",
    },
    "Distillation": {
        "distil_weight": "Weight of the teacher's scores in the loss, 0 to 1; the labels have the rest.",
        "feature_weight": "Weight of the distance from the teacher's embedding in the loss.",
        "teacher_precision": "Number format of the teacher's forward pass.",
    },
    "Speed and memory": {
        "precision": "Number format of the network's forward and backward passes; bfloat16 is autocast, weights "
        "stay float32.",
        "compile": "Whether torch.compile compiles the network: rounding and dropout masks then differ, but are the "
        "same at each run.",
        "accumulate": "Number of parts in which a batch is processed, to save memory; batch norms use the statistics "
        "of one part.",
    },
}
# Section -> options that are no settings; a command has some of them.
_OTHERS: Mapping[str, Sequence[str]] = {
    "Data": ("train", "val", "labels", "mp3-seconds"),
    "Recipe": ("preset",),
    "Transfer": ("yamnet", "freeze-yamnet", "new-classifier"),
    "Distillation": ("teacher",),
    "Speed and memory": ("workers", "device"),
    "Running": ("out", "save-every", "tensorboard", "fresh", "json"),
}
# Setting that is None by default -> its meaning in the help.
_UNSET = {"crop_seconds": "whole clips", "task": "the checkpoint's", "teacher_precision": "--precision's"}

TEACHER_WEIGHT = 0.5  # default of --distil-weight with --teacher and no weight


@dataclass(frozen=True)
class Recipe:
    """The settings of `TrainingConfig` that a command has as options.

    Attributes:
        without: Settings that the command lacks.
        defaults: Defaults that differ from those of `TrainingConfig`.
        unset: Setting that is None by default -> its meaning in the help, if that differs from other commands.
    """

    without: Sequence[str] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    unset: Mapping[str, str] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, str]:
        """Setting -> help, in the order of the help."""
        return {name: text for part in _SETTINGS.values() for name, text in part.items() if name not in self.without}

    @property
    def presets(self) -> list[str]:
        """The presets whose settings are all options of the command."""
        return [name for name, preset in PRESETS.items() if preset.settings.keys() <= self.settings.keys()]

    def default(self, setting: str) -> Any:
        """Return the value of a setting without preset."""
        return self.defaults.get(setting, getattr(TrainingConfig(), setting))

    def options(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Add the options and ``--preset``; the command receives them as one `TrainingConfig` named `config`."""
        settings = self.settings

        @functools.wraps(function)
        def command(**values: Any) -> Any:
            chosen = {name: values.pop(name) for name in ("preset", *settings)}
            given = {name: value for name, value in chosen.items() if value is not None}
            return function(config=read_training(given, defaults=self.defaults), **values)

        for name, text in reversed(settings.items()):  # None unless given, so that a preset can set it
            default = self.default(name)
            shown = _shown({**_UNSET, **self.unset}.get(name, default))
            option, choices = option_of(name), "|".join(RULES[name].choices)
            click.option(
                f"{option}/--no-{option[2:]}" if isinstance(default, bool) else option,
                type=SEED if name == "seed" else (str if choices else float) if default is None else type(default),
                metavar=choices or None,
                default=None,
                help=f"{text}  [default: {shown}]",
            )(command)
        preset = click.option(
            "--preset",
            type=click.Choice(self.presets),
            metavar="|".join(self.presets),
            help="Name of a group of settings, listed below; options take precedence.",
        )
        with_preset: Callable[..., Any] = preset(command)
        return with_preset

    def table(self) -> list[str]:
        """Return a table of the settings of each preset and of the command's defaults, as lines."""
        columns = {"default": {name: self.default(name) for name in self.settings}}
        columns |= {name: dict(PRESETS[name].settings) for name in self.presets}
        set_by_any = [
            name for name in self.settings if any(name in PRESETS[preset].settings for preset in self.presets)
        ]
        rows = [["", *columns]]
        for name in set_by_any:
            rows.append([option_of(name)[2:], *(_shown(column.get(name, "")) for column in columns.values())])
        widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
        return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


class RecipeCommand(SectionedCommand):
    """A command that trains; its help ends with the settings of the presets."""

    def __init__(self, *args: Any, recipe: Recipe, params: list[click.Parameter], **kwargs: Any) -> None:
        self.recipe = recipe
        has = {name.removeprefix("--") for item in params for name in item.opts}
        sections = {}
        for title in dict.fromkeys((*_SETTINGS, *_OTHERS)):
            names = (*_OTHERS.get(title, ()), *(option_of(name)[2:] for name in _SETTINGS.get(title, ())))
            sections[title] = [name for name in names if name in has]
        sections = {title: names for title, names in sections.items() if names}
        super().__init__(*args, params=params, sections=sections, **kwargs)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, then the table of the presets."""
        super().format_options(ctx, formatter)
        with formatter.section("Presets"):
            formatter.write_dl([(name, f"{PRESETS[name].purpose}.") for name in self.recipe.presets])
        with formatter.section("Settings of the presets (blank: as without preset)"):
            for line in self.recipe.table():
                formatter.write(f"{'':{formatter.current_indent}}{line}\n")


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


yamnet_option = click.option(
    "--yamnet",
    type=EXISTING,
    help="YAMNet on whose body a network of LEAN is built: a checkpoint, yamnet.h5 or folded .npz.",
)


def freeze_option(default: str) -> Decorator:
    """Return ``--freeze-yamnet``; `default` describes its default in the help."""
    return click.option(
        "--freeze-yamnet/--no-freeze-yamnet",
        default=None,
        help=f"Whether the weights of YAMNet's body stay fixed, in a network of LEAN.  [default: {default}]",
    )


def build_on_checkpoint(name: str, checkpoint: Path, labels: "LabelSet") -> "Tagger":
    """Return one of LEAN's networks with the body of a YAMNet checkpoint."""
    from epanns.models.files.load import load
    from epanns.models.warm_start import build_on_yamnet

    yamnet = load(checkpoint)
    for assumption in yamnet.provenance.assumed:
        log(f"{checkpoint}: {assumption}")
    return build_on_yamnet(name, yamnet, labels=labels)


def with_frozen_body(
    config: TrainingConfig, given: bool | None, *, by_default: bool, remedy: str = "--no-freeze-yamnet"
) -> TrainingConfig:
    """Return the settings with YAMNet's body frozen or not, and log a body that is frozen by default.

    `given` is the value of ``--freeze-yamnet``, `remedy` the option or key that trains the body.
    """
    config = frozen_in(config, given, by_default=by_default)
    if config.freeze_yamnet and given is None:
        log(f"YAMNet's body stays frozen; {remedy} trains it")
    return config


def check_yamnet_options(name: str, checkpoint: Path | None, *, width: float, freeze: bool | None) -> None:
    """Raise `ConfigError` if ``--yamnet``, ``--freeze-yamnet`` and ``--width`` contradict each other or the network."""
    from epanns.models.warm_start import require_body

    if checkpoint is not None or freeze:
        require_body(name)
    if checkpoint is None and freeze:
        raise ConfigError("--freeze-yamnet without --yamnet: a body of random weights must be trained; give --yamnet")
    if checkpoint is not None and width != 1.0:
        raise ConfigError(f"--width {width:g} with --yamnet {checkpoint}: the body has its own widths, remove --width")


def teacher_option(default: str) -> Decorator:
    """Return ``--teacher``; `default` describes its default in the help."""
    return click.option(
        "--teacher",
        type=CHECKPOINT,
        help="Checkpoint of the teacher, or its scores of the training clips (scores.npz of `epanns evaluate`); "
        f"without a weight, --distil-weight is {TEACHER_WEIGHT:g}.  [default: {default}]",
    )


def with_teacher_weight(config: TrainingConfig, teacher: Path | None) -> TrainingConfig:
    """Return the settings with `TEACHER_WEIGHT` if a teacher is given without a weight."""
    context = click.get_current_context()
    not_given = (None, ParameterSource.DEFAULT)  # None: the command lacks the option
    given = [name for name in TEACHER_WEIGHTS if context.get_parameter_source(name) not in not_given]
    return config if teacher is None or given else replace(config, distil_weight=TEACHER_WEIGHT)


def open_teacher(
    checkpoint: Path | None, teacher: Path | None, config: TrainingConfig
) -> "Tagger | TeacherScores | None":
    """Return the teacher, by default the unpruned network of a pruned `checkpoint`, or None if no weight is above 0.

    Raises:
        ConfigError: If there is a weight without a teacher, or a teacher without a weight.
        CheckpointError: If the teacher cannot be read.
        DataError: If a file of scores cannot be read.
    """
    from epanns.clip_scores import holds_scores
    from epanns.models.files.load import find_unpruned, load
    from epanns.training.distillation import check_teacher_settings
    from epanns.training.teacher_scores import read_teacher_scores

    weights = config.teacher_weights
    has_teacher = teacher is not None or bool(weights)
    check_teacher_settings(config, has_teacher=has_teacher)
    if not has_teacher:
        return None
    if teacher is None and checkpoint is not None:
        teacher = find_unpruned(checkpoint)
    if teacher is None:
        raise ConfigError(
            f"{' and '.join(weights)} without a teacher: "
            + (f"{checkpoint} has no unpruned network in {checkpoint.parent}; " if checkpoint is not None else "")
            + "give --teacher CKPT"
        )
    shown = ", ".join(f"{name.replace('_', ' ')} {weight:g}" for name, weight in weights.items())
    if holds_scores(teacher):
        scores = read_teacher_scores(teacher)
        log(f"teacher: {teacher} (scores of {len(scores.rows):,} clips, sha256 {scores.sha256[:12]}), {shown}")
        return scores
    network = load(teacher)
    log(f"teacher: {teacher} ({network.spec.name}, sha256 {str(network.provenance.sha256)[:12]}), {shown}")
    return network
