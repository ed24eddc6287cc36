"""A dry run lists the trials of the run with their costs, and writes nothing."""

import pytest

from epanns.records import read_records
from epanns.sweeps.experiment import parse_experiment
from epanns.sweeps.outline import outline
from epanns.sweeps.runner import run_experiment
from epanns.sweeps.shard import Shard
from epanns.sweeps.work import macs_of_trial
from tests.builders import contents
from tests.sweeps.test_runner import TEXT


@pytest.fixture(scope="module")
def experiment(tiny_packs):
    text = TEXT.format(**tiny_packs, criterion="l1")
    return parse_experiment(text.replace("[0.0, 0.5]", '[0.0, 0.5]\nbudget = ["params 0.6"]'), "t.toml")


def test_the_outline_is_that_of_the_run(experiment, tmp_path):
    before = outline(experiment, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert {trial.state for trial in before.trials} == {"to run"}
    assert before.seconds == pytest.approx(sum(trial.seconds for trial in before.trials))
    assert "no trial is finished" in before.rule

    run_experiment(experiment, tmp_path / "out")
    records = {record.trial_id: record for record in read_records([tmp_path / "out"])}
    costs = {trial.trial_id: (trial.n_params, trial.backbone_macs) for trial in before.trials}
    assert costs == {
        trial_id: (record.cost_after["n_params"], record.cost_after["backbone_macs"])
        for trial_id, record in records.items()
    }
    files = contents(tmp_path / "out")
    after = outline(experiment, tmp_path / "out")
    assert contents(tmp_path / "out") == files
    assert ({trial.state for trial in after.trials}, after.seconds) == ({"done"}, 0.0)
    assert {trial.trial_id: trial.seconds for trial in after.trials} == {
        trial_id: record.seconds for trial_id, record in records.items()
    }


def test_finished_trials_give_the_rate_of_the_others(experiment, tmp_path, tiny_packs):
    less = parse_experiment(TEXT.format(**tiny_packs, criterion="l1").replace("[0.0, 0.5]", "[0.0]"), "t.toml")
    run_experiment(less, tmp_path / "out")
    found = outline(experiment, tmp_path / "out")
    done = [trial for trial in found.trials if trial.state == "done"]
    others = [trial for trial in found.trials if trial.state != "done"]
    assert (len(done), len(others)) == (2, 2)
    rate = sum(trial.work_macs for trial in done) / sum(trial.seconds for trial in done)
    assert found.seconds == pytest.approx(sum(trial.work_macs for trial in others) / rate)
    assert "as in the 2 finished trials" in found.rule


def test_a_shard_is_outlined_alone(experiment):
    whole = [trial.trial_id for trial in outline(experiment, None).trials]
    parts = [[trial.trial_id for trial in outline(experiment, None, shard=Shard(part, 2)).trials] for part in (0, 1)]
    assert set(parts[0]) | set(parts[1]) == set(whole)
    assert set(parts[0]) & set(parts[1]) == {whole[0]}  # the base


def test_the_work_of_a_trial_in_closed_form():
    clips = {"train": 100, "val": 10, "test": 20}
    training = {"iterations": 6, "batch_size": 8, "validate_every": 3}
    assert macs_of_trial({"kind": "base", "training": training}, 5.0, 5.0, clips) == (
        30 * 5 + 6 * 8 * 3 * 5 + 3 * 10 * 5  # scored, trained, validated at steps 0, 3 and 6
    )
    assert macs_of_trial({"kind": "base"}, 5.0, 5.0, clips) == 30 * 5  # a checkpoint
    pruned = {"kind": "pruned", "ratio": 0.5, "recover": "ls+bn", "calibration_clips": 40}
    assert macs_of_trial(pruned, 5.0, 2.0, clips) == 30 * 5 + 2 * 30 * 2 + 2 * 40 * 7
    control = {"kind": "pruned", "ratio": 0.0, "finetune": training, "teacher": "dense"}
    assert macs_of_trial(control, 5.0, 5.0, clips) == 30 * 5 + 30 * 5 + 6 * 8 * (3 * 5 + 5) + 3 * 10 * 5
    steps = {"kind": "pruned", "ratio": 0.5, "recover": "align:10", "calibration_clips": 40}
    assert macs_of_trial(steps, 5.0, 2.0, clips) == 30 * 5 + 2 * 30 * 2 + 40 * 7 + 10 * 24 * (5 + 3 * 2)
