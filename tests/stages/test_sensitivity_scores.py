"""Sensitivities by agreement and through a class map: each row is what the library gives by hand."""

import json
from dataclasses import replace

import pytest

import epanns as package
from epanns.data.batches.dataset import PackDataset
from epanns.errors import ConfigError, DataError
from epanns.evaluation.class_map import ClassMap
from epanns.labels import LabelSet
from epanns.models.files.checkpoint import save_checkpoint
from epanns.models.files.load import load
from epanns.stages.sensitivity import SensitivityConfig, measure_sensitivity
from tests.builders import make_network, tiny_spec

SOUNDS = LabelSet.of(["Bang", "Beep", "Hiss", "Moo", "Whistle"])
CONFIG = SensitivityConfig(ratios=(0.5,), layers=("conv_block5",), recover="none")


@pytest.fixture
def dataset(tiny_packs):
    return PackDataset([tiny_packs["val"]])


@pytest.fixture
def model(tmp_path):
    """A network of other classes than the packs'."""
    save_checkpoint(make_network(tiny_spec().with_num_classes(5), SOUNDS, seed=1), tmp_path / "dense")
    return load(tmp_path / "dense")


@pytest.fixture
def map_file(dataset, tmp_path):
    first, second, *_ = dataset.labels.names
    (tmp_path / "map.csv").write_text(f"category,mid,display_name\n{first},,Beep\n{second},,Hiss\n{second},,Moo\n")
    return tmp_path / "map.csv"


def pruned(model, row):
    return package.prune(model, ratio=row.ratio, layers=[row.layer])[0]


@pytest.mark.parametrize("score", [None, "agreement"])
def test_clips_of_other_classes_are_scored_by_agreement(model, dataset, tmp_path, score):
    record = measure_sensitivity(model, dataset, replace(CONFIG, score=score), tmp_path / "out")
    assert record.asked["score"] == "agreement"
    assert record.table.dense.mAP == pytest.approx(1.0, abs=1e-12)
    for row in record.table.rows:
        assert row.mAP == package.agree(pruned(model, row), model, dataset, bootstrap=0).agreement.tag_mAP


def test_a_resumed_measurement_by_agreement_ends_with_the_same_table(model, dataset, tmp_path):
    whole = measure_sensitivity(model, dataset, CONFIG, tmp_path / "out")
    path = tmp_path / "out" / "sensitivity.json"
    kept = json.loads(path.read_text())
    path.write_text(json.dumps(kept | {"rows": kept["rows"][:2], "is_complete": False}))
    assert measure_sensitivity(model, dataset, CONFIG, tmp_path / "out").rows == whole.rows


def test_a_class_map_gives_the_zero_shot_map(model, dataset, map_file, tmp_path):
    config = replace(CONFIG, class_map=ClassMap.from_csv(map_file))
    record = measure_sensitivity(model, dataset, config, tmp_path / "out")
    assert "score" not in record.asked
    for row in record.table.rows:
        found = package.agree(pruned(model, row), model, dataset, class_map=map_file, bootstrap=0)
        assert (row.mAP, record.table.dense.mAP) == (found.pruned.scores.mAP, found.dense.scores.mAP)


def test_labels_of_the_networks_classes_are_used_unless_agreement_is_chosen(dataset, tmp_path):
    save_checkpoint(make_network(tiny_spec(), dataset.labels, seed=1), tmp_path / "named")
    named = load(tmp_path / "named")
    assert CONFIG.score_on(named, dataset) == "mAP"
    assert replace(CONFIG, score="agreement").score_on(named, dataset) == "agreement"


def test_scores_that_cannot_be_measured_are_refused(model, dataset, map_file, monkeypatch, tmp_path):
    class_map = ClassMap.from_csv(map_file)
    for changes, kind, message in (
        ({"score": "auc"}, ConfigError, r"score='auc': must be mAP or agreement"),
        ({"score": "agreement", "class_map": class_map}, ConfigError, "with a class map: agreement uses no labels"),
        ({"score": "mAP"}, ConfigError, "have different classes"),
        ({"class_map": replace(class_map, rows=(("sea", "", "Moo"),))}, DataError, "maps none of the 4 classes"),
    ):
        with pytest.raises(kind, match=message):
            measure_sensitivity(model, dataset, replace(CONFIG, **changes), tmp_path / "out")
    monkeypatch.setattr("epanns.evaluation.agreement._FEWEST_TAGS", 1_000)
    with pytest.raises(DataError, match="agreement on 20 clips of .*: no class has three tags of the unpruned network"):
        measure_sensitivity(model, dataset, CONFIG, tmp_path / "out")


def test_the_command_takes_the_score_and_the_map(epanns, model, map_file, tiny_packs, tmp_path):
    options = ("--data", tiny_packs["val"], "--ratios", "0.5", "--layers", "conv_block5", "--recover", "none")
    code, out, err = epanns("sensitivity", tmp_path / "dense", *options, "--out", tmp_path / "out")
    assert code == 0
    assert "scored by agreement: mAP is that of the unpruned network's own tags" in err
    assert "unpruned mAP 1.0000 on 20 clips of" in out
    assert "mAP of the unpruned network's own tags" in out
    code, out, err = epanns(
        "sensitivity", tmp_path / "dense", *options, "--map", map_file, "--out", tmp_path / "mapped"
    )
    assert code == 0
    assert "2 of 4 classes of the data have no class of the network" in err
    assert ", zero-shot, class map " in out
