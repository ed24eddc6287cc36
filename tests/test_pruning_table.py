"""The tables of the recovery research: known answers, seed by seed, and rows that differ in how they recovered."""

import runpy
from dataclasses import replace
from pathlib import Path

import pytest

from epanns.sweeps.records import RunRecord, Stage

TABLE = runpy.run_path(str(Path(__file__).parents[1] / "experiments" / "pruning_table.py"))
COST = {"n_params": 100, "param_bytes": 400, "backbone_macs": 1000, "clip_seconds": 5.0}
DATA = {"train": ["fold1"], "val": ["fold4"], "test": ["fold5"]}
BLOCKS = tuple(f"conv_block{number}" for number in range(1, 7))


def stages(**scores: float) -> tuple[Stage, ...]:
    return tuple(Stage(name, {"test": {"mAP": score}}, 7.0) for name, score in scores.items())


BASE = RunRecord(
    trial_id="base0",
    experiment="pruning",
    model="Cnn14_16k",
    width=0.25,
    criterion=None,
    layers=(),
    ratio=None,
    recover="none",
    finetune_iterations=0,
    seed=0,
    dataset="esc",
    protocol="whole clip",
    clip_seconds=5.0,
    config={"kind": "base", "data": DATA, "training": {"iterations": 2400}},
    plan_digest=None,
    cost_before=COST,
    cost_after=COST,
    stages=stages(dense=0.8),
    device="cpu",
    versions={},
    seconds=1.0,
)


def pruned(
    seed: int, layers: tuple[str, ...], recover: str, recovery: dict[str, object] | None = None, **scores: float
):
    config = {"kind": "pruned", "recovery": recovery or {}, "calibration_clips": 400}
    changes = {"criterion": "l1", "layers": layers, "ratio": 0.5, "recover": recover, "seed": seed, "config": config}
    name = f"{seed}-{layers[0]}-{recover}-{recovery}"
    return replace(BASE, trial_id=name, stages=stages(dense=0.8, **scores), **changes)


def test_the_gap_is_between_the_cut_and_the_unpruned_network():
    record = pruned(0, BLOCKS[3:], "ls", pruned=0.4, recovered=0.7)
    assert TABLE["gap_closed"](record) == pytest.approx(0.75)
    assert TABLE["share_kept"](record) == pytest.approx(0.875)
    alone = pruned(0, BLOCKS[3:], "none", pruned=0.4)
    assert (TABLE["gap_closed"](alone), TABLE["share_kept"](alone)) == (0, 0.5)


def test_measures_are_averaged_over_seeds_and_recoveries_kept_apart():
    records = [
        BASE,
        replace(BASE, trial_id="base1", seed=1, stages=stages(dense=0.6)),
        pruned(0, BLOCKS[3:], "ls", pruned=0.4, recovered=0.7),
        pruned(1, BLOCKS[3:], "ls", pruned=0.4, recovered=0.8),
        pruned(0, BLOCKS[3:], "ls", {"fit_to": "current"}, pruned=0.4, recovered=0.6),
        pruned(0, BLOCKS, "bn", pruned=0.1, recovered=0.2),
        pruned(0, BLOCKS[:2], "ls", pruned=0.1, recovered=0.2),  # of neither table
    ]
    lines = TABLE["tables_of"](records).splitlines()
    assert lines[0].endswith("Cnn14_16k × 0.25 after 2,400 steps, 2 seeds. Unpruned: mAP 0.700 ± 0.141.")
    rows = [line for line in lines if line.startswith("| l1 ")]
    assert rows == [
        "| l1 | ls | 400 | 2 | 0.750 ± 0.071 | 87.5 ± 17.7 % | - | - | 7-7 |",
        "| l1 | ls, fit_to current | 400 | 1 | 0.600 | 50.0 % | - | - | 7-7 |",
        "| l1 | bn | 400 | 1 | 0.200 | 25.0 % | - | - | 7-7 |",
    ]
