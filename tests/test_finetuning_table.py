"""The tables of the fine-tuning experiment: first hits, censored runs, and what is told of one seed alone."""

import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from epanns.records import RunRecord, Stage, read_records
from tests.builders import make_record
from tests.reporting.drawn import assert_drawn_again

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
sys.path.insert(0, str(EXPERIMENTS))  # as for whoever runs the script
TABLE = runpy.run_path(str(EXPERIMENTS / "finetuning_table.py"))
sys.path.remove(str(EXPERIMENTS))
COST = {"n_params": 100, "param_bytes": 400, "backbone_macs": 1000}


def scored(name: str, val: float, test: float, curve=()) -> Stage:
    return Stage(name, {"val": {"mAP": val}, "test": {"mAP": test}}, 1.0, curve)


def record(seed: int, recover: str, curve: list[list[float]], *, taught: bool = False, rate: float = 1e-3) -> RunRecord:
    iterations = int(curve[-1][0])
    config = {"finetune": {"iterations": iterations, "learning_rate": rate}} | ({"teacher": "dense"} if taught else {})
    return make_record(
        f"{seed}-{recover}-{iterations}-{taught}-{rate}",
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
TAUGHT = [[0, 0.6], [10, 0.7], [20, 0.7]]


@pytest.mark.parametrize(("goal", "reached"), [(0.3, 0), (0.6, 100), (0.65, 150), (0.66, None)])
def test_a_run_reaches_its_goal_at_the_first_validation_that_has_it(goal, reached):
    (run,) = TABLE["runs_of"]([record(0, "none", LONG)])
    assert replace(run, goal=goal).reached == reached


def test_iterations_are_compared_seed_by_seed_and_the_sooner_of_two_lengths_counts():
    runs = TABLE["runs_of"](
        [
            *(record(seed, "none", SHORT) for seed in (0, 1)),
            record(0, "none", LONG),
            record(1, "none", [[0, 0.3], [200, 0.6]]),
            record(0, "ls", TAUGHT, taught=True),
            record(1, "ls", [[0, 0.6], [5, 0.6], [60, 0.7]], taught=True),
            record(0, "ls", [[0, 0.6], [20, 0.9]], taught=True, rate=9.0),  # of one seed: a rate that was tried
            record(1, "ls", [[0, 0.6], [20, 0.6]], taught=True),
            replace(record(0, "none", LONG), trial_id="control", criterion=None),
        ]
    )
    lines = TABLE["target_table"](runs).splitlines()[2:]
    # The run of 60 iterations is of one seed, too.
    assert lines == ["| 0 | 150 | 10 | 15 | yes |", "| 1 | > 200 | > 20 | - | missed |"]


@pytest.mark.parametrize(
    ("start", "cells"),
    [(0.7, ["100", "0", "all", "yes"]), (0.4, ["100", "10", "10", "yes"]), (0.64, ["100", "10", "10", "yes"])],
)
def test_a_network_that_starts_above_its_goal_needs_no_iteration(start, cells):
    curves = {"none": [[0, 0.3], [100, 0.65]], "ls": [[0, start], [10, 0.65]]}
    runs = [record(seed, way, curve, taught=way == "ls") for seed in (0, 1) for way, curve in curves.items()]
    for line in TABLE["target_table"](TABLE["runs_of"](runs)).splitlines()[2:]:
        assert [cell.strip() for cell in line.strip("|").split("|")][1:] == cells


def test_ways_have_a_row_with_every_seed_and_rates_one_with_the_first():
    runs = TABLE["runs_of"](
        [
            record(0, "none", LONG),
            record(1, "none", SHORT + [[200, 0.63]]),
            record(0, "none", [[0, 0.3], [200, 0.7]], rate=1e-2),
        ]
    )
    (row,) = TABLE["way_table"](runs).splitlines()[2:]
    assert row.split(" | ")[2:7] == ["200", "0.001", "-0.350 ± 0.000", "-0.010 ± 0.014", "150, > 200"]
    assert row.endswith(" | 0.580 ± 0.000 | 0.600 ± 0.000 |")
    assert TABLE["rate_table"](runs).splitlines()[2:] == [
        "| as cut | labels | 200 | 0.001 | +0.000 | 150 |",
        "| as cut | labels | 200 | 0.01 | +0.050 | 200 |",
    ]


def test_the_figure_draws_the_longest_runs_of_both_sides_and_no_others():
    long, longest = [[0, 0.3], [50, 0.5], [100, 0.6]], [[0, 0.3], [50, 0.5], [100, 0.6], [400, 0.7]]
    runs = [record(seed, "none", curve) for seed in (0, 1) for curve in (long, longest)]
    runs += [record(seed, "ls", TAUGHT, taught=True) for seed in (0, 1)]
    ways = TABLE["ways_of_figure"](runs)
    assert {way: [run.way.iterations for run in found] for way, found in ways.items()} == {
        "as cut, labels": [400, 400],
        "ls, labels and unpruned network": [20, 20],
    }


def test_a_line_is_as_far_from_0_as_its_network_is_from_the_unpruned_one():
    runs = TABLE["runs_of"](record(seed, "none", LONG) for seed in (0, 1))
    (axes,) = TABLE["finetuning_figure"]("title", "remark", {"cut": [runs[0], replace(runs[1], goal=0.7)]}).axes
    lines = [list(zip(*map(list, line.get_data()), strict=True)) for line in axes.lines]
    for line, goal in zip(lines, (0.65, 0.7), strict=False):
        assert line == [(x, y - goal) for x, y in LONG[1:]]
    assert lines[2] == [(x, pytest.approx(y - 0.675)) for x, y in LONG[1:]]  # the mean of both seeds


def test_documents_and_figure_are_made_of_the_records(tmp_path):
    folder = EXPERIMENTS.parent / "results" / "finetuning"
    records = read_records([folder])
    tables = TABLE["tables_of"](records)
    assert tables in (folder / "README.md").read_text()
    TABLE["write_figure"](tmp_path, records)
    assert_drawn_again(folder / "esc50.svg", tmp_path / "esc50.svg")
