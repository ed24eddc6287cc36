"""The tables and the figure of the fine-tuning experiment: iterations to the goal, censored runs, learning rates."""

import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from epanns.records import RunRecord, Stage, read_records
from tests.builders import make_record
from tests.reporting.drawn import assert_drawn_again

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
sys.path.insert(0, str(EXPERIMENTS))  # as when the script is run
TABLE = runpy.run_path(str(EXPERIMENTS / "finetuning_table.py"))
sys.path.remove(str(EXPERIMENTS))
COST = {"n_params": 100, "param_bytes": 400, "backbone_macs": 1000}


def scored(name: str, val: float, test: float, curve=()) -> Stage:
    return Stage(name, {"val": {"mAP": val}, "test": {"mAP": test}}, 1.0, curve)


def record(
    seed: int, recover: str, curve: list[list[float]], *, teacher: bool = False, rate: float = 1e-3
) -> RunRecord:
    iterations = int(curve[-1][0])
    config = {"finetune": {"iterations": iterations, "learning_rate": rate}} | ({"teacher": "dense"} if teacher else {})
    return make_record(
        f"{seed}-{recover}-{iterations}-{teacher}-{rate}",
        seed,
        (scored("dense", 0.65, 0.6), scored("pruned", 0.3, 0.3), scored("finetuned", 0.66, 0.58, curve)),
        criterion="l1",
        experiment="finetuning",
        model="Cnn14_16k",
        layers=("conv_block6",),
        ratio=0.5,
        recover=recover,
        finetune_iterations=iterations,
        dataset="esc",
        config=config,
        cost_before=COST,
        cost_after=COST,
    )


LONG = [[0, 0.3], [100, 0.6], [150, 0.65], [200, 0.64]]
SHORT = [[0, 0.3], [50, 0.5], [100, 0.6]]
DISTILLED = [[0, 0.6], [10, 0.7], [20, 0.7]]


@pytest.mark.parametrize(("goal", "reached"), [(0.3, 0), (0.6, 100), (0.65, 150), (0.66, None)])
def test_a_run_reaches_its_goal_at_the_first_validation_with_at_least_that_map(goal, reached):
    (run,) = TABLE["runs_of"]([record(0, "none", LONG)])
    assert replace(run, goal=goal).reached == reached


def test_iterations_are_compared_for_each_seed_and_the_fewest_of_several_run_lengths_count():
    runs = TABLE["runs_of"](
        [
            *(record(seed, "none", SHORT) for seed in (0, 1)),
            record(0, "none", LONG),
            record(1, "none", [[0, 0.3], [200, 0.6]]),
            record(0, "ls", DISTILLED, teacher=True),
            record(1, "ls", [[0, 0.6], [5, 0.6], [60, 0.7]], teacher=True),
            record(0, "ls", [[0, 0.6], [20, 0.9]], teacher=True, rate=9.0),  # a learning rate tried on one seed
            record(1, "ls", [[0, 0.6], [20, 0.6]], teacher=True),
            replace(record(0, "none", LONG), trial_id="control", criterion=None),
        ]
    )
    lines = TABLE["target_table"](runs).splitlines()[2:]
    # The run of 60 iterations has one seed only, too.
    assert lines == ["| 0 | 150 | 10 | 15 | met |", "| 1 | > 200 | > 20 | - | missed |"]


@pytest.mark.parametrize(
    ("start", "cells"),
    [(0.7, ["100", "0", "all", "met"]), (0.4, ["100", "10", "10", "met"]), (0.64, ["100", "10", "10", "met"])],
)
def test_a_network_that_starts_above_its_goal_needs_no_iteration(start, cells):
    curves = {"none": [[0, 0.3], [100, 0.65]], "ls": [[0, start], [10, 0.65]]}
    runs = [
        record(seed, recover, curve, teacher=recover == "ls") for seed in (0, 1) for recover, curve in curves.items()
    ]
    for line in TABLE["target_table"](TABLE["runs_of"](runs)).splitlines()[2:]:
        assert [cell.strip() for cell in line.strip("|").split("|")][1:] == cells


def test_a_method_has_a_row_with_all_seeds_and_a_learning_rate_a_row_with_the_first_seed():
    runs = TABLE["runs_of"](
        [
            record(0, "none", LONG),
            record(1, "none", SHORT + [[200, 0.63]]),
            record(0, "none", [[0, 0.3], [200, 0.7]], rate=1e-2),
        ]
    )
    (row,) = TABLE["method_table"](runs).splitlines()[2:]
    assert row.split(" | ")[2:7] == ["200", "0.001", "-0.350 ± 0.000", "-0.010 ± 0.014", "150, > 200"]
    assert row.endswith(" | 0.580 ± 0.000 | 0.600 ± 0.000 |")
    assert TABLE["rate_table"](runs).splitlines()[2:] == [
        "| no recovery | labels | 200 | 0.001 | +0.000 | 150 |",
        "| no recovery | labels | 200 | 0.01 | +0.050 | 200 |",
    ]


def test_the_figure_draws_only_the_longest_runs_of_each_method():
    long, longest = [[0, 0.3], [50, 0.5], [100, 0.6]], [[0, 0.3], [50, 0.5], [100, 0.6], [400, 0.7]]
    runs = [record(seed, "none", curve) for seed in (0, 1) for curve in (long, longest)]
    runs += [record(seed, "ls", DISTILLED, teacher=True) for seed in (0, 1)]
    methods = TABLE["runs_of_figure"](runs)
    assert {method: [run.method.iterations for run in found] for method, found in methods.items()} == {
        "no recovery, labels": [400, 400],
        "ls, labels and teacher": [20, 20],
    }


def test_a_line_shows_the_difference_from_the_unpruned_network():
    runs = TABLE["runs_of"](record(seed, "none", LONG) for seed in (0, 1))
    (axes,) = TABLE["finetuning_figure"]("title", "remark", {"pruned": [runs[0], replace(runs[1], goal=0.7)]}).axes
    lines = [list(zip(*map(list, line.get_data()), strict=True)) for line in axes.lines]
    for line, goal in zip(lines, (0.65, 0.7), strict=False):
        assert line == [(x, y - goal) for x, y in LONG[1:]]
    assert lines[2] == [(x, pytest.approx(y - 0.675)) for x, y in LONG[1:]]  # the mean of both seeds


def test_the_tables_and_the_figure_in_the_documents_are_made_from_the_records(tmp_path):
    folder = EXPERIMENTS.parent / "results" / "finetuning"
    records = read_records([folder])
    tables = TABLE["tables_of"](records)
    assert tables in (folder / "README.md").read_text()
    TABLE["write_figure"](tmp_path, records)
    assert_drawn_again(folder / "esc50.svg", tmp_path / "esc50.svg")
