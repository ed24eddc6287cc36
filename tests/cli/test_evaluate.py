"""``epanns evaluate``: the figures of the library, as text, as JSON and as a record."""

import csv
import json
import re
import shutil
from dataclasses import replace
from functools import partial

import h5py
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from epanns.cli.evaluate import describe
from epanns.cli.main import cli
from epanns.data.batches.dataset import PackDataset
from epanns.data.batches.loader import make_loader
from epanns.evaluation.metrics import evaluate
from epanns.evaluation.predict import Predictions, predict
from epanns.evaluation.protocol import EvaluationProtocol
from epanns.evaluation.scores import ClassScore, Scores
from epanns.labels import LabelSet
from epanns.models.files.checkpoint import save_checkpoint
from epanns.models.files.load import load
from epanns.models.provenance import Operation, Provenance
from epanns.models.warm_start import use_labels
from epanns.models.zoo import build_model
from epanns.pruning.prune import prune
from epanns.pruning.recovery.batch_norm_reestimation import recalibrate_batch_norm
from epanns.records import read_records
from epanns.stages.score import unpruned_spec, width_of
from tests.builders import make_checkpoint, make_network


@pytest.fixture
def run(epanns):
    """Run `epanns evaluate`; return exit code, stdout and stderr."""
    return partial(epanns, "evaluate")


@pytest.fixture
def model(tiny_packs):
    return make_network(labels=tiny_packs["test"])


@pytest.fixture
def checkpoint(model, tmp_path):
    save_checkpoint(model, tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def test_json_is_the_scores_of_the_library(run, checkpoint, tiny_packs):
    code, out, _ = run(checkpoint, "--data", tiny_packs["test"], "--window", 0.25, "--hop", 0.1, "--json")
    dataset, protocol = PackDataset([tiny_packs["test"]]), EvaluationProtocol(0.25, 0.1)
    expected = evaluate(predict(load(checkpoint), dataset, protocol), dataset.labels, protocol)
    assert code == 0
    assert json.loads(out) == json.loads(json.dumps(expected.to_dict()))


def test_the_record_has_the_intervals_and_the_clip_scores_have_a_file(run, checkpoint, tiny_packs, tmp_path):
    arguments = (checkpoint, "--data", tiny_packs["test"], "--bootstrap", 20, "--seed", 3)
    pattern = "([0-9])[0-9]\\.wav$"
    _, text, _ = run(*arguments, "--group-pattern", pattern, "--name", "Mine, 1.0", "--out", tmp_path / "out")
    _, out, _ = run(*arguments, "--group-pattern", pattern, "--json")
    scores = json.loads(out)
    assert scores["by_group"]["n_groups"] == 10
    with np.load(tmp_path / "out" / "scores.npz", allow_pickle=False) as kept:
        arrays = dict(kept)
    predictions = Predictions(tuple(arrays["clip_ids"].tolist()), arrays["scores"].astype(float), arrays["target"])
    labels, protocol = LabelSet.of(arrays["class_names"].tolist()), EvaluationProtocol()
    again = evaluate(predictions, labels, protocol, bootstrap=20, seed=3, group_pattern=pattern)
    assert json.loads(json.dumps(again.to_dict())) == scores
    assert arrays["groups"].tolist() == [clip_id[-6] for clip_id in predictions.clip_ids]
    (record,) = read_records([tmp_path / "out"])
    low, high = scores["by_group"]["mAP_interval"]
    assert record.name == "Mine, 1.0"
    assert record.intervals["test"] == {
        "confidence": 0.95,
        "resamples": 20,
        "seed": 3,
        "by_clip": {"n_clips": 20, "mAP": scores["mAP_interval"]},
        "by_group": {"n_groups": 10, "pattern": pattern, "mAP": [low, high]},
    }
    assert f", by group {low:.4f} to {high:.4f})" in text
    assert "intervals by clip: 20 resamples of 20 clips; those by group, of 10 groups of clips" in text


def test_runs_of_other_resamplings_are_one_trial_and_scores_may_be_left_out(run, checkpoint, tiny_packs, tmp_path):
    for seed in (0, 1):
        arguments = ("--data", tiny_packs["test"], "--bootstrap", 10, "--seed", seed, "--no-scores")
        run(checkpoint, *arguments, "--out", tmp_path / str(seed))
        assert sorted(file.name for file in (tmp_path / str(seed)).iterdir()) == ["per_class.csv", "result.json"]
    assert len(read_records([tmp_path / "0", tmp_path / "1"])) == 1
    run(checkpoint, "--data", tiny_packs["test"], "--bootstrap", 0, "--out", tmp_path / "none")
    result = json.loads((tmp_path / "none" / "result.json").read_text())
    assert not {"name", "intervals"} & result.keys()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--group-pattern", "("), "group pattern '(': is no regular expression"),
        (("--group-pattern", "(no)"), "group pattern '(no)': finds no group for 20 of 20 clips, first"),
        (
            ("--group-pattern", "(wav)"),
            "group pattern '(wav)': all 20 clips are of one group, 'wav'; an int",
        ),
        (("--name", "a\nb"), r"--name 'a\nb': must be printable text of at most 100 characters"),
    ],
)
def test_groups_and_names_that_cannot_be_used_are_refused_first(
    run, checkpoint, tiny_packs, tmp_path, options, message
):
    code, out, err = run(checkpoint, "--data", tiny_packs["test"], *options, "--out", tmp_path / "out")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert message in err
    assert not (tmp_path / "out").exists()


def test_several_packs_are_scored_as_one(run, checkpoint, tiny_packs):
    packs = [argument for split in ("val", "test") for argument in ("--data", tiny_packs[split])]
    _, out, _ = run(checkpoint, *packs, "--bootstrap", 0, "--json")
    assert json.loads(out)["n_clips"] == 40
    assert json.loads(out)["mAP_interval"] is None


def test_text_holds_score_interval_protocol_and_classes(run, checkpoint, tiny_packs):
    _, out, _ = run(checkpoint, "--data", tiny_packs["test"])
    assert re.search(r"^mAP +0\.\d{4}  \(95 % interval 0\.\d{4} to 0\.\d{4}\)$", out, re.MULTILINE)
    assert "20 clips, whole clip; 4 classes scored" in out
    assert all(name in out for name in PackDataset([tiny_packs["test"]]).labels.names)


def test_text_of_many_classes_shows_the_best_and_the_worst():
    rows = [ClassScore(i, f"class_{i}", None if i == 0 else i / 20, None, i) for i in range(20)]
    text = describe(Scores(0.5, None, None, 9, 19, ("class_0",), "whole clip", tuple(rows), None))
    best, worst = text.split("worst classes:")
    assert "class_19 (19 positive)" in best
    assert worst.split()[1] == "class_1"
    assert "class_10" not in text
    assert "1 without positives left out" in text
    assert "mAUC     undefined" in text


def test_out_holds_a_record_that_report_reads(run, checkpoint, tiny_packs, tmp_path):
    run(checkpoint, "--data", tiny_packs["test"], "--out", tmp_path / "scores", "--bootstrap", 0)
    (record,) = read_records([tmp_path / "scores"])
    assert [stage.name for stage in record.stages] == ["evaluated"]
    assert set(record.stages[0].scores) == {"test"}
    assert (record.dataset, record.protocol, record.clip_seconds) == ("synthetic", "whole clip", 0.5)
    rows = list(csv.DictReader((tmp_path / "scores" / "per_class.csv").read_text().splitlines()))
    assert [row["index"] for row in rows] == ["0", "1", "2", "3"]
    done = CliRunner().invoke(cli, ["report", str(tmp_path / "scores"), "--out", str(tmp_path / "report")])
    assert done.exit_code == 0
    assert "mAP evaluated" in (tmp_path / "report" / "table.md").read_text()


def test_a_single_label_network_is_scored_by_accuracy_too(run, tiny_spec, single_label_packs, tmp_path):
    dataset = PackDataset([single_label_packs["test"]])
    single = build_model(replace(tiny_spec, activation="softmax"), labels=LabelSet.of(["Dog", "TONE", "Car", "Sea"]))
    use_labels(single.eval(), dataset.labels)
    save_checkpoint(single, tmp_path / "single")
    expected = evaluate(predict(single, dataset), dataset.labels, EvaluationProtocol())
    code, out, _ = run(tmp_path / "single", "--data", single_label_packs["test"], "--out", tmp_path / "out")
    low, high = expected.accuracy_interval
    assert code == 0
    assert out.startswith(f"accuracy {expected.accuracy:.4f}  (95 % interval {low:.4f} to {high:.4f})\nmAP ")
    assert re.search(r"Tone \(\d+ positive, \d+ right\)", out)
    _, out, _ = run(tmp_path / "single", "--data", single_label_packs["test"], "--json")
    assert json.loads(out)["accuracy"] == expected.accuracy
    (record,) = read_records([tmp_path / "out"])
    assert record.stages[0].scores["test"]["accuracy"] == expected.accuracy
    assert record.config["recipe"] == {"1_transfer": {"kept": 1, "new": 2}}
    rows = list(csv.DictReader((tmp_path / "out" / "per_class.csv").read_text().splitlines()))
    assert list(rows[0]) == ["index", "name", "ap", "auc", "n_positive", "recall"]
    done = CliRunner().invoke(cli, ["report", str(tmp_path / "out"), "--out", str(tmp_path / "report")])
    assert done.exit_code == 0


def test_record_of_a_pruned_checkpoint_holds_its_plan(run, model, tiny_packs, tmp_path):
    pruned, plan = prune(model, criterion="l1", ratio=0.5, layers=["conv_block6"])
    save_checkpoint(pruned, tmp_path / "pruned", plan=plan)
    run(tmp_path / "pruned", "--data", tiny_packs["val"], "--window", 0.25, "--out", tmp_path / "out")
    (record,) = read_records([tmp_path / "out"])
    assert (record.criterion, record.ratio, record.plan_digest) == ("l1", 0.5, plan.digest)
    assert record.layers == ("conv_block6.conv1", "conv_block6.conv2")
    ratios = dict.fromkeys(record.layers, 0.5)
    assert record.config["recipe"]["1_prune"] == {"criterion": "l1", "ratios": ratios, "seed": 0}
    assert record.clip_seconds == 0.25
    assert record.cost_after["n_params"] < record.cost_before["n_params"]
    assert (record.recover, record.finetune_iterations) == ("none", 0)


def test_record_holds_the_operations_since_pruning(run, model, tiny_packs, tmp_path):
    train = {"step": "train", "training": {"iterations": 100, "seed": 7}}
    tune = {"step": "finetune", "training": {"iterations": 30, "seed": 7}}
    model.provenance = Provenance(recipe=(Operation.from_dict(train), Operation.from_dict(tune)))
    pruned, _ = prune(model, ratio=0.5, layers=["conv_block6"])
    clips = PackDataset([tiny_packs["train"]])
    recalibrate_batch_norm(pruned, [batch.float_waveform() for batch in make_loader(clips, [[0, 1, 2]])])
    cases = {
        "dense": (model, None, "none", 30),
        "recovered": (pruned, None, "bn", 0),
        "tuned": (pruned, tune, "bn", 30),
    }
    for name, (network, step, recover, iterations) in cases.items():
        save_checkpoint(network, tmp_path / name, recipe=step)
        run(tmp_path / name, "--data", tiny_packs["val"], "--bootstrap", 0, "--out", tmp_path / f"{name} scores")
        (record,) = read_records([tmp_path / f"{name} scores"])
        assert (record.recover, record.finetune_iterations, record.seed) == (recover, iterations, 7), name


def test_record_holds_the_given_width(run, tiny_packs, tmp_path):
    labels = PackDataset([tiny_packs["test"]]).labels
    model = build_model("Cnn14_8k", width=0.05, labels=labels)
    save_checkpoint(model, tmp_path / "known")
    assert width_of(model.spec) == pytest.approx(0.05, abs=5e-4)
    model.provenance = Provenance()
    save_checkpoint(model, tmp_path / "guessed")
    widths = {}
    for name in ("known", "guessed"):
        arguments = ("--data", tiny_packs["test"], "--bootstrap", 0, "--out", tmp_path / f"{name} scores")
        run(tmp_path / name, *arguments)
        (record,) = read_records([tmp_path / f"{name} scores"])
        widths[name] = record.width
    assert widths["known"] == 0.05
    assert widths["guessed"] == round(width_of(model.spec), 4)


@pytest.mark.parametrize("width", [1.0, 0.25, 0.23, 15 / 64])
def test_width_of_a_narrow_network_is_found_again(width):
    spec = build_model("Cnn14", width=width).spec if width < 0.3 else build_model("Cnn6").spec
    assert width_of(spec) == pytest.approx(width, abs=5e-4)
    assert unpruned_spec(spec, None) == spec


def in_another_order(model, order):
    """The same network with its classes in another order."""
    other = build_model(model.spec, labels=LabelSet.of([model.labels.names[index] for index in order])).eval()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        other.fc_audioset.weight.copy_(model.fc_audioset.weight[order])
        other.fc_audioset.bias.copy_(model.fc_audioset.bias[order])
    return other


def test_classes_in_another_order_are_put_into_the_models(run, model, checkpoint, tiny_packs, tmp_path):
    save_checkpoint(in_another_order(model, [2, 0, 3, 1]), tmp_path / "other")
    arguments = ("--data", tiny_packs["test"], "--bootstrap", 0, "--json")
    _, out, _ = run(checkpoint, *arguments)
    _, mapped, err = run(tmp_path / "other", *arguments)
    assert "the classes of synthetic are put into the order of Cnn14's" in err
    expected = {row["name"]: row["ap"] for row in json.loads(out)["per_class"]}
    assert {row["name"]: row["ap"] for row in json.loads(mapped)["per_class"]} == pytest.approx(expected)


def test_clips_are_scored_at_their_own_length_on_demand(run, checkpoint, tiny_packs, tmp_path):
    short = tmp_path / "short"
    shutil.copytree(tiny_packs["test"], short)
    with h5py.File(short / "shard-00000.h5", "r+") as file:
        file["n_samples"][...] = 2_000
    run(checkpoint, "--data", short, "--own-length", "--bootstrap", 0, "--out", tmp_path / "out")
    (record,) = read_records([tmp_path / "out"])
    assert record.protocol == "whole clip at its own length, without padding"
    assert record.clip_seconds == 0.25


def test_labels_that_no_pack_needs_are_logged(run, checkpoint, tiny_packs, tmp_path):
    (tmp_path / "labels.csv").write_text(LabelSet.of(["a", "b", "c", "d"]).to_csv())
    code, _, err = run(checkpoint, "--data", tiny_packs["test"], "--bootstrap", 0, "--labels", tmp_path / "labels.csv")
    assert code == 0
    assert "labels.csv is not used: these packs have class names" in err


def test_existing_out_is_refused_before_anything_is_read(run, checkpoint, tiny_packs, tmp_path):
    (tmp_path / "out").mkdir()
    code, out, err = run(checkpoint, "--data", tiny_packs["test"], "--out", tmp_path / "out")
    assert (code, out) == (1, "")
    assert "out exists already: choose another --out or delete it first" in err


def test_other_classes_and_other_rates_end_in_one_line(run, tiny_packs, tmp_path):
    make_checkpoint(tmp_path / "other", labels=LabelSet.of(["a", "b", "c", "d"]))
    code, _, err = run(tmp_path / "other", "--data", tiny_packs["test"])
    assert code == 1
    assert re.search(r"different classes \(class 0 is 'a' in the model, '.*' in the pack\)", err)
    make_checkpoint(tmp_path / "rate", "Cnn6", width=0.05, num_classes=4)
    code, _, err = run(tmp_path / "rate", "--data", tiny_packs["test"])
    assert code == 1
    assert (
        "Cnn6 has a sample rate of 32000 Hz, the pack synthetic has 8000 Hz: pack the manifest again with --sample-rate"
        in err
    )
    assert err.count("\n") == 1
