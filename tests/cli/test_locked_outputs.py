"""Two processes with one output: the second is refused in one line and changes nothing, or waits for the first."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from epanns import workfolder
from epanns.workfolder import WorkFolder, locked_file
from tests.builders import make_checkpoint

SHORT = ["--iterations", "2", "--batch-size", "8", "--validate-every", "2"]


HOLDER = """
import time
from pathlib import Path
from epanns.locks import locked
place = Path({place!r})
place.mkdir()
with locked(place / {lock!r}, place):
    print("locked", flush=True)
    time.sleep(20)
"""


@pytest.fixture
def inputs(tiny_packs, tmp_path) -> dict[str, Path]:
    """Return what the commands read."""
    (tmp_path / "sweep.toml").write_text("")
    (tmp_path / "sounds" / "a").mkdir(parents=True)
    return {
        "ckpt": make_checkpoint(tmp_path / "ckpt", labels=tiny_packs["val"]),
        "weights": tmp_path / "ckpt" / "model.safetensors",
        "manifest": tiny_packs["train"].parent / "manifest.csv",
        "audio": tiny_packs["train"].parent / "audio",
        **tiny_packs,
    }


FOLDERS = [
    "train Cnn14_8k --width 0.03 --train {train} --val {val}",
    "train Cnn14_8k --width 0.03 --train {train} --val {val} --fresh",
    "finetune {ckpt} --train {train} --val {val}",
    "finetune {ckpt} --train {train} --val {val} --fresh",
    "sensitivity {ckpt} --data {val}",
    "sensitivity {ckpt} --data {val} --fresh",
    "pack {manifest} --split train --sample-rate 8000 --seconds 0.5",
    "quickstart",
]
PLACES = [
    "prune {ckpt} --ratio 0.5",
    "import {weights}",
    "export {ckpt}",
    "evaluate {ckpt} --data {val}",
    "tag {ckpt} {audio}/audio/clip-000000.wav --csv",
]


@pytest.mark.parametrize("command", FOLDERS)
def test_a_folder_in_use_is_refused_in_one_line_and_left_as_it_is(epanns, inputs, tmp_path, command):
    out = tmp_path / "out"
    options = SHORT if "--train" in command else []
    with WorkFolder(out).locked():
        code, stdout, stderr = epanns(*command.format(**inputs).split(), *options, "--out", out)
        assert (code, stdout) == (1, "")
        assert stderr.count("\n") == 1 + stderr.startswith("generating")
        assert stderr.splitlines()[-1].startswith(f"epanns: {out} is in use by process {os.getpid()} on ")
        assert [file.name for file in out.iterdir()] == ["epanns.lock"]
    assert not out.exists()


@pytest.mark.parametrize("command", PLACES)
def test_a_place_that_another_process_writes_is_refused_in_one_line(epanns, inputs, tmp_path, command):
    out = tmp_path / "new" / "out"
    with locked_file(out):
        words = [*command.format(**inputs).split(), *([] if command.endswith("--csv") else ["--out"])]
        code, stdout, stderr = epanns(*words, out)
        assert (code, stdout, stderr.count("\n")) == (1, "", 1)
        assert stderr.startswith(f"epanns: {out} is in use by process {os.getpid()} on ")
    assert not (tmp_path / "new").exists()


def test_a_report_and_a_manifest_wait_for_the_process_that_writes_them(epanns, inputs, tmp_path, monkeypatch):
    for module in ("epanns.cli.report", "epanns.data.manifest"):
        monkeypatch.setattr(f"{module}.DRAWING_SECONDS", 0.2)
    commands = {
        "report.lock": ["report", "--quoted"],
        "manifest.csv.lock": ["data", "synthetic", inputs["audio"], "--clips", 100, "--classes", 4, "--seconds", 0.5],
    }
    commands["manifest.csv.lock"] += ["--sample-rate", 8000]
    for lock, command in commands.items():
        out = tmp_path / lock.partition(".")[0]
        place = out if lock == "report.lock" else out / "manifest.csv"
        code = HOLDER.format(place=str(out), lock=lock)
        environment = {**os.environ, "PYTHONPATH": str(Path(workfolder.__file__).parents[1])}
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment) as holder:
            assert holder.stdout.readline() == b"locked\n"
            code, _, stderr = epanns(*command, "--out", place)
            assert code == 1
            waiting, refused = stderr.splitlines()
            assert waiting.startswith(f"{place}: waiting for process {holder.pid} on")
            assert refused.startswith(f"epanns: {place} is in use by process {holder.pid} on")
            assert [file.name for file in out.iterdir()] == [lock]
            holder.kill()
        assert epanns(*command, "--out", place)[0] == 0
        assert lock not in [file.name for file in out.iterdir()]


def test_two_reports_at_once_leave_one_report(inputs, tmp_path):
    command = [sys.executable, "-m", "epanns", "report", "--quoted", "--out", str(tmp_path / "report")]
    started = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(3)]
    assert [(process.communicate()[1], process.returncode)[1] for process in started] == [0, 0, 0]
    assert sorted(file.name for file in (tmp_path / "report").iterdir()) == ["quoted.csv", "quoted.md"]
