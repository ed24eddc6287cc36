"""Presets: named sets of training settings, each of which can be overridden."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from epanns.errors import ConfigError
from epanns.feedback import note
from epanns.strict import Rule, integer, one_of, or_none, shown
from epanns.training.settings.config import TrainingConfig, option_of


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
_PRESET: Rule = or_none(one_of(PRESETS))


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
        raise ConfigError(f"training: must be a table, is {shown(table)}")
    name = table.get("preset")
    if problem := _PRESET.problem("preset", name, " (--preset)"):
        raise ConfigError(f"training: {problem}")
    ignored = _OF_THE_BACKBONE if table.get("freeze_backbone") else ()
    settings = {} if name is None else PRESETS[name].settings
    preset = {setting: value for setting, value in settings.items() if setting not in ignored}
    iterations = table.get("iterations")
    scaled = {}
    if preset and integer(1).holds(iterations):
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
