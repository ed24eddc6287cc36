"""The included network's card, list entry and page are made from its record and the scores of the clips."""

import json
import re
import runpy
import tomllib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from epanns.evaluation.metrics import average_precision
from epanns.models.files.included import included_network
from epanns.models.files.load import load
from epanns.models.tensors import weights_digest
from epanns.records import read_record
from epanns.reporting.report import insert_table
from epanns.training.config import read_training

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "box"
SHIP = runpy.run_path(str(ROOT / "experiments" / "box" / "ship.py"))
NETWORK = included_network("esc50")


def test_the_scored_weights_are_the_installed_ones():
    assert read_record(RESULTS / "result.json").network == weights_digest(load(NETWORK.folder))


def test_the_list_has_the_numbers_of_the_record():
    assert asdict(SHIP["entry_of"](RESULTS)) == asdict(NETWORK)


def test_the_card_has_the_numbers_of_the_record():
    card = (NETWORK.folder / "README.md").read_text()
    assert SHIP["card_of"](RESULTS).strip() in card
    assert f"{NETWORK.mAP:.3f} (" in card and f"{NETWORK.accuracy:.3f} (" in card
    assert f"{NETWORK.n_params:,} trainable parameters, {NETWORK.bytes:,} bytes of weights" in card


def test_the_page_has_the_table_of_the_record(tmp_path):
    page = tmp_path / "README.md"
    page.write_text(committed := (RESULTS / "README.md").read_text())
    insert_table(page, "box", SHIP["table_of"](RESULTS))
    assert page.read_text() == committed


def test_the_record_has_the_scores_of_the_clips():
    record = read_record(RESULTS / "result.json")
    with np.load(RESULTS / "scores.npz", allow_pickle=False) as file:
        scores, target, ids = (file[name] for name in ("scores", "target", "clip_ids"))
    assert SHIP["scores_of"](record)["mAP"] == pytest.approx(np.mean(average_precision(target, scores)), abs=1e-6)
    assert all(name.startswith("5-") for name in ids)  # the fold that trained nothing


def test_accuracy_and_its_interval_are_those_of_the_highest_scores(tmp_path):
    target = np.eye(4, dtype=bool)
    scores = np.where(target, 0.9, 0.1).astype(np.float32)
    scores[3] = [0.8, 0, 0, 0.7]
    np.savez(tmp_path / "scores.npz", scores=scores, target=target, groups=np.array(["a", "b", "c", "c"]))
    found = SHIP["accuracy_of"](tmp_path / "scores.npz")
    assert found["accuracy"] == 0.75
    low, high = found["interval"]
    assert 0.5 <= low <= 0.75 <= high == 1.0


def test_the_recipe_made_the_network_and_fold_5_trained_nothing():
    text = (ROOT / "experiments" / "box" / "run.sh").read_text().replace("\\\n", "")
    (finetune,) = re.findall(r"^epanns finetune .*$", text, re.MULTILINE)
    assert re.findall(r"--train \S*/(\w+)", finetune) == ["fold1", "fold2", "fold3"]
    assert re.findall(r"--val \S*/(\w+)", finetune) == ["fold4"]
    given = tomllib.loads((ROOT / "experiments" / "box" / "finetune.toml").read_text())
    config = read_training({key.replace("-", "_"): value for key, value in given.items()})
    assert config.keep == "last" and config.iterations % config.validate_every == 0
    trained = load(NETWORK.folder).provenance.recipe[-1]
    assert trained.kind == "finetune"
    assert read_training(trained.settings["training"]) == config
    steps = [json.loads(line)["step"] for line in (RESULTS / "finetuned.jsonl").read_text().splitlines()]
    assert steps[-1] == config.iterations


@pytest.mark.parametrize("page", ["docs/guide/included.md", "checkpoints/README.md", "README.md"])
def test_pages_state_the_terms(page):
    assert NETWORK.licence in (ROOT / page).read_text()
