"""Presets: named settings, each of which can be overridden."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epanns.errors import ConfigError
from epanns.feedback import notes_to
from epanns.training.config import PRESETS, TrainingConfig, read_training

LENGTHS = {"iterations": 2_000, "validate_every": 50}  # as a command has defaults of its own


@given(
    name=st.sampled_from([None, *PRESETS]),
    given_keys=st.sets(st.sampled_from(["iterations", "batch_size", "seed"])),
    defaults=st.sampled_from([None, LENGTHS]),
)
def test_a_key_overrides_the_preset_which_overrides_the_default(name, given_keys, defaults):
    table = dict.fromkeys(given_keys, 9_999)
    settings = PRESETS[name].settings if name else {}
    expected = TrainingConfig.from_dict({**TrainingConfig().to_dict(), **(defaults or {}), **settings, **table})
    assert read_training({"preset": name, **table}, defaults=defaults) == expected
    assert name or read_training(table, defaults=defaults) == expected


@pytest.mark.parametrize("name", PRESETS)
def test_a_run_keeps_the_settings_of_a_preset_and_not_its_name(name):
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


@given(name=st.sampled_from([*PRESETS]), iterations=st.integers(1, 5_000))
def test_first_steps_of_a_preset_fit_into_any_number_of_iterations(name, iterations):
    """They are the preset's where these fit, else the same share of the iterations, and then there is a note."""
    notes: list[str] = []
    with notes_to(notes.append):
        config = read_training({"preset": name, "iterations": iterations})
    preset = PRESETS[name].settings
    for setting in ("warmup_iterations", "head_iterations"):
        usual, found = preset.get(setting, 0), getattr(config, setting)
        told = f"preset {name}: {setting}={found} instead of {usual}, in proportion to iterations={iterations}"
        if usual < iterations:
            assert found == usual
        else:
            assert found == usual * iterations // preset["iterations"] < iterations
        assert (usual >= iterations) == any(note.startswith(told) for note in notes)


def test_first_steps_that_a_user_sets_are_left_alone():
    table, notes = {"preset": "transfer", "iterations": 60, "warmup_iterations": 10}, []
    with notes_to(notes.append):
        config = read_training(table)
    assert (config.warmup_iterations, config.head_iterations) == (10, 6)
    assert [note.split(",")[0] for note in notes] == ["preset transfer: head_iterations=6 instead of 200"]
    with pytest.raises(ConfigError, match=r"warmup_iterations=90: must be below iterations=60 \(--warmup-iterations\)"):
        read_training({**table, "warmup_iterations": 90})


def test_a_frozen_backbone_ignores_the_preset_s_settings_of_the_backbone():
    config = read_training({"preset": "transfer", "freeze_backbone": True})
    assert (config.freeze_backbone, config.head_iterations, config.backbone_rate) == (True, 0, 1.0)
    assert (config.iterations, config.ema_decay) == (2_000, 0.999)
    for setting, value in (("head_iterations", 200), ("backbone_rate", 0.1)):
        with pytest.raises(ConfigError, match=f"{setting}={value}.* with freeze_backbone: a frozen backbone has no"):
            read_training({"preset": "transfer", "freeze_backbone": True, setting: value})
