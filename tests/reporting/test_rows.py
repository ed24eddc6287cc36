"""Seeds are averaged, and nothing is averaged or compared that differs in more than the seed."""

from dataclasses import replace
from statistics import stdev

import pytest

from epanns.reporting.notation import in_words
from epanns.reporting.rows import CONTROL, UNPRUNED, is_shown, rows_by_block
from tests.builders import make_record, make_stage


def only_block(records):
    (rows,) = rows_by_block(records).values()
    return rows


def test_base_control_and_ratios_are_rows_over_seeds(records):
    rows = only_block(records)
    assert [(row.variant, row.ratio, row.n_seeds) for row in rows] == [
        (UNPRUNED, 0.0, 2),
        (CONTROL, 0.0, 2),
        ("l1", 0.25, 2),
        ("l1", 0.5, 2),
    ]
    assert rows[0].mAP["dense"].mean == pytest.approx(0.81)
    assert rows[0].mAP["dense"].n == 2
    assert set(rows[0].mAP) == {"dense"}
    assert set(rows[1].mAP) == {"finetuned"}
    assert rows[3].mAP["finetuned"].mean == pytest.approx((0.79 + 0.83) / 2)
    assert rows[3].mAP["finetuned"].sd == pytest.approx(stdev([0.79, 0.83]))


def test_reductions_are_fractions_of_the_unpruned_network(records):
    rows = only_block(records)
    assert (rows[0].param_reduction, rows[1].mac_reduction) == (0, 0)
    assert rows[3].param_reduction == pytest.approx(1 - 1.5 / 5)
    assert rows[3].mac_reduction == pytest.approx(1 - 0.75 / 1.2)


def test_order_of_records_does_not_matter(records):
    assert only_block(records) == only_block(records[::-1])


def test_unpruned_row_is_found_in_pruned_runs_too(records):
    pruned = [record for record in records if record.criterion]
    assert only_block(pruned)[0] == only_block(records)[0]


def test_one_seed_has_no_standard_deviation(records):
    row = only_block([record for record in records if record.seed == 0])[-1]
    assert (row.mAP["finetuned"].sd, row.n_seeds) == (None, 1)


@pytest.mark.parametrize(
    "change", [{"dataset": "ESC-50"}, {"protocol": "1 s windows"}, {"clip_seconds": 10.0}], ids=lambda c: next(iter(c))
)
def test_other_data_protocols_and_lengths_go_into_other_blocks(records, change):
    other = [replace(record, trial_id=f"other-{record.trial_id}", **change) for record in records]
    blocks = rows_by_block([*records, *other])
    assert len(blocks) == 2
    assert [len(rows) for rows in blocks.values()] == [4, 4]


def test_test_scores_are_reported_and_others_where_there_are_none(records):
    (key,) = rows_by_block(records)
    assert key.split == "test"
    val = [replace(r, stages=tuple(replace(s, scores={"val": s.scores["val"]}) for s in r.stages)) for r in records]
    (key,) = rows_by_block(val)
    assert key.split == "val"


def test_runs_that_differ_in_a_hidden_setting_are_not_taken_for_seeds(records):
    tuned = [r for r in records if r.ratio == 0.5]
    slow = [replace(r, trial_id=f"{r.trial_id}-slow", config={**r.config, "finetune": {"rate": 1e-4}}) for r in tuned]
    fast = [replace(r, config={**r.config, "finetune": {"rate": 1e-3}}) for r in tuned]
    rows = [row for row in only_block([*slow, *fast]) if row.is_pruned]
    assert [(row.settings, row.n_seeds) for row in rows] == [
        (("finetune.rate=0.0001",), 2),
        (("finetune.rate=0.001",), 2),
    ]


def test_seeds_of_different_configurations_are_not_averaged(records):
    rates = {0: 1e-3, 1: 1e-5}
    tuned = [
        replace(r, config={**r.config, "finetune": {"learning_rate": rates[r.seed], "seed": r.seed}})
        for r in records
        if r.ratio == 0.5
    ]
    rows = [row for row in only_block(tuned) if row.is_pruned]
    assert [(row.settings, row.n_seeds) for row in rows] == [
        (("finetune.learning_rate=0.001",), 1),
        (("finetune.learning_rate=1e-05",), 1),
    ]


def test_other_data_of_one_name_are_distinguished_by_digest(records):
    contents = {0: "a" * 64, 1: "b" * 64}
    changed = [
        replace(r, config={**r.config, "data": {"content": {"test": contents[r.seed]}}})
        for r in records
        if r.ratio == 0.5
    ]
    rows = [row for row in only_block(changed) if row.is_pruned]
    assert [row.settings for row in rows] == [(f"data.content.test={digit * 12}",) for digit in "ab"]


def evaluated(seed, checkpoint, rate):
    recipe = {"1_train": {"training": {"learning_rate": rate, "seed": seed}}}
    config = {"kind": "evaluated", "checkpoint": checkpoint, "packs": "c" * 64, "recipe": recipe}
    return make_record(checkpoint, seed, (make_stage("evaluated", 0.5 + seed / 10),), config=config)


def test_checkpoints_of_one_recipe_are_seeds_and_others_are_not():
    alike = [evaluated(0, "best@1", 1e-3), evaluated(1, "best@2", 1e-3)]
    (row,) = only_block(alike)
    assert (row.n_seeds, row.settings, row.mAP["evaluated"].mean) == (2, (), pytest.approx(0.55))
    rows = only_block([*alike, evaluated(2, "best@3", 1e-5)])
    name = "recipe.1_train.training.learning_rate"
    assert [(row.n_seeds, row.settings) for row in rows] == [(2, (f"{name}=0.001",)), (1, (f"{name}=1e-05",))]


def test_checkpoints_of_one_seed_and_equal_settings_have_rows_of_their_own():
    rows = only_block([evaluated(0, "one@1", 1e-3), evaluated(0, "two@2", 1e-3)])
    assert [row.settings for row in rows] == [("checkpoint=one@1",), ("checkpoint=two@2",)]


def test_two_bases_of_one_network_are_two_unpruned_rows(records):
    longer = [
        replace(r, trial_id=f"{r.trial_id}-long", config={**r.config, "base": {**r.config["base"], "steps": 900}})
        for r in records
        if r.criterion
    ]
    rows = only_block([*records, *longer])
    unpruned = [row for row in rows if row.variant == UNPRUNED]
    assert sorted(row.settings for row in unpruned) == [(), ("base.steps=900",)]
    assert all(row.n_seeds == 2 for row in rows)


def test_ratios_by_layer_are_one_setting_and_budgets_have_none(records):
    pruned = [record for record in records if record.ratio == 0.5]
    by_block = {f"conv_block{number}": 0.35 if number < 4 else 0.75 for number in range(1, 7)}

    def changed(name, **config):
        return [replace(r, trial_id=f"{r.trial_id}-{name}", ratio=None, config={**r.config, **config}) for r in pruned]

    rows = only_block([*changed("layers", ratios=by_block), *changed("budget", budget="macs 0.25")])
    assert sorted(row.settings for row in rows if row.is_pruned) == [
        ("budget=macs 0.25",),
        ("ratios=0.35 of blocks 1–3, 0.75 of blocks 4–6",),
    ]


def on_one_checkpoint(records, seeds=(0, 1, 2)):
    """Return the one-shot cut at one half of one checkpoint, under several seeds."""
    base = {"kind": "base", "seed": 0, "checkpoint_sha256": "c" * 64}
    first = next(record for record in records if record.ratio == 0.5)
    config = {"kind": "pruned", "base": base, "criterion": "l1", "ratio": 0.5}
    return [
        replace(first, trial_id=f"s{seed}", seed=seed, stages=first.stages[:2], config=config | {"seed": seed})
        for seed in seeds
    ]


def test_one_network_under_several_seeds_is_one_and_has_no_spread(records):
    unpruned, pruned = only_block(on_one_checkpoint(records))
    assert (unpruned.n_seeds, unpruned.mAP["dense"]) == (1, (pytest.approx(0.8), None, 1, 3))
    assert (pruned.n_seeds, pruned.mAP["pruned"]) == (1, (pytest.approx(0.3), None, 1, 3))


def test_a_stage_after_which_networks_differ_has_a_spread_and_the_one_before_has_none(records):
    tuned = [
        replace(r, stages=(*r.stages, make_stage("finetuned", 0.7 + r.seed / 10)), config={**r.config, "finetune": {}})
        for r in on_one_checkpoint(records)
    ]
    row = only_block(tuned)[-1]
    assert (row.n_seeds, row.mAP["pruned"].sd, row.mAP["pruned"].n) == (3, None, 1)
    assert (row.mAP["finetuned"].sd, row.mAP["finetuned"].n) == (pytest.approx(0.1), 3)


def test_names_distinguish_networks(records):
    named = [replace(r, trial_id=f"{r.trial_id}-n", name="from scratch") for r in records]
    rows = only_block([*records, *named])
    assert [row.name for row in rows] == [""] * 4 + ["from scratch"] * 4
    assert all(row.n_seeds == 2 and row.settings == () for row in rows)
    evaluations = [
        replace(evaluated(0, f"net@{name}", 1e-3), trial_id=name, config={"kind": "evaluated", "name": name})
        for name in ("large", "small")
    ]
    assert [(row.name, row.settings) for row in only_block(evaluations)] == [("large", ()), ("small", ())]


def test_a_kept_step_0_is_counted(records):
    tuned = [r for r in records if r.ratio == 0.5]
    kept = replace(tuned[0], stages=(*tuned[0].stages[:2], replace(tuned[0].stages[2], best_step=0)))
    assert only_block([kept, tuned[1]])[-1].untrained == {"finetuned": 1}
    assert only_block(tuned)[-1].untrained == {}


def test_the_budget_of_a_row_is_the_sweeps_or_the_recipes(records):
    pruned = replace(records[-1], ratio=None)
    assert only_block([replace(pruned, config={**pruned.config, "budget": "macs 0.25"})])[-1].budget == "macs 0.25"
    budget = {"kind": "params", "asked": 1_500_000, "reached": 1_499_000, "allocate": "global"}
    config = {"kind": "evaluated", "recipe": {"1_train": {}, "2_prune": {"budget": budget}}}
    assert only_block([replace(pruned, config=config)])[-1].budget == "params 1.50 M"
    assert only_block([replace(pruned, config=config, ratio=0.5)])[-1].budget is None


def test_a_record_without_any_score_is_in_no_row(records):
    bare = replace(records[0], stages=())
    assert rows_by_block([bare]) == {}
    assert not is_shown(bare)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("recovery.fit_to=current", "recovery fit to current"),
        ("finetune.learning_rate=3e-05", "fine-tuning learning rate 3e-05"),
        ("base.training.freeze_yamnet=True", "base training freeze yamnet yes"),
        ("recipe.1_train.training.batch_size=32", "recipe step 1 (train) training batch size 32"),
        ("budget=macs 0.25", "budget of macs 0.25"),
        ("ratios=0.35 of blocks 1–3", "ratios 0.35 of blocks 1–3"),
        ("teacher=dense", "teacher dense"),
    ],
)
def test_settings_are_read_as_words(setting, words):
    assert in_words(setting) == words
