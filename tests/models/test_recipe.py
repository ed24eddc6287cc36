"""Recipes: steps are appended, checked strictly, and read as lines."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epanns.models.recipe import (
    describe_step,
    recipe_problems,
    since_pruning,
    steps_of,
    training_step_of,
    with_step,
)

TRAIN = {"step": "train", "training": {"iterations": 30, "seed": 1}, "validation_mAP": 0.5}
PRUNE = {"step": "prune", "criterion": "l1", "ratios": {"conv_block1.conv1": 0.5}, "seed": 0}
RECOVER = {"step": "recover", "method": "bn", "clips": 8}
TUNE = {**TRAIN, "step": "finetune"}
MOVE = {"step": "transfer", "kept": {"dog": "Dog"}, "new": ["cat", "cow"]}


@given(st.lists(st.sampled_from([TRAIN, PRUNE, RECOVER, TUNE])))
def test_steps_are_kept_in_the_order_they_were_added(steps):
    provenance = {"source": "x"}
    for step in steps:
        provenance = with_step(provenance, **step)
    assert steps_of(provenance) == steps
    assert provenance["source"] == "x"
    assert recipe_problems(json.loads(json.dumps(steps_of(provenance)))) == []
    assert training_step_of(provenance) == ("finetune" if steps else "train")


def test_a_new_classifier_alone_makes_no_training_a_fine_tuning():
    assert training_step_of(with_step({}, **MOVE)) == "train"
    assert training_step_of(with_step(with_step({}, **TRAIN), **MOVE)) == "finetune"


def test_a_step_is_added_to_a_copy():
    before = with_step({}, **TRAIN)
    with_step(before, **PRUNE)
    assert steps_of(before) == [TRAIN]


@pytest.mark.parametrize(
    ("steps", "left"),
    [
        ([], []),
        ([TRAIN], []),
        ([TRAIN, TUNE], [TUNE]),
        ([TRAIN, PRUNE], []),
        ([TRAIN, TUNE, PRUNE, RECOVER, TUNE], [RECOVER, TUNE]),
        ([TRAIN, MOVE, TUNE], [MOVE, TUNE]),
        ([PRUNE, TRAIN, PRUNE, TUNE, TUNE], [TUNE, TUNE]),
    ],
)
def test_what_came_since_pruning(steps, left):
    assert since_pruning(steps) == left


@pytest.mark.parametrize(
    ("recipe", "problem"),
    [
        (None, "recipe must be a list of steps, is 'None'"),
        ([3], "recipe, step 1: must be a table, is '3'"),
        ([TRAIN, {}], "recipe, step 2: step=None: must be one of train, prune, recover, transfer, finetune"),
        ([{**PRUNE, "seed": True}], "recipe, step 1 (prune): seed must be a whole number, is 'True'"),
        ([{**PRUNE, "ratio": 1}], "recipe, step 1 (prune): unknown key 'ratio' (did you mean 'ratios'?)"),
        ([{"step": "recover", "method": "bn"}], "recipe, step 1 (recover): missing key 'clips'"),
        ([{**MOVE, "new": {}}], "recipe, step 1 (transfer): new must be a list, is '{}'"),
        ([{"step": "train", "training": 3}], "recipe, step 1 (train): training must be a table, is '3'"),
        (
            [{"step": "finetune", "training": {"iterations": 1.5, "seed": 0}}],
            "recipe, step 1 (finetune): training.iterations must be a whole number, is '1.5'",
        ),
    ],
)
def test_a_recipe_that_is_none_is_named(recipe, problem):
    assert recipe_problems(recipe) == [problem]


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (TRAIN, "train: 30 iterations, seed 1, validation mAP 0.5"),
        (PRUNE, "prune: l1, ratio 0.5 in conv_block1.conv1, seed 0"),
        (RECOVER, "recover: bn on 8 clips"),
        ({**PRUNE, "ratios": dict.fromkeys("abcde", 0.5)}, "prune: l1, ratio 0.5 in 5 layers, seed 0"),
        (
            {**PRUNE, "budget": {"kind": "macs", "asked": 5e9, "reached": 4999000000, "allocate": "uniform"}},
            "prune: l1, macs 4,999,000,000 of at most 5,000,000,000 (uniform), ratio 0.5 in conv_block1.conv1, seed 0",
        ),
        (
            {**PRUNE, "ratios": {f"conv{index}": index / 10 for index in range(1, 6)}},
            "prune: l1, ratios 0.1 to 0.5 in 5 layers, seed 0",
        ),
        (
            {**TUNE, "training": {**TRAIN["training"], "distil_weight": 0.5}, "teacher_sha256": "0123456789abcdef"},
            "finetune: 30 iterations, seed 1, taught by 0123456789ab (distil weight 0.5), validation mAP 0.5",
        ),
        ({"step": "train"}, "train: no settings recorded"),
        (MOVE, "transfer: to other classes; 1 keep their weights, 2 are new"),
    ],
)
def test_a_step_is_read_as_a_line(step, text):
    assert describe_step(step) == text
