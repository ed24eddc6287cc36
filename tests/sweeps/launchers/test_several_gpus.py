"""A trial in several processes has the result of one process, and its files are written once."""

import pytest

from epanns.records import read_record, read_records
from epanns.sweeps.experiment import parse_experiment
from epanns.sweeps.launchers.several_gpus import run_in_group
from epanns.sweeps.runner import run_experiment
from tests.sweeps.test_runner import TEXT


@pytest.mark.slow
def test_two_processes_share_a_trial(tiny_packs, tmp_path):
    text = TEXT.format(**tiny_packs, criterion="l1").replace('["bn"]', '["ls+align:2"]').replace("[0.0, 0.5]", "[0.5]")

    def run(queue, in_group):
        while trial := queue.next_ready():
            folder = queue.folder_of(trial)
            assert run_in_group(folder, 2 if in_group else 1, "cpu"), (folder.path / "error.json").read_text()
            queue.end_by_files(trial)

    for name, in_group in (("one", False), ("two", True)):
        summary = run_experiment(
            parse_experiment(text, "t.toml"), tmp_path / name, launcher=lambda queue, group=in_group: run(queue, group)
        )
        assert (len(summary.done), len(summary.failed)) == (2, 0)
    for one in read_records([tmp_path / "one"]):
        two = read_record(tmp_path / "two" / "trials" / one.trial_id / "result.json")
        assert two.plan_digest is not None or one.plan_digest is None
        for first, second in zip(one.stages, two.stages, strict=True):
            assert first.scores["test"]["mAP"] == pytest.approx(second.scores["test"]["mAP"], abs=0.05)


@pytest.mark.slow
def test_a_trial_that_fails_in_two_processes_leaves_its_error(tiny_packs, tmp_path):
    text = TEXT.format(**tiny_packs, criterion="l1")

    def run(queue):
        trial = queue.next_ready()
        folder = queue.folder_of(trial)
        folder.write_config({**folder.read_config(), "packs": {}})
        assert not run_in_group(folder, 2, "cpu")
        queue.end_by_files(trial)
        assert queue.next_ready() is None

    summary = run_experiment(parse_experiment(text, "t.toml"), tmp_path / "out", launcher=run)
    assert len(summary.failed) == 3
    assert len(list((tmp_path / "out").rglob("error.json"))) == 1
