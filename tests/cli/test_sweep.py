"""`epanns sweep` on the command line: dry runs, shards, failures."""

import json
import re

import pytest

from tests.sweeps.test_runner import TEXT

SYNTHETIC = '"synthetic"\nsynthetic = { clips = 40, classes = 3 }'


@pytest.fixture
def experiment(tiny_packs, tmp_path):
    path = tmp_path / "t.toml"
    path.write_text(TEXT.format(**tiny_packs, criterion="l1"))
    return path


def test_a_dry_run_prints_every_trial_and_writes_nothing(epanns, experiment, tmp_path):
    code, stdout, _ = epanns("sweep", experiment, "--dry-run")
    head, *lines, counts, time = stdout.splitlines()
    assert code == 0
    assert head.split() == ["id", "base", "trial", "seed", "parameters", "MACs", "state", "time"]
    assert re.match(r"\w{12}  Cnn14_8k x 0\.03  unpruned +0 +\S+ k +\S+ k +to run +\S+ s", lines[0])
    assert "l1, ratio 0.5 of conv_block5, conv_block6, bn, 2 iterations" in stdout
    assert (len(lines), counts) == (3, "3 trials: 0 done, 0 failed, 3 to run")
    assert re.match(r"time of those to run with --jobs 1: about .*, by a rule of thumb, .* no trial is finished", time)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.toml"]


def test_ids_of_clips_that_are_not_packed_are_not_invented(epanns, experiment, tmp_path):
    text = re.sub(r"(train|val|test) = \[.*\]", r'\1 = ["\1"]', experiment.read_text()).replace('"packs"', SYNTHETIC)
    experiment.write_text(text)
    code, stdout, _ = epanns("sweep", experiment, "--dry-run", "--out", tmp_path / "out", "--json")
    assert code == 0
    assert [trial["trial_id"] for trial in json.loads(stdout)["trials"]] == [None, None, None]
    assert "ids follow from the clips, which are not packed yet" in epanns("sweep", experiment, "--dry-run")[1]
    assert not (tmp_path / "out").exists()


def test_a_dry_run_refuses_what_a_run_refuses(epanns, experiment):
    experiment.write_text(experiment.read_text().replace("conv_block6", "conv_block7"))
    code, _, stderr = epanns("sweep", experiment, "--dry-run")
    assert (code, "unknown layer 'conv_block7' (did you mean" in stderr) == (1, True)


def test_a_run_needs_a_folder_and_a_shard_that_exists(epanns, experiment, tmp_path):
    assert "--out is missing: give the folder of the sweep, or --dry-run" in epanns("sweep", experiment)[2]
    for shard, message in (
        ("4/4", "shard 4/4: the first number must be from 0 to 3"),
        ("1", "shard '1': must be i/n, such as 0/4 for the first of four parts"),
        ("0/0", "shard 0/0: the first number must be from 0 to 0, the second at least 1"),
    ):
        code, _, stderr = epanns("sweep", experiment, "--out", tmp_path / "out", "--shard", shard)
        assert (code, message in stderr) == (1, True), stderr


def test_a_failed_trial_is_reported_and_run_again_only_when_it_is_asked_for(epanns, experiment, tmp_path, monkeypatch):
    def stumble(*arguments, **settings):
        raise RuntimeError("out of luck")

    command = ["sweep", experiment, "--out", tmp_path / "out"]
    with monkeypatch.context() as broken:
        broken.setattr("epanns.sweeps.trial.plan_and_cost", stumble)
        code, stdout, stderr = epanns(*command)
    assert (code, "2 trials done, 0 done before, 1 failed" in stdout) == (1, True)
    assert "1 of 3 trials failed, first" in stderr
    assert "run again with --retry-failed" in stderr
    (error,) = (tmp_path / "out").glob("trials/*/error.json")
    before = error.stat().st_mtime_ns
    code, stdout, stderr = epanns(*command)
    assert (code, "0 trials done, 2 done before, 1 failed" in stdout) == (1, True)
    assert "failed: out of luck" in stderr
    assert error.stat().st_mtime_ns == before
    code, stdout, _ = epanns(*command, "--retry-failed")
    assert (code, "1 trials done, 2 done before, 0 failed" in stdout) == (0, True)
    assert not error.exists()
