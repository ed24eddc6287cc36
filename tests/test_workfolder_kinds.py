"""Folders that are no checkpoints: the kind of each, and the remedy."""

import json

import pytest

from epanns.errors import CheckpointError
from epanns.models.files.load import load
from epanns.workfolder import describe_other_folder

ASKED = {"training": {"iterations": 60}}
AGAIN = "the command that started it, with the same options"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, ""),
        ({"notes.txt": ""}, ""),
        (
            {"training.json": {"asked": ASKED, "command": "epanns train"}},
            "is an unfinished training run, before its first state was saved: resume it with: epanns train",
        ),
        (
            {
                "training.json": {"asked": ASKED},
                f"state-00000005-{'0' * 16}.pt": "",
                f"state-00000010-{'0' * 16}.pt": "",
            },
            f"is an unfinished training run, at step 10 of 60: resume it with {AGAIN}",
        ),
        (
            {"training.json": {"asked": ASKED, "result": {}}},
            f"is a training run, stopped while its checkpoint was put in place: resume it with {AGAIN}",
        ),
        (
            {"steps.json": {}},
            f"holds the fine-tuning of an unfinished pruning in rounds: resume it with {AGAIN}",
        ),
        ({"sweep.json": {}}, f"is the folder of a sweep: no trial has ended: run {AGAIN}"),
        (
            {"sensitivity.json": {}},
            "holds the result of `epanns sensitivity`: give the checkpoint that was measured",
        ),
        ({"pack.json": {}}, "is a pack of clips: give a checkpoint here and the pack with its own option"),
        ({"journal.jsonl": {}}, "is a pack of clips: give a checkpoint here and the pack with its own option"),
    ],
)
def test_each_kind_of_folder_is_named(tmp_path, files, words):
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert describe_other_folder(tmp_path) == words
    expected = f"is not a checkpoint: it {words}" if words else "is not a checkpoint: config.json"
    with pytest.raises(CheckpointError) as refused:
        load(tmp_path)
    assert expected in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "7",
        "[" * 100_000,
        '{"asked": 3}',
        '{"asked": {"training": []}}',
        '{"asked": {"training": {"iterations": "x"}}}',
    ]
    + [
        '{"command": 3}',
        '{"command": null, "asked": null}',
        "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
    ],
)
def test_a_run_whose_first_file_is_damaged_is_still_named(tmp_path, text):
    (tmp_path / "training.json").write_text(text)
    words = describe_other_folder(tmp_path)
    assert words == f"is an unfinished training run, before its first state was saved: resume it with {AGAIN}"
