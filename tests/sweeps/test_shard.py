"""Shards: each trial is in one part, a part has the bases it needs, and parts in one folder run no trial twice."""

import json
import subprocess
import sys
from itertools import combinations

import pytest

from epanns.errors import ConfigError
from epanns.records import read_records
from epanns.sweeps.experiment import parse_experiment
from epanns.sweeps.journal import failures_in
from epanns.sweeps.runner import run_experiment
from epanns.sweeps.shard import Shard
from tests.sweeps.test_experiment import TEXT as MANY
from tests.sweeps.test_experiment import trials_of
from tests.sweeps.test_runner import TEXT

MORE = MANY.replace("seeds = [0, 1]", "seeds = [0, 1, 2]") + '[[base]]\nmodel = "Cnn10"\nwidth = 0.1\nprune = false\n'


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 40])
def test_parts_are_disjoint_but_for_bases_and_nearly_equal(count):
    trials = trials_of(parse_experiment(MORE, "t.toml"))
    parts = [Shard(index, count).trials_of(trials) for index in range(count)]
    assert {trial.trial_id for part in parts for trial in part} == {trial.trial_id for trial in trials}
    pruned = [[trial.trial_id for trial in part if trial.base] for part in parts]
    assert all(not set(one) & set(other) for one, other in combinations(pruned, 2))
    for part in parts:
        ids = [trial.trial_id for trial in part]
        assert all(trial.base.trial_id in ids[: ids.index(trial.trial_id)] for trial in part if trial.base)
    bases = [trial for part in parts for trial in part if trial.base is None]
    assert len(bases) <= len({trial.trial_id for trial in bases}) + count - 1  # few are trained in two places
    assert max(map(len, pruned)) <= -(-len(trials) // count)
    assert parts == [Shard(index, count).trials_of(trials) for index in range(count)]


def test_what_is_no_shard_is_refused():
    assert Shard.of("3/10") == Shard(3, 10)
    for text in ("", "1", "1/", "-1/2", "1/2/3", "a/b", "2/2", "0/0"):
        with pytest.raises(ConfigError, match="shard"):
            Shard.of(text)


@pytest.fixture
def text(tiny_packs) -> str:
    return TEXT.format(**tiny_packs, criterion="l1").replace("[0.0, 0.5]", "[0.0, 0.25, 0.5, 0.75]")


def scores(*folders):
    return {
        record.trial_id: [(stage.name, stage.scores) for stage in record.stages] for record in read_records(folders)
    }


def test_shards_in_one_folder_and_in_two_give_the_table_of_one_run(tmp_path, text):
    experiment = parse_experiment(text, "t.toml")
    whole = run_experiment(experiment, tmp_path / "whole")
    ended, lines = [], []
    for index in (1, 0):  # the second part trains the base, which the first finds
        summary = run_experiment(experiment, tmp_path / "shared", shard=Shard(index, 2), log=lines.append)
        assert not summary.failed
        ended += summary.done
        run_experiment(experiment, tmp_path / f"alone{index}", shard=Shard(index, 2))
    assert sorted(ended) == sorted(whole.done)
    assert {"shard 1/2: 4 of 5 trials, bases included", "shard 0/2: 2 of 5 trials, bases included"} <= {*lines}
    assert scores(tmp_path / "shared") == scores(tmp_path / "whole")
    assert scores(tmp_path / "alone0", tmp_path / "alone1") == scores(tmp_path / "whole")
    assert failures_in([tmp_path / "alone0", tmp_path / "alone1"]) == []
    assert {failure.reason for failure in failures_in([tmp_path / "alone0"])} == {"it was not run to its end"}


@pytest.mark.slow
def test_shards_at_the_same_time_run_no_trial_twice(tmp_path, text):
    (tmp_path / "t.toml").write_text(text)
    command = [sys.executable, "-m", "epanns", "sweep", str(tmp_path / "t.toml"), "--out", str(tmp_path / "out")]
    processes = [
        subprocess.Popen([*command, "--json", "--shard", f"{part}/3"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for part in range(3)
    ]
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    found = [json.loads(stdout) for stdout, _ in outputs]
    results = [path.parent.name for path in (tmp_path / "out").rglob("result.json")]
    assert len(results) == 5
    pruned = [trial for summary in found for trial in summary["done"] if trial != _base_of(tmp_path / "out")]
    assert len(pruned) == len(set(pruned)) == 4
    curves = list((tmp_path / "out").rglob("metrics.csv"))
    assert len(curves) == 5  # each was trained once


def _base_of(out):
    return next(record.trial_id for record in read_records([out]) if record.config["kind"] == "base")
