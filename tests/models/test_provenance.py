"""Provenance: operations are appended, read strictly, and described in one line."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epanns.errors import CheckpointError
from epanns.models.provenance import Operation, Provenance, recipe_problems
from epanns.safe_text import printable
from tests.any_value import ANY_VALUE

TRAIN = {"step": "train", "training": {"iterations": 30, "seed": 1}, "validation_mAP": 0.5}
PRUNE = {"step": "prune", "criterion": "l1", "ratios": {"conv_block1.conv1": 0.5}, "seed": 0}
RECOVER = {"step": "recover", "method": "bn", "clips": 8}
TUNE = {**TRAIN, "step": "finetune"}
MOVE = {"step": "transfer", "kept": {"dog": "Dog"}, "new": ["cat", "cow"]}


def provenance_of(*entries: dict) -> Provenance:
    return Provenance(recipe=tuple(map(Operation.from_dict, entries)))


@given(st.lists(st.sampled_from([TRAIN, PRUNE, RECOVER, TUNE])))
def test_operations_are_kept_in_the_order_they_were_added(entries):
    provenance = Provenance(source="x")
    for entry in entries:
        before = provenance
        provenance = provenance.with_operation(entry["step"], **{key: entry[key] for key in entry if key != "step"})
        assert before.recipe == provenance.recipe[:-1]
    recipe = provenance.to_dict()["recipe"]
    assert [list(entry.items()) for entry in recipe] == [list(entry.items()) for entry in entries]
    assert provenance.source == "x"
    assert recipe_problems(json.loads(json.dumps(recipe))) == []
    assert provenance.training_kind == ("finetune" if entries else "train")


def test_a_new_classifier_alone_makes_no_training_a_fine_tuning():
    assert provenance_of(MOVE).training_kind == "train"
    assert provenance_of(TRAIN, MOVE).training_kind == "finetune"


@given(ANY_VALUE)
def test_any_value_is_read_or_refused_in_one_line(value):
    for values in (value, {**Provenance(source="x", versions={}).to_dict(), "recipe": [value]}):
        try:
            Provenance.from_dict(values)
        except CheckpointError as error:
            assert "\n" not in printable(str(error))


def test_json_values_are_written_as_they_were_read():
    values = Provenance("x", None, "a" * 64, assumed=("y",), width=1, versions={"torch": "2"}).to_dict()
    values["recipe"] = [TRAIN, PRUNE, RECOVER, MOVE, TUNE]
    found = Provenance.from_dict(values, sha256="b" * 64)
    assert json.dumps(found.to_dict()) == json.dumps(values)
    assert (found.is_as_read, found.since_read, found.n_read) == (True, (), 5)
    tuned = found.with_operation("finetune")
    assert (tuned.is_as_read, tuned.since_read) == (False, (Operation("finetune"),))


@pytest.mark.parametrize(
    ("entries", "left"),
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
def test_operations_since_the_last_pruning(entries, left):
    assert [done.to_dict() for done in provenance_of(*entries).since_pruning] == left


@pytest.mark.parametrize(
    ("recipe", "problem"),
    [
        ([3], "recipe, operation 1=3: must be a table"),
        ([TRAIN, {}], "recipe, operation 2: step=None: must be one of train, prune, recover, transfer, finetune"),
        ([{**PRUNE, "seed": True}], "recipe, operation 1 (prune): seed=True: must be a whole number"),
        ([{**PRUNE, "ratio": 1}], "recipe, operation 1 (prune): unknown key 'ratio' (did you mean 'ratios'?)"),
        ([{"step": "recover", "method": "bn"}], "recipe, operation 1 (recover): missing key 'clips'"),
        ([{**MOVE, "new": {}}], "recipe, operation 1 (transfer): new={}: must be a list"),
        ([{"step": "train", "training": 3}], "recipe, operation 1 (train): training=3: must be a table"),
        (
            [{"step": "finetune", "training": {"iterations": 1.5, "seed": 0}}],
            "recipe, operation 1 (finetune): training.iterations=1.5: must be a whole number",
        ),
    ],
)
def test_an_invalid_recipe_is_refused_with_its_problems(recipe, problem):
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
def test_an_operation_is_described_in_one_line(step, text):
    assert Operation.from_dict(step).describe() == text
