"""Output folders: the configuration that one belongs to, and the process that works in it."""

import errno
import fcntl
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from epanns import locks
from epanns.errors import OutputError
from epanns.feedback import Note
from epanns.workfolder import LOCK, Work, WorkFolder, locked_file

ASKED = {"seed": 1, "training": {"batch_size": 32, "iterations": 4}}
WORK = Work("is no run", "holds a run with", "a run", "repeat it", "delete it")
HOST = re.escape(socket.gethostname())
NO_LOCKS = [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL]

# Holds a folder in another process: `folder mode`; the mode "none" stands for a file system without locks.
HOLDER = """
import errno, fcntl, os, sys, time
from pathlib import Path
from epanns.workfolder import WorkFolder
if sys.argv[2] == "none":
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")
    fcntl.flock = flock
with WorkFolder(Path(sys.argv[1])).locked():
    child = os.fork() if sys.argv[2] == "fork" else 1
    if child:
        print("locked", flush=True)
    time.sleep(20)
"""
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}


def folder_at(path: Path) -> WorkFolder:
    return WorkFolder(path, "run.json", WORK)


def claimed(path: Path, asked=ASKED):
    return folder_at(path).begin_or_resume(
        asked, first={"asked": asked}, read=lambda found: (found["asked"], found.get("result", 0))
    )


@contextmanager
def held_elsewhere(path: Path, mode: str = "flock"):
    command = [sys.executable, "-c", HOLDER, str(path), mode]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as holder:
        assert holder.stdout.readline() == "locked\n"
        yield holder
        holder.kill()


@pytest.fixture(params=["flock", "none"])
def mode(request, monkeypatch) -> str:
    """Both kinds of file system: with locks and without."""
    if request.param == "none":
        without_locks(monkeypatch)
    return request.param


def without_locks(monkeypatch, number: int = errno.ENOLCK) -> None:
    """Let the file system have no locks; the note about it was given."""
    monkeypatch.setattr(fcntl, "flock", refusing(number))
    monkeypatch.setattr(locks, "_noted", {Path(tempfile.gettempdir()).stat().st_dev})


def refusing(number: int):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    return flock


def names(path: Path) -> list[str]:
    return sorted(file.name for file in path.iterdir())


# Whose it is


def test_the_same_configuration_is_resumed_and_another_is_refused_at_the_first_difference(tmp_path):
    out = tmp_path / "new" / "run"
    assert claimed(out) is None
    file = out / "run.json"
    assert json.loads(file.read_text()) == {"asked": ASKED}
    file.write_text(json.dumps({"asked": ASKED, "result": 7}))
    assert claimed(out) == 7
    for other, difference in (
        (ASKED | {"training": {"batch_size": 16}}, "training.batch_size=32, not 16"),
        (ASKED | {"seed": 2}, "seed=1, not 2"),
        (ASKED | {"data": "b"}, "data left out, not 'b'"),
        (ASKED | {"data": {"name": {"a": 1}}}, "data.name.a left out, not 1"),
        (ASKED | {"seed": None}, "seed=1, not None"),
        ({"seed": 1, "training": {"batch_size": 32}}, "training.iterations=4, not left out"),
    ):
        with pytest.raises(OutputError, match=re.escape(f"run holds a run with {difference}: repeat it")):
            claimed(out, other)
    assert claimed(out) == 7


def test_only_a_free_folder_is_begun(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(OutputError, match=re.escape(f"{tmp_path} exists already and is no run: choose another --out")):
        claimed(tmp_path)
    (tmp_path / "notes.txt").replace(tmp_path / "run.json.partial")  # as a killed writer leaves it
    (tmp_path / LOCK).touch()
    assert claimed(tmp_path) is None
    assert names(tmp_path) == [LOCK, "run.json"]


@pytest.mark.parametrize("text", ["", "[]", "7", '{"result": 1}', "[" * 100_000, '{"asked": NaN}'])
def test_a_damaged_first_file_is_not_taken_for_another_configuration(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(OutputError, match=r"^[^\n]*run\.json: cannot be read [^\n]*\(.*\): delete it$"):
        claimed(tmp_path)


# Which process works in it


@pytest.mark.parametrize("kind", ["flock", "none", "fork"])
def test_a_second_process_gets_the_folder_after_the_first_is_killed(tmp_path, kind, monkeypatch):
    if kind == "none":
        without_locks(monkeypatch)
    out = tmp_path / "run"
    with held_elsewhere(out, kind) as holder:
        message = rf"{out} is in use by process {holder.pid} on {HOST}, since 20..-..-.. ..:..:.. UTC: wait for it, "
        for _ in range(2):
            with pytest.raises(OutputError, match=message), folder_at(out).locked():
                pass
        assert names(out) == [LOCK]
        holder.send_signal(signal.SIGKILL)
        while locks._process(holder.pid)[0] != "Z":  # nobody has asked for its exit code yet
            time.sleep(0.01)
        with folder_at(out).locked():  # a process that it forked may run on
            assert names(out) == [LOCK]
        assert not names(out)


def test_a_second_holder_in_the_same_process_is_refused(tmp_path, mode):
    with folder_at(tmp_path).locked():
        with pytest.raises(OutputError, match=f"in use by process {os.getpid()} on"), folder_at(tmp_path).locked():
            pass
        assert names(tmp_path) == [LOCK]
    assert not names(tmp_path)


def test_a_process_that_waits_gets_the_folder_when_it_is_free(tmp_path):
    with held_elsewhere(tmp_path) as holder:
        refused = pytest.raises(OutputError, match="in use by process")
        noted = pytest.warns(Note, match=f"{tmp_path}: waiting for process {holder.pid} on")
        with noted as notes, refused, folder_at(tmp_path).locked(wait=0.2):
            pass
        assert len(notes) == 1
        holder.kill()
        holder.wait()
        with folder_at(tmp_path).locked(wait=20):
            assert names(tmp_path) == [LOCK]


@pytest.mark.parametrize("number", NO_LOCKS)
def test_a_file_system_without_locks_is_noted_once_and_does_not_stop_the_work(tmp_path, monkeypatch, number):
    without_locks(monkeypatch, number)
    locks._noted.clear()
    reason = re.escape(os.strerror(number))
    message = rf"{tmp_path}/run-0: its file system has no locks \({reason}\); {LOCK} keeps other processes out"
    with pytest.warns(Note, match=message) as notes:
        for place in (tmp_path / f"run-{number}" for number in range(3)):
            with folder_at(place).locked():
                assert json.loads((place / LOCK).read_text())["pid"] == os.getpid()
                (place / "work").touch()
            assert names(place) == ["work"]
    assert len(notes) == 1


def test_a_process_with_locks_respects_a_lock_by_text(tmp_path):
    """A network drive may have locks on one host alone, or get them back while a process works."""
    with held_elsewhere(tmp_path / "run", "none") as holder:
        in_use = pytest.raises(OutputError, match=f"is in use by process {holder.pid} on {HOST}")
        with in_use, folder_at(tmp_path / "run").locked():
            pass
        holder.kill()
        holder.wait()
        with folder_at(tmp_path / "run").locked():
            pass
    assert not (tmp_path / "run" / LOCK).exists()


def test_a_folder_of_any_depth_is_made(tmp_path):
    deep = tmp_path.joinpath(*["x"] * 1200)
    with folder_at(deep).locked():
        assert claimed(deep) is None
    (deep / "run.json").unlink()
    os.removedirs(deep)  # pytest would remove it by recursion


def test_without_locks_the_folder_of_a_process_that_is_gone_is_taken_over(tmp_path, monkeypatch):
    without_locks(monkeypatch)
    with folder_at(tmp_path).locked():
        own = json.loads((tmp_path / LOCK).read_text())
    gone = [
        "",  # killed before it wrote its name
        "{",
        "[" * 4000,
        json.dumps(own | {"pid": 2**22 + 1}),
        json.dumps(own | {"pid": 10**30}),
        json.dumps(own | {"start": "1"}),  # its number has passed to another process
        json.dumps(own | {"boot": "before the machine was started anew"}),
    ]
    for text in gone:
        for name in (LOCK, f"{LOCK}.taking"):
            (tmp_path / name).write_text(text)
            os.utime(tmp_path / name, (1, 1))
        with folder_at(tmp_path).locked():
            assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
        assert not names(tmp_path)
    (tmp_path / LOCK).write_text(json.dumps(own | {"host": "elsewhere", "pid": 2**22 + 1}))
    remedy = re.escape(
        f"on elsewhere, since {own['since']}: wait for it, stop it (delete {tmp_path / LOCK} if it no longer runs"
    )
    with pytest.raises(OutputError, match=remedy), folder_at(tmp_path).locked():
        pass


@pytest.mark.parametrize("kind", ["flock", "none"])
def test_one_of_many_concurrent_processes_gets_the_folder(tmp_path, kind):
    """Also where one that was killed has left its file, which all of them want to take over."""
    wait = "def wait_for_end():\n    while not Path('end').exists():\n        time.sleep(0.01)\n"
    code = HOLDER.replace("with WorkFolder", f"{wait}while not Path('go').exists():\n    pass\nwith WorkFolder")
    code = code.replace("time.sleep(20)", "Path(sys.argv[1], str(os.getpid())).touch(); wait_for_end()")
    command = [sys.executable, "-c", f"print('ready', flush=True)\n{code}", str(tmp_path / "run"), kind]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).write_text("{}")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    started = [subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, **pipes) for _ in range(6)]
    assert all(process.stdout.readline() for process in started)
    (tmp_path / "go").touch()
    give_up = time.monotonic() + 60
    while sum(process.poll() is None for process in started) > 1 and time.monotonic() < give_up:
        time.sleep(0.01)
    (tmp_path / "end").touch()
    errors = [process.communicate()[1].decode() for process in started]
    winners = [process.pid for process in started if process.returncode == 0]
    assert len(winners) == 1, errors
    assert names(tmp_path / "run") == [str(winners[0])]
    assert sum("in use by" in error for error in errors) == 5


@pytest.mark.parametrize(
    "error", [BlockingIOError(errno.EAGAIN, "busy"), OSError(errno.ENOLCK, "no locks"), ValueError()]
)
def test_an_error_inside_the_lock_is_unchanged(tmp_path, error, mode):
    with pytest.raises(type(error)) as raised, folder_at(tmp_path / "run").locked():
        raise error
    assert raised.value is error
    assert not (tmp_path / "run").exists()  # nothing was written


def test_a_folder_that_is_moved_away_keeps_its_lock_file_and_can_be_used_again(tmp_path):
    with folder_at(tmp_path / "run").locked():
        (tmp_path / "run" / "work").touch()
        (tmp_path / "run").rename(tmp_path / "moved")
    assert names(tmp_path / "moved") == [LOCK, "work"]
    with folder_at(tmp_path / "moved").locked():
        pass
    assert names(tmp_path / "moved") == ["work"]


def test_a_path_that_cannot_be_a_folder_is_refused_in_one_line(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    for name, message in {
        "file": "file is a file, not a folder: choose another --out",
        "dangling": "dangling is a link to nothing, not a folder: choose another --out",
        "file/run": r"file/run: cannot be made \(Not a directory\): choose another --out",
        "x" * 300: r"cannot be made \(File name too long\): choose another",
    }.items():
        with pytest.raises(OutputError, match=message) as raised, folder_at(tmp_path / name).locked():
            pass
        assert "\n" not in str(raised.value)
    for name in ("link", "folder/../folder", "a/b/c/../run", "folder/."):
        with folder_at(tmp_path / name).locked():
            assert claimed(tmp_path / name) is None
        (tmp_path / name / "run.json").unlink()


# Starting over


def is_own(name: str) -> bool:
    return re.fullmatch(r"run\.json|best-\d/(.*)|state-\d|logs/|logs/event-\d|[^/]*\.partial", name) is not None


def begun(path: Path) -> None:
    claimed(path)
    (path / "best-1").mkdir()
    (path / "logs").mkdir()
    for name in ("best-1/weights", "logs/event-1", "state-1", "state-2.partial"):
        (path / name).touch()


def test_starting_over_deletes_the_work_and_the_first_file_last(tmp_path, monkeypatch):
    begun(tmp_path)
    deleted = []
    monkeypatch.setattr("epanns.workfolder.remove", deleted.append)
    folder_at(tmp_path).start_over(is_own, finished_by="state-1")
    assert (deleted[0].name, deleted[-1].name) == ("state-1", "run.json")
    assert len(deleted) == 5
    monkeypatch.undo()
    with folder_at(tmp_path).locked():
        folder_at(tmp_path).start_over(is_own)
        assert names(tmp_path) == [LOCK]
        folder_at(tmp_path).start_over(is_own)  # again: nothing is there


@pytest.mark.parametrize("foreign", ["thesis.txt", "logs/notes", "logs/more/event-1", "best-1.old", "state-3/weights"])
def test_starting_over_deletes_nothing_beside_other_files(tmp_path, foreign):
    begun(tmp_path)
    (tmp_path / foreign).parent.mkdir(exist_ok=True)
    (tmp_path / foreign).write_text("years of work")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputError, match=r"holds '[\w./-]+', which is no part of a run, so --fresh deletes nothing: "):
        folder_at(tmp_path).start_over(is_own)
    assert sorted(tmp_path.rglob("*")) == before


def test_starting_over_leaves_a_folder_of_something_else_alone(tmp_path):
    (tmp_path / "state-1").touch()
    with pytest.raises(OutputError, match="exists already and is no run: choose another --out"):
        folder_at(tmp_path).start_over(is_own)
    assert names(tmp_path) == ["state-1"]


# Files beside each other


def test_a_file_has_one_writer_at_a_time(tmp_path, mode):
    new = tmp_path / "new"
    with locked_file(new / "manifest.csv"):
        with pytest.raises(OutputError, match=r"manifest\.csv is in use"), locked_file(new / "manifest.csv"):
            pass
        with locked_file(new / "another.csv"):
            pass
        (new / "manifest.csv").touch()
    assert names(new) == ["manifest.csv"]
    (new / "manifest.csv").unlink()
    new.rmdir()
    with pytest.raises(ValueError), locked_file(tmp_path / "a" / "b" / "c"):
        raise ValueError
    assert names(tmp_path) == []


# Kills a process at any moment of taking or giving back a lock: `root mode`.
RIVAL = """
import errno, fcntl, os, sys, time, warnings
from pathlib import Path
from epanns.errors import OutputError
from epanns.workfolder import WorkFolder
warnings.simplefilter("ignore")
root, inside = Path(sys.argv[1]), Path(sys.argv[1], "inside")
if sys.argv[2] == "none":
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")
    fcntl.flock = flock
print("ready", flush=True)
while True:
    try:
        with WorkFolder(root / "run").locked():
            other = int(inside.read_text() or 0) if inside.exists() else 0
            if other and Path(f"/proc/{other}").exists() and ") Z" not in Path(f"/proc/{other}/stat").read_text():
                (root / "both").touch()
            inside.write_text(str(os.getpid()))
            time.sleep(0.001)
            inside.unlink()
    except OutputError:
        time.sleep(0.001)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["flock", "none"])
def test_processes_killed_at_any_moment_never_share_the_folder_and_never_block_it(tmp_path, monkeypatch, kind):
    if kind == "none":
        without_locks(monkeypatch)
    chance, command = random.Random(0), [sys.executable, "-c", RIVAL, str(tmp_path), kind]
    for _ in range(8):
        rivals = [subprocess.Popen(command, stdout=subprocess.PIPE, env=ENVIRONMENT) for _ in range(3)]
        assert all(process.stdout.readline() for process in rivals)
        for process in rivals:
            time.sleep(chance.uniform(0, 0.03))
            process.kill()
        for process in rivals:
            process.communicate()
        with folder_at(tmp_path / "run").locked():
            assert names(tmp_path / "run") == [LOCK]
    assert not (tmp_path / "both").exists()
