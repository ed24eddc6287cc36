"""Processes that run trials: GPUs in turn, a process that dies fails its trial alone, none is left behind."""

import json
import os
import re
import signal
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from epanns.errors import ConfigError, Interrupted
from epanns.sweeps.experiment import Trial
from epanns.sweeps.journal import TrialFolder
from epanns.sweeps.launchers import local
from epanns.sweeps.launchers.local import gpus_of, run_in_processes, visible_devices
from epanns.sweeps.trial_queue import TrialQueue


@pytest.mark.parametrize(
    ("devices", "per_trial", "found"),
    [
        ("0 1", 1, ["0", "1", "0", "1", "0"]),
        ("0 1 2", 1, ["0", "1", "2", "0", "1"]),
        ("GPU-a GPU-b", 0.5, ["GPU-a", "GPU-b", "GPU-a", "GPU-b", "GPU-a"]),
        ("0 1 2 3", 2, ["0 1", "2 3", "0 1", "2 3", "0 1"]),
        ("4 5 6", 2, ["4 5", "6 4", "5 6", "4 5", "6 4"]),
        ("7", 0.25, ["7"] * 5),
    ],
)
def test_gpus_are_assigned_in_turn(devices, per_trial, found):
    assert [" ".join(gpus_of(job, devices.split(), per_trial)) for job in range(5)] == found


def test_more_gpus_than_there_are_are_refused():
    with pytest.raises(ConfigError, match=re.escape("--gpus-per-trial 2: this machine has 1 GPUs; give at most as ma")):
        gpus_of(0, ["0"], 2)
    with pytest.raises(ConfigError, match="this machine has 0 GPUs"):
        gpus_of(0, [], 0.5)


def test_only_visible_gpus_are_assigned():
    assert visible_devices({"CUDA_VISIBLE_DEVICES": "2, GPU-x"}) == ["2", "GPU-x"]
    assert visible_devices({"CUDA_VISIBLE_DEVICES": ""}) == []


# A process that does as its trial's config.json has it: end, fail, or wait for a signal.
STAND_IN = """
import json, os, pathlib, sys, time
for line in sys.stdin:
    folder = pathlib.Path(json.loads(line))
    task = json.loads((folder / "config.json").read_text())["task"]
    (folder / "gpus").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "none"))
    if task == "die":
        os.kill(os.getpid(), 9)
    if task == "wait":
        (folder / "pid").write_text(str(os.getpid()))
        time.sleep(600)
    name = "result" if task == "end" else "error"
    (folder / f"{name}.json").write_text('{"message": "by itself"}')
    print(flush=True)
"""


@pytest.fixture
def queue_of(tmp_path, monkeypatch):
    """Return a function that makes a queue of trials for the stand-in, with their outcomes."""
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    monkeypatch.setattr(local, "_COMMAND", (sys.executable, str(tmp_path / "stand_in.py")))

    def make(*tasks):
        ended = {}
        trials = [Trial({"kind": "base", "number": number}) for number, _ in enumerate(tasks)]
        folders = {trial.trial_id: TrialFolder(tmp_path / str(number)) for number, trial in enumerate(trials)}
        for trial, task in zip(trials, tasks, strict=True):
            folders[trial.trial_id].write_config({"task": task})
        queue = TrialQueue(
            trials,
            lambda trial: folders[trial.trial_id],
            lambda trial, outcome: ended.update({trial.config["number"]: outcome}),
        )
        return SimpleNamespace(queue=queue, ended=ended, folder=lambda number: tmp_path / str(number))

    return make


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_a_process_that_dies_fails_its_trial_alone(queue_of, jobs):
    made = queue_of("end", "die", "end", "fail", "die", "end", "end")
    run_in_processes(made.queue, jobs=jobs)
    done, failed = "done", "failed"
    assert made.ended == {0: done, 1: failed, 2: done, 3: failed, 4: failed, 5: done, 6: done}
    for number in (1, 4):
        error = json.loads((made.folder(number) / "error.json").read_text())
        assert error["message"] == "the trial's process ended with code -9"
    assert json.loads((made.folder(3) / "error.json").read_text())["message"] == "by itself"


def test_each_process_has_its_gpu(queue_of, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,6")
    made = queue_of("end", "end", "end", "end")
    run_in_processes(made.queue, jobs=2, gpus_per_trial=1)
    assert {(made.folder(number) / "gpus").read_text() for number in range(4)} <= {"5", "6"}
    assert (made.folder(0) / "gpus").read_text() == "5"
    assert (made.folder(1) / "gpus").read_text() == "6"


def test_a_signal_ends_the_processes_and_no_trial_fails(queue_of):
    made = queue_of("wait", "wait", "end")

    def watch():
        while not all((made.folder(number) / "pid").exists() for number in (0, 1)):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
    with pytest.raises(Interrupted, match="the sweep was stopped; run the same command to resume it"):
        run_in_processes(made.queue, jobs=2)
    assert made.ended == {}
    assert not list(made.folder(0).parent.glob("*/error.json"))
    for number in (0, 1):
        with pytest.raises(ProcessLookupError):
            os.kill(int((made.folder(number) / "pid").read_text()), 0)
