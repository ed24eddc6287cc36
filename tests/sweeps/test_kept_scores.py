"""Trials keep the scores of their test clips on request, and `epanns compare` reads them."""

import pytest

import epanns
from epanns.clip_scores import read_clip_scores
from epanns.data.batches.dataset import PackDataset
from epanns.errors import ConfigError, DataError
from epanns.labels import LabelSet
from epanns.models.files.checkpoint import save_checkpoint
from epanns.records import read_record
from epanns.statistics.classes import average_precisions
from epanns.sweeps.experiment import parse_experiment
from epanns.sweeps.runner import run_experiment
from tests.builders import make_network, tiny_spec

TEXT = """
name = "kept"
[data]
kind = "packs"
train = ["{train}"]
val = ["{val}"]
test = ["{test}"]
sample_rate = 8000
seconds = 0.5
[[base]]
checkpoint = "{checkpoint}"
[grid]
ratio = [0.5]
recover = ["none", "bn"]
calibration_clips = 24
[evaluation]
keep_scores = {kept}
"""


@pytest.fixture
def text(tiny_packs, tiny_checkpoint):
    return TEXT.format(**tiny_packs, checkpoint=tiny_checkpoint, kept="true")


def test_every_trial_keeps_scores_whose_map_is_the_record_s_and_rows_can_be_compared(text, tmp_path):
    summary = run_experiment(parse_experiment(text, "kept.toml"), tmp_path / "out")
    assert len(summary.done) == 3
    for trial in summary.done:
        folder = tmp_path / "out" / "trials" / trial
        kept, record = read_clip_scores(folder / "scores.npz"), read_record(folder / "result.json")
        expected = record.stages[-1].scores["test"]["mAP"]
        assert average_precisions(kept.target, kept.scores).mean() == pytest.approx(expected, abs=1e-6)
    out = tmp_path / "out"
    found = epanns.compare([f"{out}:kind=base", f"{out}:recover=bn", f"{out}:criterion=l1,recover=none"], bootstrap=50)
    assert [len(row.runs) for row in found.rows] == [1, 1, 1]
    assert found.n_clips == 20


def test_keeping_scores_is_no_part_of_a_trial_and_is_done_later_without_training(text, tmp_path):
    experiment = parse_experiment(text.replace("keep_scores = true", "keep_scores = false"), "kept.toml")
    first = run_experiment(experiment, tmp_path / "out")
    folders = [tmp_path / "out" / "trials" / trial for trial in first.done]
    assert not any((folder / "scores.npz").exists() for folder in folders)
    with pytest.raises(DataError, match=r"holds no scores.npz.*keep_scores = true under \[evaluation\]"):
        epanns.compare([folders[0], folders[1]])
    (folders[0] / "result.json").unlink()
    again = run_experiment(parse_experiment(text, "kept.toml"), tmp_path / "out")
    assert (again.done, set(again.skipped)) == (first.done[:1], set(first.done[1:]))
    assert (folders[0] / "scores.npz").exists()


def test_with_a_class_map_the_scores_are_those_of_the_classes_of_the_data(tiny_packs, tmp_path):
    sounds = LabelSet.of(["Bang", "Beep", "Hiss", "Moo", "Whistle"])
    save_checkpoint(make_network(tiny_spec().with_num_classes(5), sounds, seed=1), tmp_path / "dense")
    one, other, *_ = PackDataset([tiny_packs["test"]]).labels.names
    (tmp_path / "map.csv").write_text(f"category,mid,display_name\n{one},,Beep\n{other},,Hiss\n{other},,Moo\n")
    text = TEXT.format(**tiny_packs, checkpoint=tmp_path / "dense", kept="true")
    text = text.replace("[[base]]", f'class_map = "{tmp_path / "map.csv"}"\n[[base]]')
    (trial, *_) = run_experiment(parse_experiment(text, "kept.toml"), tmp_path / "out").done
    folder = tmp_path / "out" / "trials" / trial
    kept = read_clip_scores(folder / "scores.npz")
    assert kept.class_names == (one, other)
    expected = read_record(folder / "result.json").stages[-1].scores["test"]["mAP"]
    assert average_precisions(kept.target, kept.scores).mean() == pytest.approx(expected, abs=1e-6)


def test_a_wrong_value_and_a_wrong_key_are_refused(text):
    with pytest.raises(ConfigError, match=r"\[evaluation\] keep_scores='yes': must be true or false"):
        parse_experiment(text.replace("keep_scores = true", 'keep_scores = "yes"'), "kept.toml")
    with pytest.raises(ConfigError, match=r"unknown key 'keep_score' \(did you mean 'keep_scores'"):
        parse_experiment(text.replace("keep_scores", "keep_score"), "kept.toml")
