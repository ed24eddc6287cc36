"""Whose an output folder is."""

import json
import re

import pytest

from epanns.claim import Work, claim
from epanns.errors import OutputError

ASKED = {"seed": 1, "training": {"batch_size": 32, "iterations": 4}}


def claimed(file, asked=ASKED):
    work = Work("is no run", "holds a run with", "repeat it", "delete it")
    return claim(file, asked, work, first={"asked": asked}, read=lambda found: (found["asked"], found.get("result", 0)))


def test_the_same_configuration_goes_on_and_another_is_refused_at_the_first_difference(tmp_path):
    file = tmp_path / "new" / "run" / "run.json"
    assert claimed(file) is None
    assert json.loads(file.read_text()) == {"asked": ASKED}
    file.write_text(json.dumps({"asked": ASKED, "result": 7}))
    assert claimed(file) == 7
    for other, difference in (
        (ASKED | {"training": {"batch_size": 16}}, "training.batch_size=32, not 16"),
        (ASKED | {"seed": 2}, "seed=1, not 2"),
        (ASKED | {"data": "b"}, "data left out, not 'b'"),
        (ASKED | {"data": {"name": {"a": 1}}}, "data.name.a left out, not 1"),
        (ASKED | {"seed": None}, "seed=1, not None"),
        ({"seed": 1, "training": {"batch_size": 32}}, "training.iterations=4, not left out"),
    ):
        with pytest.raises(OutputError, match=re.escape(f"run holds a run with {difference}: repeat it")):
            claimed(file, other)
    assert claimed(file) == 7


def test_only_a_free_folder_is_claimed(tmp_path):
    file = tmp_path / "run.json"
    (tmp_path / "notes.txt").touch()
    with pytest.raises(OutputError, match=re.escape(f"{tmp_path} exists already and is no run: choose another --out")):
        claimed(file)
    (tmp_path / "notes.txt").replace(tmp_path / "run.json.partial")  # as a killed writer leaves it
    assert claimed(file) is None
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize("text", ["", "[]", "7", '{"result": 1}'])
def test_a_damaged_file_is_told_from_another_configuration(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(OutputError, match=r"run\.json: cannot be read \(.*\): delete it$"):
        claimed(tmp_path / "run.json")
