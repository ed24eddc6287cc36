"""The tables of the pruning experiments: measures with known values, one row per criterion and recovery, targets."""

import runpy
from dataclasses import replace
from pathlib import Path

import pytest

from epanns.records import Stage
from tests.builders import make_record

TABLE = runpy.run_path(str(Path(__file__).parents[1] / "experiments" / "pruning_table.py"))
COST = {"n_params": 100, "param_bytes": 400, "backbone_macs": 1000, "clip_seconds": 5.0}
DATA = {"train": ["fold1"], "val": ["fold4"], "test": ["fold5"]}
BLOCKS = tuple(f"conv_block{number}" for number in range(1, 7))


def stages(**scores: float) -> tuple[Stage, ...]:
    return tuple(Stage(name, {"test": {"mAP": score}}, 7.0) for name, score in scores.items())


BASE = make_record(
    "base0",
    0,
    stages(dense=0.8),
    experiment="pruning",
    model="Cnn14_16k",
    dataset="esc",
    config={"kind": "base", "data": DATA, "training": {"iterations": 2400}},
    cost_before=COST,
    cost_after=COST,
)


def pruned(
    seed: int, layers: tuple[str, ...], recover: str, recovery: dict[str, object] | None = None, **scores: float
):
    config = {"kind": "pruned", "recovery": recovery or {}, "calibration_clips": 400}
    changes = {"criterion": "l1", "layers": layers, "ratio": 0.5, "recover": recover, "seed": seed, "config": config}
    name = f"{seed}-{layers[0]}-{recover}-{recovery}"
    return replace(BASE, trial_id=name, stages=stages(dense=0.8, **scores), **changes)


def test_the_gap_is_between_the_pruned_and_the_unpruned_network():
    unrecovered, recovered = TABLE["outcomes_of"](pruned(0, BLOCKS[3:], "ls", pruned=0.4, recovered=0.7))
    assert TABLE["gap_closed"]([recovered]) + TABLE["map_retained"]([recovered]) == pytest.approx([0.75, 0.875])
    assert TABLE["gap_closed"]([unrecovered]) + TABLE["map_retained"]([unrecovered]) == pytest.approx([0, 0.5])


def test_the_gap_is_averaged_over_seeds_so_that_a_seed_without_loss_is_defined():
    trials = [
        pruned(0, BLOCKS[3:], "ls", pruned=0.4, recovered=0.7),
        pruned(1, BLOCKS[3:], "ls", pruned=0.8, recovered=0.8),
    ]
    shares = TABLE["gap_closed"]([TABLE["outcomes_of"](trial)[1] for trial in trials])
    assert shares == pytest.approx([0.5, 1.0])
    assert sum(shares) / 2 == pytest.approx((0.3 + 0.0) / (0.4 + 0.0))


def test_measures_are_averaged_over_seeds_and_each_recovery_has_its_own_row():
    records = [
        BASE,
        replace(BASE, trial_id="base1", seed=1, stages=stages(dense=0.6)),
        pruned(0, BLOCKS[3:], "ls", pruned=0.4, recovered=0.7),
        pruned(1, BLOCKS[3:], "ls", pruned=0.4, recovered=0.8),
        pruned(0, BLOCKS[3:], "ls", {"fit_to": "current"}, pruned=0.4, recovered=0.6),
        pruned(0, BLOCKS, "bn", pruned=0.1, recovered=0.2),
        pruned(0, BLOCKS[:2], "ls", pruned=0.1, recovered=0.2),  # in neither table
    ]
    lines = TABLE["tables_of"](records).splitlines()
    assert next(line for line in lines if line.startswith("**esc**")).endswith(
        "Cnn14_16k × 0.25 after 2,400 steps, 2 seeds. Unpruned: mAP 0.700 ± 0.141."
    )
    assert [line for line in lines if line.startswith("| l1 ")] == [
        "| l1 | ls | 400 | 0.750 ± 0.071 | 87.5 ± 17.7 % | - | - | 2 | 7-7 |",
        "| l1 | ls, fit_to current | 400 | 0.600 | 50.0 % | - | - | 1 | 7-7 |",
        "| l1 | none | - | 0.400 ± 0.000 | - | - | - | 2 | - |",
        "| l1 | bn | 400 | 0.200 | 25.0 % | - | - | 1 | 7-7 |",
        "| l1 | none | - | 0.100 | 12.5 % | - | - | 1 | - |",
    ]


def test_the_cost_table_has_a_row_for_each_amount_removed():
    def removed(name: str, share: float, **amount: object):
        record = pruned(0, BLOCKS, "ls", pruned=0.1, recovered=0.6)
        cost = COST | {"backbone_macs": 1000 * share}
        config = {name: value for name, value in record.config.items()} | amount
        return replace(record, trial_id=name, ratio=None, config=config, cost_after=cost)

    records = [
        BASE,
        pruned(0, BLOCKS[3:], "ls", pruned=0.4, recovered=0.7),
        removed("budget", 0.25, budget="macs 0.25"),
        removed("ratios", 0.24, ratios={"conv_block1": 0.35, "conv_block2": 0.35, "conv_block3": 0.75}),
    ]
    table = TABLE["tables_of"](records).split("| removed (l1, ls) ")[1]
    assert table.splitlines()[2:] == [
        "| 50% of C7-C12 | 100.0% | 100.0% | 0.700 | 87.5 % | 1 |",
        "| MAC budget 0.25, all layers | 25.0% | 100.0% | 0.600 | 75.0 % | 1 |",
        "| 35% of blocks 1, 2; 75% of blocks 3 | 24.0% | 100.0% | 0.600 | 75.0 % | 1 |",
    ]


def test_missed_targets_are_marked():
    records = [
        BASE,
        pruned(0, BLOCKS[3:], "ls", pruned=0.4, recovered=0.7),
        pruned(0, BLOCKS[3:], "bn", pruned=0.4, recovered=0.7),
        pruned(0, BLOCKS, "ls", {"fit_to": "current"}, pruned=0.1, recovered=0.8),  # not the default recovery
    ]
    table = TABLE["tables_of"](records).split("\n\n")[0]
    assert [line.split(" | ")[1:] for line in table.splitlines()[2:5]] == [
        [">= 60%", "75.0 % |"],
        [">= 85%", "75.0 % (missed) |"],
        [">= 85%", "- |"],
    ]
    assert table.splitlines()[5] == "| 50% of all layers, `ls`: mAP retained | >= 92% | - |"
