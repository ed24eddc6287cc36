"""Several processes from the command line, and what becomes of a run when one of them is shot."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

_REPOSITORY = Path(__file__).parents[2]
_TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
_STEPS = 60


@pytest.fixture
def start(tiny_packs) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a training run on two processes, in a session of its own; they are ended after the test."""
    begun = []

    def start(out: Path, *options: str, restarts: int = 0) -> subprocess.Popen[str]:
        command = [*_TORCHRUN, "--max-restarts", str(restarts), "-m", "epanns", "train", "Cnn14_8k", "--width", "0.03"]
        command += ["--train", str(tiny_packs["train"]), "--val", str(tiny_packs["val"]), "--out", str(out)]
        command += ["--iterations", str(_STEPS), "--validate-every", "5", "--batch-size", "4", "--seed", "3", *options]
        environment = {**os.environ, "PYTHONPATH": str(_REPOSITORY), "OMP_NUM_THREADS": "1"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        begun.append(subprocess.Popen(command, env=environment, start_new_session=True, **pipes))
        return begun[-1]

    yield start
    for process in begun:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.communicate(timeout=60)


def wait_for_step(out: Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if any(int(path.name.split("-")[1]) >= step for path in out.glob("state-*.pt")):
            return
        time.sleep(0.02)
    pytest.fail(f"no state of step {step} in {out}")


def process_of_rank(rank: int, torchrun: int) -> int:
    """Return the process with this rank."""
    for found in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((found / "stat").read_text().rsplit(")", 1)[1].split()[1])
            told = (found / "environ").read_bytes().split(b"\0")
        except OSError:  # it is gone, or somebody else's
            continue
        if parent == torchrun and f"RANK={rank}".encode() in told:
            return int(found.name)
    raise AssertionError(f"torchrun has no process of rank {rank}")


def weights_of(out: Path) -> bytes:
    return (out / "model.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are found in /proc")
def test_a_run_whose_processes_are_killed_or_stopped_ends_with_the_same_bytes(tmp_path, start):
    whole = start(tmp_path / "whole")
    stdout, stderr = whole.communicate(timeout=200)
    assert whole.returncode == 0, stderr
    assert stdout.count("best validation mAP") == 1  # rank 0 alone prints
    assert stderr.count("training on 60 clips") == 1

    shot = start(tmp_path / "shot", restarts=2)
    wait_for_step(tmp_path / "shot", 5)
    os.kill(process_of_rank(1, shot.pid), signal.SIGKILL)
    stdout, stderr = shot.communicate(timeout=200)
    assert shot.returncode == 0, stderr
    assert stderr.count("training on 60 clips") == 2, stderr  # started anew, once
    assert weights_of(tmp_path / "shot") == weights_of(tmp_path / "whole")

    stopped = start(tmp_path / "stopped", restarts=2)
    wait_for_step(tmp_path / "stopped", 5)
    stopped.terminate()
    _, stderr = stopped.communicate(timeout=200)
    assert stopped.returncode != 0
    assert re.search(rf"of {_STEPS}; the state of step \d+ is saved in", stderr)
    assert not (tmp_path / "stopped" / "model.safetensors").exists()
    again = start(tmp_path / "stopped", "--workers", "1", restarts=2)
    _, stderr = again.communicate(timeout=200)
    assert again.returncode == 0, stderr
    assert weights_of(tmp_path / "stopped") == weights_of(tmp_path / "whole")


# Rank 1 comes late, as on a busy machine, and shoots itself at the first two starts.
_SHOT_TWICE = """
import os, signal, time
from pathlib import Path
from epanns.distributed import process_group, rank, restarts, any_of
time.sleep(1.5 * int(os.environ["RANK"]))
with process_group(timeout=20):
    any_of(False)
    if rank() == 1 and restarts() < 2:
        os.kill(os.getpid(), signal.SIGKILL)
    any_of(False)
    Path(f"met at start {restarts()} by {rank()}").touch()  # lines of two processes may run into each other
"""


@pytest.mark.slow
def test_restarted_processes_do_not_wait_for_ended_ones(tmp_path):
    (tmp_path / "shot_twice.py").write_text(_SHOT_TWICE)
    command = [*_TORCHRUN, "--max-restarts", "2", str(tmp_path / "shot_twice.py")]
    environment = {**os.environ, "PYTHONPATH": str(_REPOSITORY), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert {path.name for path in tmp_path.glob("met*")} == {"met at start 2 by 0", "met at start 2 by 1"}


def test_other_commands_are_refused(monkeypatch, epanns, tmp_path):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    said = "epanns (process 1): epanns verify works in one process: start it without torchrun, which is for train, "
    assert epanns("verify", tmp_path) == (1, "", f"{said}finetune and evaluate\n")


def test_fresh_starts_over_once_in_each_torchrun_whenever_a_process_gets_that_far(
    monkeypatch, epanns, tmp_path, tiny_packs
):
    command = ["train", "Cnn14_8k", "--width", 0.03, "--train", tiny_packs["train"], "--val", tiny_packs["val"]]
    command += ["--iterations", 1, "--batch-size", 4, "--out", tmp_path / "run", "--fresh"]
    weights, written = tmp_path / "run" / "model.safetensors", []
    for torchrun, count in (("one", "0"), ("two", "0"), ("two", "1"), ("three", "1"), ("three", "2")):
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", torchrun)
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", count)
        assert epanns(*command)[0] == 0
        written.append(weights.stat().st_mtime_ns)
    assert written[0] < written[1] == written[2] < written[3] == written[4]
