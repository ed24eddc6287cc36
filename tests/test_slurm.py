"""The job array of `experiments/slurm`, run by stand-ins of `sbatch` and `scontrol`."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from epanns.records import read_records
from tests.processes import wait_for_file
from tests.sweeps.test_runner import TEXT

REPOSITORY = Path(__file__).parents[1]
SCRIPT = REPOSITORY / "experiments" / "slurm" / "sweep.sbatch"


class Slurm:
    """Runs the tasks of a job array as Slurm does: one batch shell each, with Slurm's variables, in one folder."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        options = dict(line.split("=", 1) for line in self.directives() if "=" in line)
        first, last = map(int, options["--array"].split("-"))
        self.folder, self.arguments, self.tasks = folder, arguments, range(first, last + 1)
        self.running: dict[int, subprocess.Popen[str]] = {}
        bin_folder = folder / "bin"
        bin_folder.mkdir()
        (bin_folder / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {folder}/requeued\n')
        (bin_folder / "epanns").write_text(f'#!/bin/sh\nexec {sys.executable} -m epanns "$@"\n')
        for file in bin_folder.iterdir():
            file.chmod(0o755)
        self.environment = {
            **os.environ,
            "PATH": f"{bin_folder}:{os.environ['PATH']}",
            "PYTHONPATH": str(REPOSITORY),
            "SLURM_ARRAY_JOB_ID": "77",
            "SLURM_ARRAY_TASK_MIN": str(first),
            "SLURM_ARRAY_TASK_COUNT": str(len(self.tasks)),
            "SLURM_CPUS_PER_TASK": "1",
        }

    @staticmethod
    def directives() -> list[str]:
        """The options that `sbatch` reads: lines before the first command."""
        found = []
        for line in SCRIPT.read_text().splitlines():
            if line and not line.startswith("#"):
                break
            found += [line.removeprefix("#SBATCH ")] if line.startswith("#SBATCH ") else []
        return found

    def start(self, task: int) -> None:
        """Start one task."""
        environment = {**self.environment, "SLURM_ARRAY_TASK_ID": str(task)}
        self.running[task] = subprocess.Popen(
            ["bash", str(SCRIPT), *self.arguments],
            env=environment,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def ends(self, task: int) -> tuple[int, str]:
        """Wait for one task; return its exit code and its output."""
        output, _ = self.running[task].communicate(timeout=400)
        return self.running[task].returncode, output

    def requeued(self) -> list[str]:
        """The calls of `scontrol`."""
        file = self.folder / "requeued"
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def slurm(tiny_packs, tmp_path):
    text = TEXT.format(**tiny_packs, criterion="l1").replace("iterations = 4,", "iterations = 120,")
    text = text.replace("[0.0, 0.5]", "[0.0, 0.25, 0.5, 0.75]")  # more trials than tasks
    (tmp_path / "t.toml").write_text(text)
    array = Slurm(tmp_path, "t.toml", "out")
    yield array
    for process in array.running.values():
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def test_the_directives_queue_a_warned_task_again():
    found = Slurm.directives()
    assert {"--requeue", "--open-mode=append"} <= set(found)
    assert any(line.startswith("--signal=B:USR1@") for line in found)  # B: to the batch shell, which passes it on
    assert subprocess.run(["bash", "-n", str(SCRIPT)], check=False).returncode == 0
    usage = subprocess.run(["bash", str(SCRIPT)], check=False, capture_output=True, text=True)
    assert (usage.returncode, "usage: sbatch --array=0-7 sweep.sbatch EXPERIMENT.toml OUT" in usage.stderr) == (1, True)


@pytest.mark.slow
def test_a_warned_task_saves_its_state_and_is_queued_again(slurm):
    out = slurm.folder / "out"
    slurm.start(0)
    wait_for_file(out, "state-*.pt", seconds=240)
    slurm.running[0].send_signal(signal.SIGUSR1)
    code, output = slurm.ends(0)
    assert (code, slurm.requeued()) == (0, ["requeue 77_0"]), output
    assert not list(out.rglob("result.json"))
    assert not list(out.rglob("error.json"))
    for task in slurm.tasks:  # four parts of five trials
        slurm.start(task)
    assert [slurm.ends(task)[0] for task in slurm.tasks] == [0, 0, 0, 0]
    assert slurm.requeued() == ["requeue 77_0"]
    assert len(read_records([out])) == 5


@pytest.mark.slow
def test_a_task_that_fails_is_not_queued_again(slurm):
    (slurm.folder / "t.toml").write_text("name = 3")
    slurm.start(1)
    code, output = slurm.ends(1)
    assert (code, slurm.requeued()) == (1, [])
    assert "name=3: must be text" in output


@pytest.mark.slow
def test_a_cancelled_task_stops_its_sweep_and_is_not_queued_again(slurm):
    slurm.start(0)
    wait_for_file(slurm.folder / "out", "state-*.pt", seconds=240)
    slurm.running[0].send_signal(signal.SIGTERM)
    code, output = slurm.ends(0)
    assert (code, slurm.requeued()) == (143, []), output
    assert not list((slurm.folder / "out").rglob("error.json"))
