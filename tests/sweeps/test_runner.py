"""Sweeps: the files decide, finished trials stay, a killed sweep resumes, a failed trial stops no other."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from epanns.cli.sweep import log_trial
from epanns.data.batches.dataset import PackDataset
from epanns.errors import CheckpointError, ConfigError, Interrupted, OutputError, PruningError
from epanns.evaluation.metrics import evaluate
from epanns.evaluation.predict import predict
from epanns.evaluation.protocol import EvaluationProtocol
from epanns.feedback import notes_to
from epanns.labels import LabelSet
from epanns.models.files.checkpoint import save_checkpoint
from epanns.models.files.load import load
from epanns.models.tensors import weights_digest
from epanns.models.zoo import build_model
from epanns.pruning.calibration_clips import CalibrationClips
from epanns.pruning.prune import plan_pruning
from epanns.pruning.recovery.descent import RecoveryRun
from epanns.pruning.recovery.recover import recover
from epanns.records import read_records
from epanns.reporting.rows import count_networks
from epanns.seeding import numpy_generator
from epanns.stages.prune import Rounds, prune_in_rounds
from epanns.stages.score import record_of_checkpoint
from epanns.sweeps.experiment import Trial, parse_experiment
from epanns.sweeps.runner import run_experiment
from epanns.sweeps.sweep_folder import Sweep
from epanns.sweeps.trial import run_trial
from epanns.workfolder import WorkFolder
from tests.processes import wait_for_file

TEXT = """
name = "tiny"
[data]
kind = "packs"
train = ["{train}"]
val = ["{val}"]
test = ["{test}"]
sample_rate = 8000
seconds = 0.5
[[base]]
model = "Cnn14_8k"
width = 0.03
training = {{ iterations = 4, batch_size = 8, validate_every = 2 }}
[grid]
ratio = [0.0, 0.5]
criterion = ["{criterion}"]
layers = [["conv_block5", "conv_block6"]]
recover = ["bn"]
calibration_clips = 24
[[finetune]]
iterations = 2
batch_size = 8
validate_every = 1
"""


@pytest.fixture
def text(tiny_packs) -> str:
    return TEXT.format(**tiny_packs, criterion="l1")


@pytest.fixture(scope="module")
def finished(tiny_packs, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("sweep") / "out"
    run_experiment(parse_experiment(TEXT.format(**tiny_packs, criterion="l1"), "tiny.toml"), out)
    return out


def test_every_stage_is_run_and_recorded(finished):
    records = {record.ratio: record for record in read_records([finished])}
    assert set(records) == {None, 0.0, 0.5}
    assert [stage.name for stage in records[None].stages] == ["dense"]
    assert [stage.name for stage in records[0.0].stages] == ["dense", "finetuned"]
    assert [stage.name for stage in records[0.5].stages] == ["dense", "pruned", "recovered", "finetuned"]
    assert records[0.5].stages[0].scores == records[None].stages[0].scores
    assert records[0.5].cost_after["n_params"] < records[0.5].cost_before["n_params"]
    assert records[0.0].cost_after["n_params"] == records[0.0].cost_before["n_params"]
    assert all(stage.scores["test"]["n_clips"] == 20 for record in records.values() for stage in record.stages)


def test_the_validation_scores_on_the_way_are_recorded(finished):
    for record in read_records([finished]):
        *others, last = record.stages
        steps = [step for step, _ in last.curve]
        assert steps == ([0, 2, 4] if record.ratio is None else [0, 1, 2])
        assert max(score for _, score in last.curve) == pytest.approx(last.scores["val"]["mAP"], abs=0.01)
        assert not any(stage.curve for stage in others)


def test_the_unpruned_network_teaches_where_the_experiment_says_so(tmp_path, text):
    text += 'teacher = "dense"\ndistil_weight = 1.0\n'
    run_experiment(parse_experiment(text, "tiny.toml"), tmp_path / "out")
    records = {record.ratio: record for record in read_records([tmp_path / "out"])}
    dense = load(tmp_path / "out" / "trials" / records[None].trial_id / "base").provenance.sha256
    for ratio in (0.0, 0.5):
        assert (records[ratio].config["teacher"], records[ratio].config["finetune"]["distil_weight"]) == ("dense", 1.0)
        steps = load(tmp_path / "out" / "trials" / records[ratio].trial_id / "finetuned").provenance.recipe
        assert steps[-1].settings["teacher_sha256"] == dense


@pytest.mark.parametrize("criterion", ["interpolative", "taylor"])
def test_criteria_that_measure_clips_are_given_those_of_the_training_part(tiny_packs, tmp_path, criterion):
    text = TEXT.format(**tiny_packs, criterion=criterion).split("[[finetune]]")[0].replace('["bn"]', '["none"]')
    run_experiment(parse_experiment(text, "tiny.toml"), tmp_path / "out")
    (record,) = [record for record in read_records([tmp_path / "out"]) if record.ratio]
    assert (record.criterion, record.config["calibration_clips"]) == (criterion, 24)
    assert [stage.name for stage in record.stages] == ["dense", "pruned"]


def test_ratios_by_layer_are_what_is_removed(tiny_packs, tmp_path):
    text = TEXT.format(**tiny_packs, criterion="l1").split("[[finetune]]")[0]
    text = text.replace("ratio = [0.0, 0.5]", "ratios = [{ conv_block5 = 0.5, conv_block6 = 0.75 }]")
    run_experiment(parse_experiment(text, "tiny.toml"), tmp_path / "out")
    (record,) = [record for record in read_records([tmp_path / "out"]) if record.criterion]
    assert (record.ratio, record.layers) == (None, ("conv_block5", "conv_block6"))
    assert record.cost_after["n_params"] < 0.5 * record.cost_before["n_params"]


def test_a_budget_is_met_by_what_is_scored(tiny_packs, tmp_path):
    text = TEXT.format(**tiny_packs, criterion="l1").split("[[finetune]]")[0]
    text = text.replace("ratio = [0.0, 0.5]", 'budget = ["params 0.6"]')
    run_experiment(parse_experiment(text, "tiny.toml"), tmp_path / "out")
    (record,) = [record for record in read_records([tmp_path / "out"]) if record.criterion]
    assert record.ratio is None
    assert 0.59 < record.cost_after["n_params"] / record.cost_before["n_params"] <= 0.6


def test_pruned_checkpoint_keeps_its_plan_and_widths(finished):
    (record,) = [record for record in read_records([finished]) if record.ratio == 0.5]
    model = load(finished / "trials" / record.trial_id / "finetuned")
    assert model.spec.widths["conv_block6.conv2"] == 31  # half of 61
    assert model.provenance.plan.criterion == "l1"


def test_a_checkpoint_scored_alone_has_the_record_of_the_sweep(finished):
    packs = json.loads(next(finished.glob("trials/*/config.json")).read_text())["packs"]["test"]
    dataset, protocol = PackDataset([Path(path) for path in packs]), EvaluationProtocol()
    records = {record.ratio: record for record in read_records([finished])}
    for ratio, name in ((None, "base"), (0.5, "finetuned")):
        swept = records[ratio]
        model = load(finished / "trials" / swept.trial_id / name)
        predictions = predict(model, dataset, protocol)
        scores = evaluate(predictions, dataset.labels, protocol, bootstrap=0)
        alone = record_of_checkpoint(model, dataset, predictions, scores, protocol, name=name, seconds=0.0)
        for key in ("width", "criterion", "layers", "ratio", "recover", "finetune_iterations", "seed", "plan_digest"):
            if not (key == "layers" and ratio == 0.5):  # a sweep names blocks, a plan layers
                assert getattr(alone, key) == getattr(swept, key), (ratio, key)
        assert alone.stages[0].scores["test"]["mAP"] == pytest.approx(swept.stages[-1].scores["test"]["mAP"])
    steps = [step.kind for step in model.provenance.recipe]
    assert steps == ["train", "prune", "recover", "finetune"]


def test_a_checkpoint_with_its_classes_in_another_order_is_pruned_on_the_same_packs(tmp_path, text, tiny_packs):
    names = PackDataset([tiny_packs["train"]]).labels.names
    save_checkpoint(build_model("Cnn14_8k", width=0.03, labels=LabelSet.of(names[::-1])), tmp_path / "base")
    start, rest = text.split("model = ")
    given = "seeds = [0, 1]" + start + f'checkpoint = "{tmp_path / "base"}"\n' + rest[rest.index("[grid]") :]
    given = given.replace("[0.0, 0.5]", "[0.5]").replace('["bn"]', '["none"]').split("[[finetune]]")[0]
    summary = run_experiment(parse_experiment(given, "tiny.toml"), tmp_path / "out")
    assert (len(summary.done), len(summary.failed)) == (3, 0)
    pruned = [record for record in read_records([tmp_path / "out"]) if record.ratio]
    assert (len(pruned), count_networks(pruned), len({record.network for record in pruned})) == (2, 1, 1)
    assert weights_digest(load(tmp_path / "base")) not in {record.network for record in pruned}


def test_a_finished_sweep_is_only_read(finished, text):
    times = {path: path.stat().st_mtime_ns for path in finished.rglob("result.json")}
    summary = run_experiment(parse_experiment(text, "tiny.toml"), finished)
    assert (len(summary.done), len(summary.skipped), len(summary.failed)) == (0, 3, 0)
    assert times == {path: path.stat().st_mtime_ns for path in finished.rglob("result.json")}


def test_a_deleted_trial_is_run_again_with_the_same_scores(finished, text):
    (path,) = [path for path in finished.rglob("result.json") if json.loads(path.read_text())["ratio"] == 0.5]
    before = json.loads(path.read_text())
    path.unlink()
    summary = run_experiment(parse_experiment(text, "tiny.toml"), finished)
    after = json.loads(path.read_text())
    assert (len(summary.done), len(summary.skipped)) == (1, 2)
    assert [stage["scores"] for stage in after["stages"]] == [stage["scores"] for stage in before["stages"]]
    assert after["plan_digest"] == before["plan_digest"]


def test_what_needs_a_failed_base_fails_too(tmp_path, text, monkeypatch):
    def stumble(*arguments, **settings):
        raise PruningError("out of luck")

    monkeypatch.setattr("epanns.sweeps.trial.build_model", stumble)
    summary = run_experiment(parse_experiment(text, "tiny.toml"), tmp_path / "out")
    assert (len(summary.done), len(summary.failed)) == (0, 3)
    (error,) = (tmp_path / "out" / "trials").glob("*/error.json")
    assert json.loads(error.read_text())["message"] == "out of luck"


def test_an_error_in_one_trial_stops_no_other_and_its_traceback_is_kept(tmp_path, text, monkeypatch):
    def stumble(*args, **kwargs):
        raise RuntimeError("out of luck")

    monkeypatch.setattr("epanns.sweeps.trial.plan_and_cost", stumble)
    summary = run_experiment(parse_experiment(text, "tiny.toml"), tmp_path / "out")
    assert (len(summary.done), len(summary.failed)) == (2, 1)
    error = json.loads((tmp_path / "out" / "trials" / summary.failed[0] / "error.json").read_text())
    assert (error["kind"], error["message"]) == ("RuntimeError", "out of luck")
    assert "in stumble" in error["traceback"]


def test_a_failed_trial_is_run_again_only_if_that_is_asked_for(tmp_path, text):
    experiment, trial = parse_experiment(text, "tiny.toml"), Trial({"kind": "base"})
    sweep = Sweep(tmp_path, experiment)
    folder = sweep.prepare(trial, {})
    folder.fail(RuntimeError("of the first try"))
    assert sweep.prepare(trial, {}).has_failed
    assert not run_trial(folder)  # although its configuration could not be run at all
    assert "of the first try" in (folder.path / "error.json").read_text()
    assert not sweep.prepare(trial, {}, retry_failed=True).has_failed


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    """A finished sweep that a test may change."""
    shutil.copytree(finished, tmp_path / "out")
    return tmp_path / "out"


def test_a_sweep_may_gain_trials_and_those_it_loses_stay(copied, text):
    (pruned,) = [record.trial_id for record in read_records([copied]) if record.ratio == 0.5]
    files = {path: path.read_bytes() for path in copied.rglob("result.json")}
    fewer = run_experiment(parse_experiment(text.replace("[0.0, 0.5]", "[0.0]"), "t.toml"), copied)
    assert (len(fewer.done), len(fewer.skipped), fewer.left, fewer.replaced) == (0, 2, (pruned,), 0)
    assert json.loads((copied / "sweep.json").read_text())["left"] == [pruned]
    again = run_experiment(parse_experiment(text, "t.toml"), copied)
    assert (len(again.done), len(again.skipped), again.left) == (0, 3, ())
    assert files == {path: path.read_bytes() for path in copied.rglob("result.json")}
    more = run_experiment(parse_experiment(text.replace("[0.0, 0.5]", "[0.0, 0.5, 0.25]"), "t.toml"), copied)
    assert (len(more.done), len(more.skipped), more.left) == (1, 3, ())


def test_trials_without_a_result_may_be_replaced_and_finished_ones_are_not_run_again(copied, text):
    (pruned,) = [record.trial_id for record in read_records([copied]) if record.ratio == 0.5]
    (copied / "trials" / pruned / "result.json").rename(copied / "trials" / pruned / "error.json")
    summary = run_experiment(parse_experiment(text.replace("[0.0, 0.5]", "[0.0]"), "t.toml"), copied)
    assert (len(summary.done), len(summary.skipped), summary.left, summary.replaced) == (0, 2, (), 1)
    assert pruned not in (copied / "sweep.json").read_text()


def test_a_finished_trial_of_other_data_or_of_another_experiment_is_not_left_beside(finished, text):
    other = text.replace('val = ["', 'val = ["X').replace('test = ["', 'val = ["').replace('val = ["X', 'test = ["')
    with pytest.raises(OutputError, match=r"out holds finished trials that were run on other data, first \w{12}: set"):
        run_experiment(parse_experiment(other, "tiny.toml"), finished)
    windows = text.replace("[grid]", "[evaluation]\nwindow = 0.25\n[grid]")
    with pytest.raises(OutputError, match=r"out holds finished trials that were scored in another way, first"):
        run_experiment(parse_experiment(windows, "tiny.toml"), finished)
    stranger = text.replace('name = "tiny"', 'name = "big"').replace("width = 0.03", "width = 0.04")
    with pytest.raises(OutputError, match="holds 3 finished trials of the experiment 'tiny', none of which is one of"):
        run_experiment(parse_experiment(stranger, "tiny.toml"), finished)


def test_data_that_no_trial_has_used_are_made_again(tmp_path):
    text = TEXT.format(train="train", val="val", test="test", criterion="l1").replace('"packs"', '"synthetic"')
    text = text.replace("seconds = 0.5", "seconds = 0.5\nsynthetic = { clips = 20, classes = 2 }")
    with pytest.raises(ConfigError, match="calibration_clips=24: the training part has 12 clips; give at most as many"):
        run_experiment(parse_experiment(text, "t.toml"), tmp_path / "out")
    more, notes = text.replace("clips = 20, classes", "clips = 40, classes").split("[grid]")[0], []
    with notes_to(notes.append):
        assert len(run_experiment(parse_experiment(more, "t.toml"), tmp_path / "out").done) == 1
    assert [note for note in notes if "was made for other settings of [data] and no trial is finished" in note]


def test_other_data_in_the_same_folder_are_refused(tmp_path):
    text = TEXT.format(train="train", val="val", test="test", criterion="l1").replace('"packs"', '"synthetic"')
    text = text.replace("seconds = 0.5", "seconds = 0.5\nsynthetic = { clips = 20, classes = 2 }")
    text = text.split("[[finetune]]")[0].replace("calibration_clips = 24", "calibration_clips = 6")
    run_experiment(parse_experiment(text, "t.toml"), tmp_path / "out")
    with pytest.raises(OutputError, match="out"):
        run_experiment(parse_experiment(text.replace("clips = 20", "clips = 15"), "t.toml"), tmp_path / "out")


def test_calibration_clips_are_at_most_those_of_the_training_part(tmp_path, tiny_packs):
    text = TEXT.format(**tiny_packs, criterion="l1").replace("calibration_clips = 24", "calibration_clips = 61")
    with pytest.raises(
        ConfigError, match=r"calibration_clips=61: the training part has 60 clips; give at most as many in"
    ):
        run_experiment(parse_experiment(text, "tiny.toml"), tmp_path / "out")
    assert not (tmp_path / "out" / "trials").exists()


def test_networks_of_another_rate_are_refused_before_anything_is_packed(tmp_path, text):
    asked = parse_experiment(text.replace('model = "Cnn14_8k"', 'model = "Cnn14_16k"'), "tiny.toml")
    with pytest.raises(
        ConfigError, match=r"\[base 1\] Cnn14_16k x 0.03: reads 16000 Hz, \[data\] has sample_rate=8000"
    ):
        run_experiment(asked, tmp_path / "out")
    assert not (tmp_path / "out" / "trials").exists()


def test_the_reason_of_a_failure_is_logged_during_the_sweep(tmp_path, capsys):
    for trial, content in (
        ("a", '{"kind": "ConfigError", "message": "a mistake\\nand more"}'),
        ("b", None),
        ("c", "{"),
    ):
        (tmp_path / "trials" / trial).mkdir(parents=True)
        if content is not None:
            (tmp_path / "trials" / trial / "error.json").write_text(content)
        (tmp_path / "trials" / trial / "config.json").write_text('{"base": "a"}')
        log_trial(tmp_path, trial, "failed", 1, 3)
    first, second, third = capsys.readouterr().err.splitlines()
    assert first == "[1/3] trial a failed: a mistake"
    assert second == "[1/3] trial b failed: its base failed"
    assert third.startswith("[1/3] trial c failed: error.json cannot be read")


def test_the_line_of_a_trial_holds_its_name_score_and_seconds(finished, capsys):
    for record in read_records([finished]):
        log_trial(finished, record.trial_id, "done" if record.ratio else "skipped", 1, 3)
    lines = "".join(sorted(capsys.readouterr().err.splitlines(keepends=True)))
    scores = r"test mAP 0\.\d{4}, val mAP 0\.\d{4}, \d+\.\d s(; no trained step was better: .*)?\n"
    names = (
        (r"Cnn14_8k x 0\.03, l1, ratio 0\.5 of conv_block5, conv_block6, bn, 2 iterations, seed 0", "done"),
        (r"Cnn14_8k x 0\.03, unpruned, seed 0", "done before"),
        (r"Cnn14_8k x 0\.03, unpruned, trained on, 2 iterations, seed 0", "done before"),
    )
    for name, words in names:
        assert re.search(rf"\[1/3\] trial \w{{12}} \({name}\) {words}: {scores}", lines), (name, lines)


def test_a_label_of_a_base_is_in_the_records_and_may_change(copied, text):
    for name in ("small", "tiny", ""):
        named = text.replace("width = 0.03", f'width = 0.03\nname = "{name}"')
        summary = run_experiment(parse_experiment(named, "t.toml"), copied)
        assert (len(summary.skipped), {record.name for record in read_records([copied])}) == (3, {name})


def test_a_folder_of_something_else_is_refused(tmp_path, text):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="exists already and is no sweep"):
        run_experiment(parse_experiment(text, "tiny.toml"), tmp_path)


def test_a_second_sweep_in_the_same_folder_is_refused_and_changes_nothing(finished, text):
    def times():
        return {path: path.stat().st_mtime_ns for path in finished.rglob("*")}

    with WorkFolder(finished).locked():
        before = times()
        with pytest.raises(OutputError, match="out is in use by process"):
            run_experiment(parse_experiment(text, "tiny.toml"), finished)
        assert times() == before
    with pytest.raises(CheckpointError, match="the folder of a sweep: give one of its checkpoints, as .*/trials/"):
        load(finished)


def test_unknown_splits_are_named(tmp_path):
    text = TEXT.format(train="train", val="val", test="exam", criterion="l1").replace('"packs"', '"synthetic"')
    text = text.replace("seconds = 0.5", "seconds = 0.5\nsynthetic = { clips = 10, classes = 2 }")
    with pytest.raises(ConfigError, match=r"no split 'exam' in synthetic: it has test, train, val"):
        run_experiment(parse_experiment(text, "tiny.toml"), tmp_path / "out")


@pytest.mark.slow
def test_two_processes_give_the_table_of_one(tmp_path, finished, text):
    (tmp_path / "tiny.toml").write_text(text)
    command = [sys.executable, "-m", "epanns", "sweep", str(tmp_path / "tiny.toml"), "--out", str(tmp_path / "out")]
    subprocess.run([*command, "--jobs", "2"], check=True, capture_output=True)
    scores = [
        {r.trial_id: [s.scores for s in r.stages] for r in read_records([d])} for d in (finished, tmp_path / "out")
    ]
    assert scores[0].keys() == scores[1].keys()
    for trial_id, stages in scores[0].items():
        for one, other in zip(stages, scores[1][trial_id], strict=True):
            assert one["test"]["mAP"] == pytest.approx(other["test"]["mAP"], abs=0.05)


def is_running(folder: Path) -> bool:
    """Whether a process works on a trial of the sweep."""
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder).encode() in cmdline.read_bytes():
                return True
        except OSError:  # it has ended meanwhile
            continue
    return False


@pytest.mark.slow
def test_children_of_a_killed_sweep_stop_by_themselves(tmp_path, text):
    (tmp_path / "tiny.toml").write_text(text.replace("iterations = 4", "iterations = 4000"))
    out = tmp_path / "out"
    command = [sys.executable, "-m", "epanns", "sweep", str(tmp_path / "tiny.toml"), "--out", str(out), "--jobs", "2"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for_file(out, "state-*.pt")
    finally:
        process.kill()  # the sweep alone, not its group
        process.wait()
    deadline = time.monotonic() + 90
    while is_running(out / "trials") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert list(out.rglob("state-*.pt"))
    assert not is_running(out / "trials")


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1])
def test_a_killed_sweep_resumes_and_repeats_nothing(tmp_path, finished, text, number, jobs):
    """The signal reaches every process of the sweep, as Slurm's does."""
    (tmp_path / "tiny.toml").write_text(text)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "epanns", "sweep", str(tmp_path / "tiny.toml"), "--out", str(out)]
    command += ["--jobs", str(jobs)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
    try:
        wait_for_file(out, "result.json")
    finally:
        os.killpg(process.pid, number)
        _, stderr = process.communicate()
    done = {path: path.stat().st_mtime_ns for path in out.rglob("result.json")}
    assert done
    if number != signal.SIGKILL:  # between trainings there is nothing to save, and a trial in this process dies of it
        assert process.returncode in (128 + number, -number, 0), stderr
        assert not list(out.rglob("error.json"))
    again = subprocess.run(command, check=False, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert len(list(out.rglob("result.json"))) == 3
    assert all(path.stat().st_mtime_ns == before for path, before in done.items())
    tables = [
        {record.trial_id: [stage.scores for stage in record.stages] for record in read_records([folder])}
        for folder in (finished, out)
    ]
    assert tables[0] == tables[1]


def test_rounds_of_a_trial_recover_in_each_and_one_round_is_the_trial_without_them(tmp_path, text, tiny_packs):
    text = text.split("[[finetune]]")[0].replace("ratio = [0.0, 0.5]", "ratio = [0.5]")
    text = text.replace('recover = ["bn"]', 'recover = ["ls", "none"]\nsteps = [1, 2]')
    run_experiment(parse_experiment(text, "tiny.toml"), tmp_path)
    records = [record for record in read_records([tmp_path]) if record.ratio]
    stages = {
        (record.config.get("steps", 1), record.recover): [stage.name for stage in record.stages] for record in records
    }
    assert stages == {
        (1, "none"): ["dense", "pruned"],
        (1, "ls"): ["dense", "pruned", "recovered"],
        (2, "none"): ["dense", "pruned"],
        (2, "ls"): ["dense", "recovered"],
    }
    results = set(tmp_path.rglob("result.json"))
    run_experiment(parse_experiment(text.replace("steps = [1, 2]", ""), "tiny.toml"), tmp_path)
    assert set(tmp_path.rglob("result.json")) == results  # trials of one round are those of a grid without rounds
    (rounds,) = (record for record in records if record.config.get("steps") == 2 and record.recover == "ls")
    (base,) = (record for record in read_records([tmp_path]) if record.ratio is None)
    dense = load(tmp_path / "trials" / base.trial_id / "base")
    order = numpy_generator("calibration", 0).permutation(60)[:24].tolist()
    clips = CalibrationClips.from_pack(PackDataset([tiny_packs["train"]], sample_rate=8_000, seconds=0.5), order)
    target = plan_pruning(dense, ratio=0.5, layers=("conv_block5", "conv_block6"))
    model, _ = prune_in_rounds(
        dense,
        target,
        Rounds(2),
        calibration=clips,
        recover=lambda pruned, before, plan: recover(pruned, before, clips, "ls", plan=plan),
    )
    assert rounds.network == weights_digest(model)


def test_stopped_gradient_steps_of_a_trial_resume_with_the_same_network(tmp_path, text, monkeypatch):
    text = text.split("[[finetune]]")[0].replace("ratio = [0.0, 0.5]", "ratio = [0.5]")
    experiment = parse_experiment(text.replace('recover = ["bn"]', 'recover = ["align:4"]'), "tiny.toml")

    def pruned_in(folder):
        run_experiment(experiment, folder)
        (record,) = (record for record in read_records([folder]) if record.ratio)
        return record

    whole = pruned_in(tmp_path / "a")
    seen = []

    def stop(step, total, loss):
        seen.append(step)
        if len(seen) == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("epanns.sweeps.trial.RecoveryRun", partial(RecoveryRun, on_step=stop))
    with pytest.raises(Interrupted, match=r"stopped by signal 15 at step 3 of 4 of the recovery"):
        pruned_in(tmp_path / "b")
    resumed = pruned_in(tmp_path / "b")
    assert seen == [1, 2, 3, 4]
    assert resumed.network == whole.network
    report = resumed.stage("recovered").recovery
    assert (report["method"], report["align"]["steps"], len(report["align"]["curve"])) == ("align:4", 4, 5)
    assert not [*(tmp_path / "b").glob("trials/*/recovery")]
