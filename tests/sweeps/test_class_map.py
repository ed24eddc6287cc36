"""Sweeps of networks whose classes are not the data's, and the agreement of every trial with the unpruned network."""

import json
from pathlib import Path

import pytest

import epanns
from epanns.data.batches.dataset import PackDataset
from epanns.errors import ConfigError, DataError
from epanns.labels import LabelSet
from epanns.models.files.checkpoint import save_checkpoint
from epanns.models.files.load import load
from epanns.records import read_records
from epanns.reporting.rows import rows_by_block
from epanns.reporting.tables import measured_csv, measured_markdown
from epanns.sweeps.experiment import parse_experiment
from epanns.sweeps.runner import run_experiment
from tests.builders import make_network, tiny_spec

SOUNDS = LabelSet.of(["Bang", "Beep", "Hiss", "Moo", "Whistle"])
TEXT = """
name = "zero-shot"
[data]
kind = "packs"
train = ["{train}"]
val = ["{val}"]
test = ["{test}"]
sample_rate = 8000
seconds = 0.5
class_map = "{class_map}"
[[base]]
checkpoint = "{checkpoint}"
[grid]
ratio = [0.5]
criterion = ["l1"]
recover = ["ls"]
calibration_clips = 24
"""


@pytest.fixture(scope="module")
def asked(tiny_packs, tmp_path_factory) -> dict[str, Path]:
    """The packs, a checkpoint of five other classes, and a map of two classes."""
    folder = tmp_path_factory.mktemp("asked")
    save_checkpoint(make_network(tiny_spec().with_num_classes(5), SOUNDS, seed=1), folder / "dense")
    first, second, *_ = PackDataset([tiny_packs["test"]]).labels.names
    (folder / "map.csv").write_text(f"category,mid,display_name\n{first},,Beep\n{second},,Hiss\n{second},,Moo\n")
    return {**tiny_packs, "class_map": folder / "map.csv", "checkpoint": folder / "dense"}


@pytest.fixture(scope="module")
def finished(asked, tmp_path_factory):
    out = tmp_path_factory.mktemp("sweep") / "out"
    summary = run_experiment(parse_experiment(TEXT.format(**asked), "tiny.toml"), out)
    assert not summary.failed
    return out


def test_trials_have_the_zero_shot_scores_and_the_agreement_of_the_library(finished, asked):
    base, pruned = sorted(read_records([finished]), key=lambda record: len(record.stages))
    dense = load(asked["checkpoint"])
    network, _ = epanns.prune(dense, criterion="l1", ratio=0.5)
    for part in ("val", "test"):
        found = epanns.agree(network, dense, asked[part], class_map=asked["class_map"], bootstrap=0)
        scores = pruned.stage("pruned").scores[part]
        assert scores["mAP"] == pytest.approx(found.pruned.scores.mAP, abs=1e-4)
        assert {name: scores[name] for name in found.agreement.summary()} == pytest.approx(
            found.agreement.summary(), abs=1e-4
        )
        assert base.stages[0].scores[part]["mAP"] == pytest.approx(found.dense.scores.mAP, abs=1e-4)
        assert not any(name.startswith("agreement") for name in base.stages[0].scores[part])
    assert pruned.protocol == base.protocol
    assert pruned.protocol.startswith("whole clip; zero-shot, 2 of 4 classes, class map ")


def test_reports_have_the_agreement_where_records_have_it(finished):
    records = read_records([finished])
    blocks = rows_by_block(records)
    text = measured_markdown(blocks)
    (pruned,) = [record for record in records if record.criterion]
    value = pruned.stage("recovered").scores["test"]["agreement_tag_mAP"]
    assert f"| {value:.3f} | 1 |" in text
    assert "Own tags: mAP of the scores for the tags that the unpruned network gives" in text
    assert "agreement_tag_mAP,agreement_correlation,agreement_tau,n_seeds" in measured_csv(blocks)
    (base,) = [record for record in records if not record.criterion]
    assert "Own tags" not in measured_markdown(rows_by_block([base]))
    assert "agreement" not in measured_csv(rows_by_block([base]))


def test_the_map_is_part_of_the_identity_and_may_not_change_below_a_finished_sweep(finished, asked, tmp_path):
    base, _ = sorted(read_records([finished]), key=lambda record: len(record.stages))
    assert len(base.config["data"]["class_map_sha256"]) == 64
    other = tmp_path / "other.csv"
    other.write_text(asked["class_map"].read_text().replace("Moo", "Bang"))
    text = TEXT.format(**asked | {"class_map": other})
    with pytest.raises(Exception, match="run on other data"):
        run_experiment(parse_experiment(text, "tiny.toml"), finished)


def test_a_map_that_changes_below_a_trial_fails_the_trial(asked, tmp_path, monkeypatch):
    own = tmp_path / "map.csv"
    own.write_text(asked["class_map"].read_text())
    run_experiment(parse_experiment(TEXT.format(**asked | {"class_map": own}), "tiny.toml"), tmp_path / "out")
    for path in (tmp_path / "out").glob("trials/*/result.json"):
        path.unlink()
    config = next((tmp_path / "out").glob("trials/*/config.json"))
    own.write_text(asked["class_map"].read_text().replace("Moo", "Bang"))
    from epanns.sweeps.journal import TrialFolder
    from epanns.sweeps.trial import run_trial

    assert json.loads(config.read_text())["class_map"] == str(own)
    assert not run_trial(TrialFolder(config.parent))
    error = json.loads((config.parent / "error.json").read_text())
    assert error["kind"] == "DataError"
    assert error["message"].endswith("map.csv: has changed since the sweep began; run `epanns sweep` again")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'checkpoint = "{checkpoint}"',
            'model = "Cnn14_8k"\ntraining = {{ iterations = 2 }}',
            r"\[base 1\] model='Cnn14_8k': cannot be trained: the networks are scored through \[data\] class_map",
        ),
        ("[grid]", "[[finetune]]\niterations = 2\n[grid]", r"\[finetune\] cannot be done: the networks are scored"),
        ('["l1"]', '["taylor"]', r"\[grid\] criterion='taylor': uses labels: the networks are scored"),
        ("{class_map}", "no_map.csv", "no_map.csv: cannot be read as a class map"),
    ],
)
def test_what_a_class_map_cannot_do_is_refused_before_any_work(asked, tmp_path, old, new, message):
    text = TEXT.replace(old, new).format(**asked)
    with pytest.raises((ConfigError, DataError), match=message):
        run_experiment(parse_experiment(text, "tiny.toml"), tmp_path / "out")
    assert not list(tmp_path.glob("out/trials/*"))
