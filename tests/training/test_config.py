"""Training settings: all wrong values are named together."""

import json
import re

import pytest

from epanns.data.batches.crop import Crop
from epanns.errors import ConfigError
from epanns.training.config import RULES, TrainingConfig


def test_settings_survive_json():
    config = TrainingConfig(iterations=7, schedule="cosine", mixup_alpha=0.0)
    assert TrainingConfig.from_dict(config.to_dict()) == config
    cropped = TrainingConfig(crop_seconds=1.5, short_clips="repeat")
    assert TrainingConfig.from_dict(cropped.to_dict()) == cropped


FIRST = "iterations batch_size learning_rate schedule warmup_iterations mixup_alpha spec_augment sampler"
LATER = {
    "crop_seconds": 1.5,
    "short_clips": "repeat",
    "precision": "bfloat16",
    "compile": True,
    "accumulate": 2,
    "clip_norm": 1.0,
    "ema_decay": 0.9,
    "dropout": False,
    "weight_decay": 0.01,
    "shift": True,
    "gain_decibels": 6.0,
    "keep": "last",
    "freeze_yamnet": True,
    "task": "single-label",
    "head_iterations": 5,
    "backbone_rate": 0.1,
    "distil_weight": 0.5,
    "feature_weight": 0.5,
    "teacher_precision": "bfloat16",
}


def test_a_new_setting_at_its_default_keeps_the_identity_of_a_run():
    assert list(TrainingConfig().to_dict()) == [*FIRST.split(), "validate_every", "freeze_backbone", "seed"]
    assert set(RULES) == {*TrainingConfig().to_dict(), *LATER}
    assert TrainingConfig().crop is None


@pytest.mark.parametrize("name", LATER)
def test_a_new_setting_at_another_value_changes_the_identity_of_a_run(name):
    default = {name: getattr(TrainingConfig(), name)}
    assert TrainingConfig.from_dict(default).to_dict() == TrainingConfig().to_dict()
    given = TrainingConfig.from_dict({name: LATER[name]})
    assert given.to_dict() == {**TrainingConfig().to_dict(), name: LATER[name]}
    assert TrainingConfig.from_dict(given.to_dict()) == given


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "single"}, "task='single' (did you mean 'single-label'?): must be one of multi-label, single-label"),
        ({"head_iterations": 9, "iterations": 9}, "head_iterations=9: must be below iterations=9; freeze_backbone tr"),
        (
            {"backbone_rate": 0},
            "backbone_rate=0: must be a finite number > 0; freeze_backbone keeps the backbone as it is",
        ),
        (
            {"freeze_backbone": True, "backbone_rate": 0.5},
            "head_iterations=0, backbone_rate=0.5 with freeze_backbone: a frozen backbone has no second phase",
        ),
        ({"freeze_backbone": True, "head_iterations": 5}, "head_iterations=5, backbone_rate=1 with freeze_backbone"),
    ],
)
def test_contradictory_phases_are_refused(settings, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        TrainingConfig(**settings)


def test_crops_are_settings_of_the_training():
    assert TrainingConfig(crop_seconds=2.0, seed=5).crop == Crop(2.0, "random", "pad", 5)
    assert TrainingConfig(short_clips="repeat").crop == Crop(None, "random", "repeat", 0)
    assert TrainingConfig(crop_seconds=2.0).to_dict()["crop_seconds"] == 2.0


def test_mixup_draws_two_clips_for_one():
    assert TrainingConfig(batch_size=32).drawn_clips == 64
    assert TrainingConfig(batch_size=32, mixup_alpha=0.0).drawn_clips == 32


def test_a_whole_number_for_a_number_is_the_same_run():
    whole, exact = ({"mixup_alpha": kind(1), "clip_norm": kind(2), "crop_seconds": kind(3)} for kind in (int, float))
    assert json.dumps(TrainingConfig(**whole).to_dict()) == json.dumps(TrainingConfig(**exact).to_dict())


def test_all_wrong_values_are_named_together():
    with pytest.raises(ConfigError) as caught:
        TrainingConfig(
            iterations=0,
            batch_size=2.5,
            learning_rate=-1.0,
            schedule="cosin",
            sampler="random",
            spec_augment="yes",
            mixup_alpha=True,
            crop_seconds=0,
            short_clips="tile",
            precision="float16",
            compile=1,
            accumulate=True,
            seed="a",
        )
    for message in (
        "training: iterations=0: must be a whole number >= 1 (--iterations); ",
        "batch_size=2.5: must be a whole number >= 1 (--batch-size); ",
        "learning_rate=-1.0: must be a finite number > 0",
        "mixup_alpha=True: must be a finite number >= 0",
        "schedule='cosin' (did you mean 'cosine'?): must be one of constant, cosine",
        "sampler='random': must be one of balanced, shuffled, weighted",
        "crop_seconds=0: must be a length in seconds, 0.01 to 3600",
        "short_clips='tile': must be one of pad, repeat",
        "precision='float16' (did you mean 'bfloat16'?): must be one of float32, bfloat16",
        "spec_augment='yes': must be true or false",
        "compile=1: must be true or false",
        "accumulate=True: must be a whole number >= 1",
        "seed='a': must be a whole number >= 0",
    ):
        assert message in str(caught.value)


def test_a_seed_that_no_record_could_hold_is_refused():
    with pytest.raises(ConfigError, match="seed=-1: must be a whole number >= 0"):
        TrainingConfig(seed=-1)


def test_unknown_keys_offer_the_nearest():
    with pytest.raises(ConfigError, match=re.escape("unknown key 'lr'; unknown key 'iteration' (did you mean")):
        TrainingConfig.from_dict({"lr": 1, "iteration": 3})
