"""Presets: recipes by name, every value of which can be given otherwise."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epanns.errors import ConfigError
from epanns.training.config import TrainingConfig
from epanns.training.presets import PRESETS, read_training

LENGTHS = {"iterations": 2_000, "validate_every": 50}  # as a command has defaults of its own


@given(
    name=st.sampled_from([None, *PRESETS]),
    given_keys=st.sets(st.sampled_from(["iterations", "batch_size", "seed"])),
    defaults=st.sampled_from([None, LENGTHS]),
)
def test_a_key_beats_the_preset_which_beats_the_default(name, given_keys, defaults):
    table = dict.fromkeys(given_keys, 9_999)
    settings = PRESETS[name].settings if name else {}
    expected = TrainingConfig.from_dict({**TrainingConfig().to_dict(), **(defaults or {}), **settings, **table})
    assert read_training({"preset": name, **table}, defaults=defaults) == expected
    assert name or read_training(table, defaults=defaults) == expected


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_its_settings_and_its_name_is_not_kept(name):
    said = read_training(PRESETS[name].settings)
    assert read_training({"preset": name}) == said
    assert "preset" not in said.to_dict()
    assert {"iterations", "learning_rate", "schedule", "validate_every"} <= PRESETS[name].settings.keys()


def test_panns_is_the_published_recipe():
    """main.py of audioset_tagging_cnn, and the step of the published Cnn14; what it has not is switched off."""
    config = read_training({"preset": "panns"}, defaults=LENGTHS)
    assert (config.learning_rate, config.schedule, config.warmup_iterations) == (1e-3, "constant", 0)
    assert (config.batch_size, config.drawn_clips, config.mixup_alpha) == (32, 64, 1.0)
    assert (config.spec_augment, config.sampler, config.precision) == (True, "balanced", "float32")
    assert (config.iterations, config.validate_every) == (600_000, 2_000)
    assert (config.clip_norm, config.ema_decay, config.accumulate) == (0, 0, 1)


@pytest.mark.parametrize(("name", "said"), [("shrt", "'shrt' (did you mean 'short'?)"), (3, "3"), ([], "[]")])
def test_an_unknown_preset_offers_the_known(name, said):
    rule = f"training: preset={said}: must be one of {', '.join(PRESETS)} (--preset)"
    with pytest.raises(ConfigError, match=re.escape(rule)):
        read_training({"preset": name})


def test_what_contradicts_a_preset_is_said():
    with pytest.raises(ConfigError, match=r"warmup_iterations=\d+: must be below iterations=2 \(--warmup-iterations\)"):
        read_training({"preset": "short", "iterations": 2})


def test_a_frozen_backbone_takes_nothing_of_it_from_the_preset_and_all_from_the_table():
    config = read_training({"preset": "transfer", "freeze_backbone": True})
    assert (config.freeze_backbone, config.head_iterations, config.backbone_rate) == (True, 0, 1.0)
    assert (config.iterations, config.ema_decay) == (2_000, 0.999)
    for setting, value in (("head_iterations", 200), ("backbone_rate", 0.1)):
        with pytest.raises(ConfigError, match=f"{setting}={value}.* with freeze_backbone: a frozen backbone has no"):
            read_training({"preset": "transfer", "freeze_backbone": True, setting: value})
