"""``epanns agree`` and ``epanns evaluate --map``: the figures of the library, as text, as JSON and as files."""

import csv
import json
from functools import partial

import numpy as np
import pytest

import epanns as package
from epanns.data.batches.dataset import PackDataset
from epanns.evaluation.class_map import ClassMap
from epanns.evaluation.predict import predict
from epanns.evaluation.protocol import EvaluationProtocol
from epanns.evaluation.zero_shot import zero_shot
from epanns.labels import LabelSet
from epanns.models.files.checkpoint import save_checkpoint
from epanns.models.files.load import load
from epanns.models.zoo import build_model
from epanns.records import read_records
from epanns.reporting.rows import rows_by_block
from tests.builders import make_network, tiny_spec

SOUNDS = LabelSet.of(["Bang", "Beep", "Hiss", "Moo", "Whistle"])


@pytest.fixture
def run(epanns):
    return partial(epanns, "agree")


@pytest.fixture
def dense(tmp_path):
    """A network of five classes, none of which is the packs'."""
    save_checkpoint(make_network(tiny_spec().with_num_classes(5), SOUNDS, seed=1), tmp_path / "dense")
    return tmp_path / "dense"


@pytest.fixture
def pruned(dense, tmp_path):
    network, plan = package.prune(load(dense), criterion="l1", ratio=0.25)
    package.save(network, tmp_path / "pruned", plan=plan)
    return tmp_path / "pruned"


@pytest.fixture
def class_map(tiny_packs, tmp_path):
    """Two of the four classes of the packs; the second has two of the network's."""
    first, second, *_ = PackDataset([tiny_packs["test"]]).labels.names
    text = f"category,mid,display_name\n{first},,Beep\n{second},,Hiss\n{second},,Whistle\n"
    (tmp_path / "map.csv").write_text(text)
    return tmp_path / "map.csv"


def test_json_is_that_of_the_library_and_the_pack_may_have_any_classes(run, pruned, dense, tiny_packs, class_map):
    protocol = ("--window", 0.25, "--hop", 0.1, "--bootstrap", 20, "--seed", 3)
    code, out, err = run(pruned, dense, "--data", tiny_packs["test"], "--map", class_map, *protocol, "--json")
    expected = package.agree(
        load(pruned),
        load(dense),
        tiny_packs["test"],
        EvaluationProtocol(0.25, 0.1),
        class_map=class_map,
        bootstrap=20,
        seed=3,
    )
    found = json.loads(out)
    assert code == 0
    assert found == json.loads(json.dumps(expected.to_dict())) | {
        "pruned": str(pruned),
        "dense": str(dense),
        "dataset": found["dataset"],
    }
    zero = found["zero_shot"]
    assert zero["kept"] == zero["pruned"]["mAP"] / zero["dense"]["mAP"]
    assert zero["class_map"]["n_mapped"] == 2
    assert "2 of 4 classes of the data have no class of the network" in err


def test_a_network_agrees_with_itself(run, dense, tiny_packs, tmp_path):
    code, out, _ = run(dense, dense, "--data", tiny_packs["test"], "--bootstrap", 5, "--out", tmp_path / "out")
    assert code == 0
    assert "correlation of logits  1.0000  (95 % interval 1.0000 to 1.0000)" in out
    assert "Kendall's tau          1.0000" in out
    values = json.loads((tmp_path / "out" / "agreement.json").read_text())
    with (tmp_path / "out" / "per_class.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == list(SOUNDS.names)
    assert [float(row["correlation"]) for row in rows] == [row["correlation"] for row in values["per_class"]]
    assert "zero_shot" not in values
    assert "by_group" not in values


def test_the_text_has_every_number_and_the_counts_of_what_is_left_out(run, pruned, dense, tiny_packs, class_map):
    arguments = (pruned, dense, "--data", tiny_packs["test"], "--map", class_map, "--bootstrap", 10)
    _, text, _ = run(*arguments, "--group-pattern", "([0-9])[0-9]\\.wav$")
    _, out, _ = run(*arguments, "--group-pattern", "([0-9])[0-9]\\.wav$", "--json")
    found = json.loads(out)
    low, high = found["by_group"]["correlation"]
    assert f"correlation of logits  {found['correlation']:.4f}  (95 % interval" in text
    assert f", by group {low:.4f} to {high:.4f})" in text
    assert f"own tags: {found['n_tags']} scores of the unpruned network" in text
    assert f"zero-shot mAP, pruned   {found['zero_shot']['pruned']['mAP']:.4f}" in text
    assert f"zero-shot mAP, unpruned {found['zero_shot']['dense']['mAP']:.4f}" in text
    assert f"{100 * found['zero_shot']['kept']:.1f} % of the unpruned network's mAP" in text


def test_networks_of_other_classes_tasks_and_rates_are_refused(run, dense, tiny_packs, tmp_path, tiny_checkpoint):
    code, out, err = run(tiny_checkpoint, dense, "--data", tiny_packs["test"])
    assert (code, out) == (1, "")
    assert "the networks have different classes or tasks (4 classes in the first (Cnn14), 5 in the second" in err
    other = load(dense)
    other.set_task("single-label")
    save_checkpoint(other, tmp_path / "softmax")
    _, _, err = run(tmp_path / "softmax", dense, "--data", tiny_packs["test"])
    assert "(single-label in the first (Cnn14), multi-label in the second (Cnn14)): must be equal" in err
    save_checkpoint(build_model("Cnn14_16k", width=0.05, labels=SOUNDS), tmp_path / "other")
    _, _, err = run(tmp_path / "other", tmp_path / "other", "--data", tiny_packs["test"])
    assert "has a sample rate of 16000 Hz, the pack" in err
    assert "has 8000 Hz" in err


def test_a_map_is_read_before_the_clips_are_scored(run, pruned, dense, tiny_packs, tmp_path):
    (tmp_path / "map.csv").write_text("category,display_name\nx,Beep\n")
    code, out, err = run(pruned, dense, "--data", tiny_packs["test"], "--map", tmp_path / "map.csv")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "its columns are 'category,display_name'; must be category,mid,display_name" in err


@pytest.mark.parametrize("aggregate", [(), ("--window", 0.25, "--aggregate", "max_prob"), ("--own-length",)])
def test_evaluate_with_a_map_is_the_zero_shot_evaluation_of_the_library(
    epanns, dense, tiny_packs, class_map, aggregate
):
    arguments = ("--data", tiny_packs["test"], "--bootstrap", 10)
    code, out, err = epanns("evaluate", dense, *arguments, *aggregate, "--map", class_map, "--json")
    dataset, model = PackDataset([tiny_packs["test"]]), load(dense)
    settings = dict(zip(aggregate[::2], aggregate[1::2], strict=False))
    protocol = EvaluationProtocol(
        settings.get("--window"), None, settings.get("--aggregate", "mean_prob"), "--own-length" in aggregate
    )
    mapped = ClassMap.from_csv(class_map).between(model.labels, dataset.labels)
    predictions = predict(model, dataset, protocol, same_classes=False)
    assert code == 0
    assert json.loads(out) == json.loads(json.dumps(zero_shot(predictions, mapped, protocol, bootstrap=10).to_dict()))
    assert "2 of 4 classes of the data have no class of the network" in err


def test_records_of_zero_shot_evaluations_are_a_block_of_their_own(epanns, tiny_packs, class_map, tmp_path, dense):
    names = PackDataset([tiny_packs["test"]]).labels
    save_checkpoint(make_network(tiny_spec(), names, seed=1), tmp_path / "named")
    data = ("--data", tiny_packs["test"], "--bootstrap", 0)
    epanns("evaluate", tmp_path / "named", *data, "--out", tmp_path / "own")
    epanns("evaluate", dense, *data, "--map", class_map, "--out", tmp_path / "mapped")
    records = read_records([tmp_path / "own", tmp_path / "mapped"])
    first, second = rows_by_block(records)
    assert first.protocol == "whole clip"
    assert second.protocol.startswith("whole clip; zero-shot, 2 of 4 classes, class map ")
    with np.load(tmp_path / "mapped" / "scores.npz", allow_pickle=False) as kept:
        assert kept["scores"].shape == kept["target"].shape
        assert kept["class_names"].tolist() == list(names.names[:2])


def test_logits_are_the_log_odds_of_the_scores_and_means_over_windows(dense, tiny_packs):
    dataset, model = PackDataset([tiny_packs["test"]]), load(dense)
    for protocol in (
        EvaluationProtocol(),
        EvaluationProtocol(0.2, None, "mean_logit"),
        EvaluationProtocol(own_length=True),
    ):
        found = predict(model, dataset, protocol, same_classes=False)
        assert found.logits.dtype == np.float32
        assert np.log(found.scores / (1 - found.scores)) == pytest.approx(found.logits, abs=1e-5)
        assert found.target.shape == (20, 4)
