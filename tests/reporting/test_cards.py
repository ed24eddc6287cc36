"""Model cards: the checkpoint's own card, and exactly the scores of its records, whatever the texts are."""

import json
from dataclasses import replace

import pytest

from epanns.feedback import Note
from epanns.reporting.cards import model_cards, scores_of_checkpoint
from tests.builders import make_record, make_stage

SHA256 = "ab" * 32


def checkpoint_in(folder, *, sha256=SHA256, card="# A tagger\n"):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"weights_sha256": sha256}))
    (folder / "README.md").write_text(card)
    (folder / "model.safetensors").touch()
    return folder


def evaluated(trial_id, digest, mAP=0.5, **changes):  # noqa: N803
    config = {"kind": "evaluated", "checkpoint": f"half@{digest[:12]}"}
    return make_record(trial_id, 0, (make_stage("evaluated", mAP),), config=config, **changes)


def test_a_checkpoint_has_the_scores_of_its_evaluations_and_of_trials_that_began_with_it():
    own, other = evaluated("a", SHA256), evaluated("b", "cd" * 32)
    trial = make_record("c", 0, (make_stage("dense", 0.7), make_stage("pruned", 0.2)), criterion="l1", ratio=0.5)
    trial = replace(trial, config={"base": {"checkpoint_sha256": SHA256}})
    found = [
        (each.record.trial_id, each.stage.name, each.split)
        for each in scores_of_checkpoint(SHA256, [own, other, trial])
    ]
    assert found == [
        ("a", "evaluated", "val"),
        ("a", "evaluated", "test"),
        ("c", "dense", "val"),
        ("c", "dense", "test"),
    ]


def test_the_card_is_metadata_the_own_card_and_a_table(tmp_path):
    folder = checkpoint_in(tmp_path / "runs" / "half")
    intervals = {"test": {"by_clip": {"mAP": [0.4, 0.6]}}}
    cards = model_cards([folder], [evaluated("a", SHA256, intervals=intervals)])
    text = cards["runs-half.md"]
    _, metadata, body = text.split("---\n", 2)
    values = {line.partition(": ")[0]: json.loads(line.partition(": ")[2]) for line in metadata.splitlines()}
    (index,) = values["model-index"]
    assert index["name"] == "half"
    assert {(each["dataset"]["split"], each["metrics"][0]["value"]) for each in index["results"]} == {
        ("val", 0.9),
        ("test", 0.5),
    }
    assert body.strip().startswith("# A tagger\n\n## Scores\n")
    assert r"| ESC-10 | test | whole clip | 1.20 G per 5 s | 0.5000 | 0.4000 to 0.6000 | 0.9000 | – | – |" in body


def test_without_a_record_the_card_names_it(tmp_path):
    (text,) = model_cards([checkpoint_in(tmp_path / "half")], [evaluated("a", "cd" * 32)]).values()
    assert "No record of this report is of this checkpoint." in text
    assert "model-index" not in text


def test_hostile_texts_stay_in_their_place(tmp_path):
    hostile = 'x"\n---\nlicense: mine\n| a | b |\x1b[2J'
    folder = checkpoint_in(tmp_path / "half", card="fine\x1b[2J\n")
    (text,) = model_cards([folder], [evaluated("a", SHA256, dataset=hostile, protocol=hostile)]).values()
    assert "\x1b" not in text
    assert text.count("\n---\n") == 1
    assert "\nlicense" not in text
    (row,) = [line for line in text.splitlines() if "| 0.5000 |" in line]
    assert row.replace("\\|", "").count("|") == 10


def test_names_of_cards_are_distinct_and_safe(tmp_path):
    folders = [checkpoint_in(tmp_path / "a" / "é b"), checkpoint_in(tmp_path / "c" / "a" / "é b")]
    assert list(model_cards(folders, [])) == ["a-__b.md", "a-__b-2.md"]


@pytest.mark.parametrize("content", ["{}", "[]", '{"weights_sha256": 3}', "no json"])
def test_a_broken_checkpoint_is_noted_and_has_no_card(tmp_path, content):
    folder = checkpoint_in(tmp_path / "half")
    (folder / "config.json").write_text(content)
    with pytest.warns(Note, match=r"config\.json.*; no card is made"):
        assert model_cards([folder], []) == {}
