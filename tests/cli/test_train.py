"""`epanns train`, `finetune` and `tag` from the command line."""

import csv
import json
import re
import shlex
import signal
import sys

import numpy as np
import pytest
import soundfile
import torch

from epanns.cli.main import cli
from epanns.cli.shared.options import torch_device
from epanns.cli.shared.training_progress import ProgressDisplay
from epanns.cli.train import curve_drawn, describe
from epanns.data.packs.any_pack import SparseTargets
from epanns.errors import CheckpointError, ConfigError, Interrupted, OutputError, PackError, TrainingError
from epanns.labels import LabelSet
from epanns.models.files.checkpoint import save_checkpoint
from epanns.models.files.load import load
from epanns.models.zoo import build_model
from epanns.training.finetune import TrainingResult
from tests.builders import make_checkpoint

SHORT = ["--iterations", "4", "--batch-size", "8", "--validate-every", "2"]


@pytest.fixture
def packs(tiny_packs) -> list[str]:
    return ["--train", str(tiny_packs["train"]), "--val", str(tiny_packs["val"])]


def invoke(runner, *arguments):
    return runner.invoke(cli, [str(argument) for argument in arguments], catch_exceptions=False)


def test_train_then_finetune_with_other_classes(runner, tmp_path, packs):
    result = invoke(runner, "train", "Cnn14_8k", "--width", 0.03, *packs, *SHORT, "--out", tmp_path / "base", "--json")
    answer = json.loads(result.stdout)
    assert result.exit_code == 0
    assert answer["best_step"] in (0, 2, 4)
    base = load(tmp_path / "base")
    assert base.labels.names[0] == "tone"

    other = build_model("Cnn14_8k", width=0.03, labels=LabelSet.of(["x", "y"]))
    other.load_state_dict({**base.state_dict(), **{k: v for k, v in other.state_dict().items() if "audioset" in k}})
    save_checkpoint(other, tmp_path / "other")
    result = invoke(
        runner, "finetune", tmp_path / "other", *packs, *SHORT, "--freeze-backbone", "--out", tmp_path / "new"
    )
    assert result.exit_code == 0
    assert "new classifier, 4 classes in place of 2: all 4 classes start from random weights" in result.stderr
    new = load(tmp_path / "new")
    assert new.labels == base.labels

    # The same classes in another order are no other classes.
    permuted = build_model("Cnn14_8k", width=0.03, labels=LabelSet.of(base.labels.names[::-1]))
    save_checkpoint(permuted, tmp_path / "permuted")
    result = invoke(runner, "finetune", tmp_path / "permuted", *packs, *SHORT, "--out", tmp_path / "mapped")
    assert "the classes of synthetic are put into the order of Cnn14_8k's" in result.stderr
    assert "new classifier" not in result.stderr
    assert load(tmp_path / "mapped").labels.names == base.labels.names[::-1]

    assert torch.equal(new.conv_block1.conv1.weight, base.conv_block1.conv1.weight)
    assert new.provenance.parent_sha256 == load(tmp_path / "other").provenance.sha256


def test_finetune_on_single_label_packs_keeps_weights_of_known_classes(runner, tmp_path, packs, single_label_packs):
    assert (
        invoke(runner, "train", "Cnn14_8k", "--width", 0.03, *packs, *SHORT, "--out", tmp_path / "base").exit_code == 0
    )
    ours = ["--train", single_label_packs["train"], "--val", single_label_packs["val"], *SHORT]
    asked = ["finetune", tmp_path / "base", *ours, "--task", "single-label"]
    phases = ["--head-iterations", 2, "--backbone-rate", 0.1]
    result = invoke(runner, *asked, *phases, "--out", tmp_path / "new", "--json")
    said = "new classifier, 3 classes in place of 4: 2 of 3 classes keep their weights, 1 is new: mouse click\n"
    assert said in result.stderr
    assert {"best_step", "best_accuracy"} <= json.loads(result.stdout).keys()
    step = load(tmp_path / "new").provenance.recipe[-1].settings["training"]
    assert (step["task"], step["head_iterations"], step["backbone_rate"]) == ("single-label", 2, 0.1)
    result = invoke(runner, *asked, "--new-classifier", "--freeze-backbone", "--out", tmp_path / "fresh")
    assert "3 classes in place of 4: all 3 classes start from random weights\n" in result.stderr
    assert "best validation accuracy 0." in result.stdout
    # What a checkpoint is, it stays: no --task.
    result = invoke(runner, "finetune", tmp_path / "new", *ours, "--out", tmp_path / "again")
    assert "best validation accuracy 0." in result.stdout
    assert load(tmp_path / "again").spec.task == "single-label"


def test_train_logs_its_clips_and_classes(runner, tmp_path, packs):
    command = ["train", "Cnn14_8k", "--width", 0.03, *packs, *SHORT, "--out", tmp_path / "run"]
    result = invoke(runner, *command, "--crop-seconds", 0.2, "--short-clips", "repeat", "--sampler", "weighted")
    assert result.exit_code == 0
    said = "training on 60 clips of synthetic in 4 classes, sampler weighted; validation on 20 clips of synthetic in 4"
    assert said in result.stderr
    asked = json.loads((tmp_path / "run" / "training.json").read_text())["asked"]["training"]
    assert (asked["crop_seconds"], asked["short_clips"], asked["sampler"]) == (0.2, "repeat", "weighted")


def test_a_run_leaves_its_learning_curve_also_when_it_is_stopped(runner, tmp_path, packs, monkeypatch):
    command = ["train", "Cnn14_8k", "--width", 0.03, *packs, *SHORT, "--tensorboard", "--out", tmp_path / "run"]

    def stopping(watch, state, loss):
        if state.step == 3:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(ProgressDisplay, "on_step", stopping)
        with pytest.raises(Interrupted):
            invoke(runner, *command)
    command_line = shlex.join(["epanns", *sys.argv[1:]])
    message = f"{tmp_path}/run is not a checkpoint: it is an unfinished training run, at step 3 of 4: resume it with: "
    with pytest.raises(CheckpointError, match=re.escape(f"{message}{command_line}; its best weights so far are the")):
        load(tmp_path / "run")
    curve = tmp_path / "run" / "learning_curve.svg"
    stopped = curve.read_text()
    result = invoke(runner, *command)
    assert [line.split("  ")[0] for line in result.stderr.splitlines()[1:]] == ["resume at step 3 of 4", "step 4 of 4"]
    assert curve.read_text() != stopped
    assert "validation mAP" in curve.read_text()
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 2
    assert invoke(runner, *command, "--fresh").exit_code == 0
    with pytest.raises(OutputError, match="training.seed=0, not 1"):  # another's run is not drawn
        curve.unlink()
        invoke(runner, *command, "--seed", 1)
    assert not curve.exists()


@pytest.mark.parametrize("ended", [Interrupted(15, "stopped at step 3"), TrainingError("five steps")])
def test_the_error_of_a_run_is_reported_also_without_a_curve(tmp_path, capsys, ended):
    (tmp_path / "training.json").write_text("{}")
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "mAP": 0.5}\n')
    with pytest.raises(type(ended)) as raised, curve_drawn(tmp_path):
        raise ended
    assert raised.value is ended
    said = capsys.readouterr().err
    assert said.startswith(f"epanns: {ended}\nno learning curve could be drawn: ") and said.count("\n") == 2
    (tmp_path / "training.json").write_text('{"asked": {"model": {"name": "Cnn6"}}}')
    with pytest.raises(type(ended)), curve_drawn(tmp_path):
        raise ended
    assert sorted(path.name for path in tmp_path.glob("learning_curve.*")) == ["learning_curve.svg"]


def test_a_signal_is_reported_once_and_before_the_curve_is_drawn(epanns, tmp_path, packs, monkeypatch):
    monkeypatch.setattr(ProgressDisplay, "on_step", lambda *_: signal.raise_signal(signal.SIGTERM))
    drawn = "epanns.reporting.figures.learning_curve.write_learning_curves"
    monkeypatch.setattr(drawn, lambda *_, **__: print("drawn", file=sys.stderr))
    command = ["train", "Cnn14_8k", "--width", 0.03, *packs, *SHORT, "--out", tmp_path / "run"]
    code, _, said = epanns(*command)
    assert code == 143
    assert [line.split(" at ")[0] for line in said.splitlines()[-2:]] == ["epanns: stopped by signal 15", "drawn"]


def test_an_output_of_something_else_is_refused_before_anything_is_read(runner, tmp_path, packs, tiny_packs):
    for command in (["train", "Cnn14"], ["finetune", tmp_path]):
        with pytest.raises(OutputError, match="exists already and is no training run: choose another --out"):
            invoke(runner, *command, *packs, "--out", tiny_packs["train"])


def test_another_run_is_refused_before_packs_and_networks_are_read(runner, tmp_path, packs):
    """Nothing of what is named is there to be read."""
    nothing, run = tmp_path / "nothing", ["--out", tmp_path / "run", *SHORT]
    nothing.mkdir()
    unreadable = ["--train", nothing, "--val", nothing]
    train, finetune = ["train", "Cnn14_8k", "--width", 0.03], ["finetune", nothing]
    assert invoke(runner, *train, *packs, *run).exit_code == 0
    for command, difference in (
        ([*train, "--seed", 1], "training.seed=0, not 1"),
        ([*train, "--clip-norm", 5], "training.clip_norm left out, not 5.0"),
        (["train", "Cnn14_8k", "--width", 0.05], r"model.widths.conv_block1.conv1=2, not 3"),
        (["train", "Cnn10", "--width", 0.03], "model.name='Cnn14_8k', not 'Cnn10'"),
        (["train", "LEAN", "--yamnet", nothing], "model.name='Cnn14_8k', not 'LEAN'"),
        ([*finetune, "--learning-rate", 0.01], "training.learning_rate=0.001, not 0.01"),
        ([*finetune, "--teacher", nothing], "training.distil_weight left out, not 0.5"),
    ):
        with pytest.raises(
            OutputError, match=f"holds a run with {difference}: repeat its options to resume it, --fresh to"
        ):
            invoke(runner, *command, *unreadable, *run)
        with pytest.raises((PackError, CheckpointError)):
            invoke(runner, *command, *unreadable, *run, "--fresh")
    for command in (train, finetune, [*finetune, "--freeze-yamnet"]):  # not known to be others before they are read
        with pytest.raises((PackError, CheckpointError)):
            invoke(runner, *command, *unreadable, *run)
    assert load(tmp_path / "run").spec.name == "Cnn14_8k"
    (tmp_path / "run" / "training.json").write_text("[]")
    with pytest.raises(OutputError, match=r"training\.json: cannot be read .*\(.*\): give --fresh or another --out"):
        invoke(runner, *train, *unreadable, *run)


def test_train_again_resumes_and_fresh_starts_over(runner, tmp_path, packs):
    command = ["train", "Cnn14_8k", "--width", 0.03, *packs, *SHORT, "--out", tmp_path / "run"]
    assert invoke(runner, *command).exit_code == 0
    before = (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns
    assert invoke(runner, *command).exit_code == 0
    assert (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(OutputError, match="training.seed=0, not 1"):
        invoke(runner, *command, "--seed", 1)
    assert invoke(runner, *command, "--seed", 1, "--fresh").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "Cnn41"], "unknown model 'Cnn41'"),
        (["train", "Cnn14"], "pack the manifest again with --sample-rate 32000"),
        (["train", "Cnn14_8k", "--width", "0.03", "--device", "tpu"], "--device 'tpu': must be cpu, cuda or cuda:N"),
        (["train", "Cnn14_8k", "--width", "0.03", "--device", "meta"], "--device 'meta': must be cpu, cuda or cuda:N"),
        (
            ["train", "Cnn14_8k", "--width", "0.03", "--device", "cuda:01"],
            "--device 'cuda:01': must be cpu, ",
        ),
        (["train", "Cnn14_8k", "--mp3-seconds", "0"], r"mp3_seconds=0: must be a length in seconds, .*--mp3-seconds"),
        (["train", "Cnn14_8k", "--mp3-seconds", "nan"], r"mp3_seconds=nan: must be a length in seconds"),
        (["train", "Cnn14_8k", "--width", "0.03", "--schedule", "cos"], "schedule='cos'"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(runner, tmp_path, packs, arguments, message):
    with pytest.raises(ConfigError, match=message):
        invoke(runner, *arguments, *packs, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("devices", "asked", "has"),
    [
        (0, "cuda", "no CUDA device that torch can use; use --device cpu"),
        (0, "cuda:1", "no CUDA device that torch can use; use --device cpu"),
        (1, "cuda:1", "1 CUDA device, cuda:0; choose one of them"),
        (4, "cuda:11", "4 CUDA devices, cuda:0 to cuda:3; choose one of them"),
    ],
)
def test_a_gpu_that_is_not_there_is_refused_with_what_is(monkeypatch, epanns, tmp_path, packs, devices, asked, has):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: devices > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    said = f"epanns: --device '{asked}': this machine has {has}\n"
    run = ["Cnn14_8k", *packs, "--device", asked, "--out", tmp_path / "run"]
    assert epanns("train", *run) == (1, "", said)
    for command in ("evaluate", "sensitivity"):
        data = ["--data", packs[1], "--device", asked, "--out", tmp_path / "run"]
        assert epanns(command, tmp_path, *data) == (1, "", said)
    assert epanns("prune", tmp_path, "--ratio", 0.5, "--device", asked, "--out", tmp_path / "run") == (1, "", said)
    assert epanns("profile", "Cnn6", "--latency", "--device", asked) == (1, "", said)
    assert not (tmp_path / "run").exists()


def test_a_gpu_that_is_there_is_taken(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [torch_device(name) for name in ("cpu", "cuda", "cuda:0", "cuda:1")] == ["cpu", "cuda", "cuda:0", "cuda:1"]


def test_fresh_deletes_nothing_before_everything_else_is_right(runner, monkeypatch, tmp_path, packs, tiny_packs):
    command = ["train", "Cnn14_8k", "--width", 0.03, *packs, *SHORT, "--out", tmp_path / "run", "--fresh"]
    assert invoke(runner, *command).exit_code == 0
    refused = (["--device", "tpu"], ["--val", tiny_packs["train"]], ["--schedule", "cos"], ["--freeze-yamnet"])
    for wrong in refused:
        with pytest.raises((ConfigError, PackError)):
            invoke(runner, *command, *wrong)
    save_checkpoint(load(tmp_path / "run"), tmp_path / "base")
    again = ["finetune", tmp_path / "base", *packs, *SHORT, "--out", tmp_path / "run", "--fresh"]
    with pytest.raises(ConfigError, match="freeze_yamnet: Cnn14_8k is not built on YAMNet's body"):
        invoke(runner, *again, "--freeze-yamnet")
    with monkeypatch.context() as patch, pytest.raises(ConfigError, match="batch_size=3 cannot be shared out to 2"):
        patch.setattr("epanns.training.data_parallel.world_size", lambda: 2)
        invoke(runner, *again, "--batch-size", 3, "--mixup-alpha", 0)
    assert load(tmp_path / "run").spec.name == "Cnn14_8k"
    with pytest.raises(ConfigError, match="run is the checkpoint itself: choose another --out"):
        invoke(runner, "finetune", tmp_path / "run", *packs, *SHORT, "--out", tmp_path / "run", "--fresh")


def test_validating_on_training_clips_is_refused(runner, tmp_path, tiny_packs):
    packs = ["--train", tiny_packs["train"], "--val", tiny_packs["train"]]
    with pytest.raises(PackError, match=r"60 of 60 validation clips are training clips too, first 'clip-.*a leak"):
        invoke(runner, "train", "Cnn14_8k", "--width", 0.03, *packs, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def tagger(tmp_path):
    return make_checkpoint(tmp_path / "tagger", "Cnn14_8k", LabelSet.of(["dog", "rain", "bell"]), width=0.03)


def test_tag_reads_any_length_rate_and_channel_count(runner, tmp_path, tagger):
    soundfile.write(tmp_path / "long.wav", np.random.default_rng(0).uniform(-0.5, 0.5, (44_100 * 2, 2)), 44_100)
    soundfile.write(tmp_path / "short.flac", np.full(30, 0.1), 16_000)
    result = invoke(runner, "tag", tagger, tmp_path / "long.wav", tmp_path / "short.flac", "--top", 2, "--json")
    windows = json.loads(result.stdout)["windows"]
    assert [(window["start"], round(window["end"], 2)) for window in windows] == [(0, 2.0), (0, 0.0)]
    assert set(windows[0]) == {"file", "start", "end", "tags"}
    assert all(len(window["tags"]) == 2 for window in windows)
    assert windows[0]["tags"][0]["score"] >= windows[0]["tags"][1]["score"]


def test_tag_scores_long_files_in_windows_that_end_with_the_file(runner, tmp_path, tagger):
    soundfile.write(tmp_path / "long.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 8_000 * 33), 8_000)
    result = invoke(runner, "tag", tagger, tmp_path / "long.wav", "--json")
    windows = json.loads(result.stdout)["windows"]
    assert [(window["start"], window["end"]) for window in windows] == [(0, 10), (10, 20), (20, 30), (23, 33)]


def test_tag_windows_cover_the_file_and_the_csv_holds_every_class(runner, tmp_path, tagger):
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 20_000), 8_000)
    arguments = ("tag", tagger, tmp_path / "a.wav", "--window", 1.0, "--hop", 0.5, "--csv", tmp_path / "tags.csv")
    result = invoke(runner, *arguments)
    rows = list(csv.DictReader((tmp_path / "tags.csv").read_text().splitlines()))
    assert [(float(row["start"]), float(row["end"])) for row in rows] == [(0, 1), (0.5, 1.5), (1, 2), (1.5, 2.5)]
    assert {"dog", "rain", "bell"} <= set(rows[0])
    assert "a.wav  0.00-1.00 s  " in result.stdout
    with pytest.raises(OutputError, match="tags.csv exists already"):
        invoke(runner, *arguments)
    with pytest.raises(ConfigError, match="hop=0.5 without a window"):
        invoke(runner, "tag", tagger, tmp_path / "a.wav", "--hop", 0.5)


@pytest.mark.parametrize(("step", "said"), [(0, " (no trained step was better: the weights from before "), (2, ", ")])
def test_the_last_line_states_that_the_weights_from_before_training_are_kept(tmp_path, step, said):
    line = describe(TrainingResult(step, 0.5, 4, 2.0), tmp_path)
    assert f"best validation mAP 0.5000 at step {step} of 4{said}" in line and line.endswith("learning_curve.svg")


def test_the_last_line_names_a_last_step_that_was_kept(tmp_path):
    line = describe(TrainingResult(4, 0.5, 4, 2.0), tmp_path, keep="last")
    assert f"{tmp_path}: validation mAP 0.5000 at step 4 of 4, the last step, 2 s" in line


def test_clips_without_classes_are_refused_before_fresh_deletes_a_run(runner, tmp_path, packs, monkeypatch):
    command = ["train", "Cnn14_8k", "--width", 0.03, *packs, *SHORT, "--iterations", 1, "--out", tmp_path / "run"]
    assert invoke(runner, *command).exit_code == 0
    monkeypatch.setattr(SparseTargets, "counts", lambda targets: np.zeros(targets.num_classes, np.int64))
    with pytest.raises(ConfigError, match="validation: none of the 20 clips of synthetic has any of the 4 classes: no"):
        invoke(runner, *command, "--fresh")
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_packs_that_do_not_fit_each_other_are_named_before_an_earlier_run_is_deleted(
    runner, tmp_path, packs, single_label_packs
):
    command = ["train", "Cnn14_8k", "--width", 0.03, *SHORT, "--iterations", 1, "--out", tmp_path / "run"]
    said = invoke(runner, *command, *packs, "--batch-size", 40, "--mixup-alpha", 0.5).stderr
    assert "each step takes 80 clips (--batch-size, in pairs), more than the 60 there are: clips repeat within" in said
    other = ["--train", packs[1], "--val", single_label_packs["val"]]
    message = r"the packs synthetic and single have different classes \(4 classes in the training clips, 3 in the valid"
    with pytest.raises(ConfigError, match=message):
        invoke(runner, *command, *other, "--fresh")
    assert (tmp_path / "run" / "model.safetensors").exists()
    result = runner.invoke(cli, [*map(str, [*command, *packs]), "--seed", str(2**63)])
    assert result.exit_code == 2 and "is not in the range 0<=x<=9223372036854775807" in result.stderr
