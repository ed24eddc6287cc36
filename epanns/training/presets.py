"""Recipes by name: settings that go together, each of which can be given another value."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from epanns.errors import ConfigError, did_you_mean
from epanns.training.config import TrainingConfig


@dataclass(frozen=True)
class Preset:
    """A recipe.

    Attributes:
        purpose: What it is for, in a few words.
        settings: What it sets, by the keys of `TrainingConfig`.
    """

    purpose: str
    settings: Mapping[str, Any]


PRESETS: Mapping[str, Preset] = {
    # audioset_tagging_cnn `pytorch/main.py`, with Adam as in `optim.py`. It stops at 1,000,000 steps; the published
    # Cnn14 is that of step 600,000, and under a constant rate the steps after it change nothing about those before.
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
    # The new classifier first, under which the old weights would only be spoilt; then all, they slowly.
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
    # A short run has to end low: the rate falls to zero, and the average evens out the last few hundred steps.
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

_OF_THE_BACKBONE = ("head_iterations", "backbone_rate")  # mean nothing where it is frozen


def read_training(table: Mapping[str, Any], *, defaults: Mapping[str, Any] | None = None) -> TrainingConfig:
    """Read a table of settings that may name a preset: ``preset = "short"``.

    A key of the table beats the preset, which beats the defaults; with ``freeze_backbone`` in the table, what the
    preset says of how the backbone learns falls away. The name is not kept: a run is what its settings are, so that a
    preset that changes some day cannot make two runs look like one.

    Args:
        table: Keys of `TrainingConfig`, and ``preset``.
        defaults: What takes the place of `TrainingConfig`'s own.

    Raises:
        ConfigError: If there is no such preset, a key is unknown or a value is wrong.
    """
    preset = dict(_settings_of(table.get("preset")))
    if table.get("freeze_backbone"):
        for setting in _OF_THE_BACKBONE:
            preset.pop(setting, None)
    given = {**(defaults or {}), **preset, **table}
    given.pop("preset", None)
    return TrainingConfig.from_dict(given)


def _settings_of(name: object) -> Mapping[str, Any]:
    if name is None:
        return {}
    if not isinstance(name, str) or name not in PRESETS:
        nearest = did_you_mean(str(name), PRESETS)
        raise ConfigError(f"training: preset={name!r}{nearest}: must be one of {', '.join(PRESETS)} (--preset)")
    return PRESETS[name].settings
