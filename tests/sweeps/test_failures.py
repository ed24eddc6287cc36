"""Trials without a result are found with the reason, and nothing that a file names leads out of its folder."""

import json
import re
from types import SimpleNamespace

import pytest

from epanns.errors import DataError, OutputError
from epanns.records import read_records
from epanns.sweeps.journal import Failure, failures_in, failures_in_words
from epanns.sweeps.sweep_folder import Sweep


def sweep(folder, trials, **files):
    """Make a sweep; `files` are trial__file -> JSON value."""
    folder.mkdir(parents=True)
    (folder / "sweep.json").write_text(json.dumps({"experiment": "x", "trials": trials}))
    for name, value in files.items():
        trial, _, file = name.partition("__")
        (folder / "trials" / trial).mkdir(parents=True, exist_ok=True)
        (folder / "trials" / trial / f"{file}.json").write_text(json.dumps(value))


def test_every_trial_without_a_result_has_its_reason(tmp_path):
    sweep(
        tmp_path / "s",
        ["done", "error", "empty", "base", "later", "never"],
        done__result={},
        error__error={"kind": "ValueError", "message": "no room\nat all"},
        empty__error={"kind": "KeyError", "message": ""},
        base__config={"base": "error"},
        later__config={"base": "done"},
        replaced__error={"kind": "ValueError", "message": "of a trial that the sweep no longer has"},
    )
    reasons = ["no room", "KeyError", "its base failed", "it was not run to its end", "it was not run to its end"]
    names = ["error", "empty", "base", "later", "never"]
    wanted = [Failure(tmp_path / "s" / "trials" / name, why) for name, why in zip(names, reasons, strict=True)]
    assert failures_in([tmp_path]) == failures_in([tmp_path / "s", tmp_path]) == wanted
    assert failures_in([tmp_path / "s" / "trials"]) == wanted
    assert failures_in([tmp_path / "s" / "trials" / "done"]) == []


@pytest.mark.parametrize("trials", [["../../other"], ["a", "/etc"], ["."], [3], [""], "abc", None, [["a"]]])
def test_names_of_trials_are_checked(tmp_path, trials):
    sweep(tmp_path / "s", trials)
    with pytest.raises(DataError, match=r"s/sweep.json: trials"):
        failures_in([tmp_path])


def test_a_base_outside_the_sweep_is_not_read(tmp_path):
    sweep(tmp_path / "s", ["a"], a__config={"base": "../../elsewhere"})
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "error.json").write_text("{}")
    assert [failure.reason for failure in failures_in([tmp_path])] == ["it was not run to its end"]


def test_the_error_of_a_sweep_without_results_holds_the_first_reason(tmp_path):
    sweep(tmp_path / "s", ["a", "b"], a__error={"kind": "ValueError", "message": "no clips"})
    with pytest.raises(DataError, match=r"no run record .* 2 trials have no result, first .*/a: no clips$"):
        read_records([tmp_path], remark=failures_in_words)


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ([], "sweep.json: is a list, must be a table"),
        ({"trials": 3}, "sweep.json: trials is a int, must be a list"),
        ({"trials": ["../../victim"]}, "sweep.json: trials='../../victim': must be a name"),
        ({"trials": [], "left": [["a"]]}, "sweep.json: left="),
    ],
)
def test_a_sweep_reads_no_path_outside_its_folder(tmp_path, held, message):
    (tmp_path / "sweep.json").write_text(json.dumps(held))
    with pytest.raises(OutputError, match=re.escape(message)):
        Sweep(tmp_path, SimpleNamespace(name="x")).set_trials([])
