"""The training recipe as options, in the sections that `epanns train` and `epanns finetune` show in their help."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import click

from epanns.cli.options import SEED, Decorator
from epanns.cli.sections import SectionedCommand
from epanns.training.config import RULES, TrainingConfig, option_of
from epanns.training.presets import PRESETS, read_training

# Section of the help -> setting of TrainingConfig -> help of its option, which has its name.
_SETTINGS: Mapping[str, Mapping[str, str]] = {
    "Data": {
        "crop_seconds": "Length in seconds of the random windows that are learned from.",
        "short_clips": "Filling of short clips: zeros (pad) or the clip itself (repeat).",
        "sampler": "Order of the clips: classes in turn (balanced), clips in turn (shuffled), or clips of rare classes "
        "more often (weighted).",
    },
    "Recipe": {
        "task": "Classes of a clip: several (sigmoids; the best step by mAP) or exactly one (softmax; the best step by "
        "accuracy).",
        "batch_size": "Clips in the loss of a step; mixup draws twice as many.",
        "learning_rate": "Adam's rate at its highest.",
        "mixup_alpha": "Beta parameter of mixup; 0 for none.",
        "spec_augment": "SpecAugment: masked stripes of time and mel.",
        "dropout": "Dropout, as in PANNs.",
        "clip_norm": "Largest norm of the gradient; 0 for no limit.",
        "ema_decay": "Decay of a moving average of the weights, which is scored and kept; 0 for none.",
        "seed": "Seed of all random numbers.",
    },
    "Schedule": {
        "iterations": "Optimisation steps.",
        "schedule": "Course of the rate after the warm-up; cosine and linear end at zero.",
        "warmup_iterations": "Number of first steps over which the rate rises from zero.",
        "validate_every": "Steps between validations; the state is saved at each.",
    },
    "Transfer": {
        "freeze_backbone": "Training of the classifier alone, in all steps; batch norms stay as they are.",
        "head_iterations": "Number of first steps in which the classifier alone is trained.",
        "backbone_rate": "Factor on the rate of everything but the classifier.",
    },
    "Distillation": {
        "distil_weight": "Share of the loss, 0 to 1, that the teacher's scores have; the labels have the rest.",
        "feature_weight": "Weight of the distance from the teacher's embedding.",
        "teacher_precision": "Number format of the teacher's forward pass.",
    },
    "Speed and memory": {
        "precision": "Number format of the network's forward and backward passes; bfloat16 is autocast, weights "
        "stay float32.",
        "compile": "Have torch.compile make the network's stages: other rounding and dropout masks, the same at each "
        "run.",
        "accumulate": "Number of parts in which a batch passes the network, to save memory; batch norms see one part "
        "at a time.",
    },
}
# Section -> options that are no settings; those that a command has not are left out.
_OTHERS: Mapping[str, Sequence[str]] = {
    "Data": ("train", "val", "labels", "mp3-seconds"),
    "Recipe": ("preset",),
    "Transfer": ("yamnet", "freeze-yamnet", "new-classifier"),
    "Distillation": ("teacher",),
    "Speed and memory": ("workers", "device"),
    "Running": ("out", "save-every", "tensorboard", "fresh", "json"),
}


# What a setting that is None by default is then.
_UNSET = {
    "crop_seconds": "whole clips",
    "task": "the checkpoint's",
    "teacher_precision": "--precision's",
}


@dataclass(frozen=True)
class Recipe:
    """The settings that a command has as options.

    Attributes:
        without: Those it has not.
        defaults: Those with another default than `TrainingConfig`'s.
        unset: Those that are something else than usual where they are not given, in words.
    """

    without: Sequence[str] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    unset: Mapping[str, str] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, str]:
        """Setting -> help, in the order shown."""
        return {name: text for part in _SETTINGS.values() for name, text in part.items() if name not in self.without}

    @property
    def presets(self) -> list[str]:
        """Presets that set nothing but what the command has."""
        return [name for name, preset in PRESETS.items() if preset.settings.keys() <= self.settings.keys()]

    def default(self, setting: str) -> Any:
        """Return a setting without preset."""
        return self.defaults.get(setting, getattr(TrainingConfig(), setting))

    def options(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Add the options and ``--preset``; the command receives them as one `TrainingConfig` named `config`."""
        settings = self.settings

        @functools.wraps(function)
        def command(**values: Any) -> Any:
            answers = {name: values.pop(name) for name in ("preset", *settings)}
            given = {name: value for name, value in answers.items() if value is not None}
            return function(config=read_training(given, defaults=self.defaults), **values)

        for name, text in reversed(settings.items()):
            self._option(name, text)(command)
        preset = click.option(
            "--preset",
            type=click.Choice(self.presets),
            metavar="|".join(self.presets),
            help="Settings that go together, listed below; an option that is given beats them.",
        )
        with_preset: Callable[..., Any] = preset(command)
        return with_preset

    def _option(self, name: str, text: str) -> Decorator:
        """Return a setting's option, None where it is not given: a preset or the default answers then."""
        default = self.default(name)
        shown = _shown({**_UNSET, **self.unset}.get(name, default))
        option, choices = option_of(name), "|".join(RULES[name].choices)
        return click.option(
            f"{option}/--no-{option[2:]}" if isinstance(default, bool) else option,
            type=SEED if name == "seed" else (str if choices else float) if default is None else type(default),
            metavar=choices or None,
            default=None,
            help=f"{text}  [default: {shown}]",
        )

    def table(self) -> list[str]:
        """Return the lines of a table: what each preset sets, beside the command's own defaults."""
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
    """A command that trains; its help ends with what the presets set."""

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
        with formatter.section("What they set (blank: nothing)"):
            for line in self.recipe.table():
                formatter.write(f"{'':{formatter.current_indent}}{line}\n")


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
