"""Trackers: one run per trial, once, with settings, cost and scores; their own packages where they are installed."""

import json
import re
import sys
from types import SimpleNamespace

import pytest

from epanns.errors import ConfigError
from epanns.records import read_records
from epanns.sweeps.experiment import parse_experiment
from epanns.sweeps.runner import run_experiment
from epanns.sweeps.shard import Shard
from epanns.sweeps.tracking import TRACKERS, scores_of, settings_of
from tests.sweeps.test_runner import TEXT


class Recorder(SimpleNamespace):
    """The calls that a tracker's package receives; every method returns the recorder."""

    def __getattr__(self, name):
        def call(*arguments, **keywords):
            self.calls.append((name, arguments, keywords))
            return self

        return call

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.calls.append(("exit", (), {}))


@pytest.fixture
def recorder(monkeypatch):
    found = Recorder(calls=[])
    for name in TRACKERS:
        monkeypatch.setitem(sys.modules, name, found)
    monkeypatch.setattr("epanns.sweeps.tracking.is_installed", lambda name: True)
    return found


@pytest.fixture
def experiment(tiny_packs):
    return parse_experiment(TEXT.format(**tiny_packs, criterion="l1"), "t.toml")


@pytest.mark.parametrize(
    ("tracker", "names"),
    [
        ("wandb", ["init", "log", "finish"]),
        ("mlflow", ["set_experiment", "start_run", "log_params", "log_metrics", "exit"]),
    ],
)
def test_each_trial_is_sent_once_in_all_runs_and_shards(experiment, tmp_path, recorder, tracker, names):
    out = tmp_path / "out"
    run_experiment(experiment, out, shard=Shard(0, 2))  # not tracked
    run_experiment(experiment, out, shard=Shard(1, 2), tracker=tracker)
    run_experiment(experiment, out, tracker=tracker)
    run_experiment(experiment, out, tracker=tracker)
    assert [name for name, *_ in recorder.calls] == names * 3
    records = {record.trial_id: record for record in read_records([out])}
    first, keys = names.index({"wandb": "init", "mlflow": "start_run"}[tracker]), {"wandb": "id", "mlflow": "run_name"}
    starts = [keywords for _, _, keywords in recorder.calls[first :: len(names)]]
    assert sorted(start[keys[tracker]] for start in starts) == sorted(records)
    sent = [arguments[0] for name, arguments, _ in recorder.calls if name in ("log", "log_metrics")]
    assert sorted(map(json.dumps, sent)) == sorted(json.dumps(scores_of(record)) for record in records.values())


def test_settings_and_scores_are_flat(experiment, tmp_path):
    run_experiment(experiment, tmp_path / "out")
    record = next(record for record in read_records([tmp_path / "out"]) if record.ratio)
    settings, scores = settings_of(record), scores_of(record)
    assert (
        settings.items() >= {"criterion": "l1", "ratio": 0.5, "layers": "conv_block5, conv_block6", "seed": 0}.items()
    )
    assert not {"name", "budget", "ratios", "fold"} & settings.keys()
    assert scores["finetuned/test/mAP"] == record.stages[-1].scores["test"]["mAP"]
    assert scores["n_params"] == record.cost_after["n_params"]
    assert all(type(value) is float for value in scores.values())


def test_a_missing_package_is_named_before_anything_is_run(experiment, tmp_path, monkeypatch):
    monkeypatch.setattr("epanns.sweeps.tracking.is_installed", lambda name: False)
    message = '--track wandb: wandb is not installed: pip install -e ".[wandb]"'
    with pytest.raises(ConfigError, match=re.escape(message)):
        run_experiment(experiment, tmp_path / "out", tracker="wandb")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_mlflow_itself_holds_a_run_for_each_trial(experiment, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    run_experiment(experiment, tmp_path / "out", tracker="mlflow")
    records = {record.trial_id: record for record in read_records([tmp_path / "out"])}
    found = mlflow.search_runs(experiment_names=["tiny"], output_format="list")
    assert {run.info.run_name for run in found} == set(records)
    for run in found:
        wanted = scores_of(records[run.info.run_name])
        assert run.data.metrics == pytest.approx(wanted)


@pytest.mark.slow
def test_wandb_itself_writes_a_run_for_each_trial(experiment, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run_experiment(experiment, tmp_path / "out", tracker="wandb")
    files = [path.name for path in (tmp_path / "out" / "wandb").glob("offline-run-*/run-*.wandb")]
    ids = {record.trial_id for record in read_records([tmp_path / "out"])}
    assert {name.removeprefix("run-").removesuffix(".wandb") for name in files} == ids
