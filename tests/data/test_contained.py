import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from epanns.data import contained
from epanns.data.contained import Crashed, run_contained

LIMIT = 1 << 30


def test_an_answer_comes_back():
    assert run_contained(sorted, "hello", memory_limit=LIMIT) == sorted("hello")


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (signal.raise_signal, (signal.SIGSEGV,), "crashed with signal SIGSEGV"),
        (os.abort, (), "crashed with signal SIGABRT"),
        (os._exit, (7,), "ended with exit code 7"),
        (bytearray, (2 * LIMIT,), "needs more than 1 GiB of memory"),
        (int, ("x",), "failed with ValueError: invalid literal"),
        (object, (), "failed with TypeError: Object of type object is not JSON"),
    ],
)
def test_however_it_ends_it_is_an_answer(function, arguments, message):
    with pytest.raises(Crashed, match=message):
        run_contained(function, *arguments, memory_limit=LIMIT)


def test_the_limit_is_of_the_function_not_of_its_modules():
    assert run_contained(len, b"x", memory_limit=1 << 20) == 1


def test_what_says_nothing_is_ended():
    with pytest.raises(Crashed, match=r"was ended after 0\.5 s without progress"):
        run_contained(time.sleep, 300, memory_limit=LIMIT, patience=0.5)


@pytest.fixture
def said(monkeypatch):
    """What the parent makes of some messages."""

    def listen(*messages, progress=print, log=print):
        ours, theirs = multiprocessing.Pipe(duplex=False)
        with ours, theirs:
            for message in messages:
                theirs.send_bytes(message if isinstance(message, bytes) else json.dumps(message).encode())
            return contained._listen(ours, progress, log, 10)

    return listen


@pytest.mark.parametrize(
    "message",
    [
        b"no JSON",
        b"\xff\xfe",
        b"[" * 50_000,
        b"7",
        b"[]",
        b'["answer"]',
        b'["answer", 1, 2]',
        b"[[], {}]",
        ["other", 1],
        ["progress", 3],
        ["progress", [1, 2, 3]],
        ["progress", ["1", 2]],
        ["progress", [1, 2.5]],
        ["progress", [-1, None]],
        ["progress", [True, 2]],
        ["progress", [1 << 63, 2]],
        ["line", ["x"]],
        ["failure", None],
    ],
)
def test_an_answer_without_sense_is_a_crash(said, message):
    with pytest.raises(Crashed, match="gave no sensible answer"):
        said(message)


def test_an_enormous_answer_is_a_crash(said, monkeypatch):
    monkeypatch.setattr(contained, "_LONGEST_MESSAGE", 100)
    with pytest.raises(Crashed, match="gave no sensible answer"):
        said(["answer", "x" * 200])


def test_a_terminal_shows_what_is_said_and_does_not_obey(said):
    lines = []
    said(["line", "a\x1b[2J\n\ud800b"], ["line", "x" * 9000], ["answer", 0], log=lines.append)
    assert lines == ["a\\x1b[2J\\n\\ud800b", "x" * 4000 + "..."]


INTERRUPTED = """
import time
from epanns.data.contained import run_contained
if __name__ == "__main__":
    run_contained(time.sleep, 300, memory_limit=1 << 30)
"""


def children_of(parent):
    """Numbers of a session's processes besides the one that began it; the resource tracker is Python's own."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            session = int(folder.joinpath("stat").read_text().rpartition(")")[2].split()[3])
            command = folder.joinpath("cmdline").read_bytes()
        except OSError:
            continue  # it ended meanwhile
        if session == parent and int(folder.name) != parent and b"spawn_main" in command:
            found.append(int(folder.name))
    return found


def test_ctrl_c_ends_both_processes(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(INTERRUPTED)
    with subprocess.Popen([sys.executable, script], start_new_session=True, stderr=subprocess.PIPE) as process:
        while not children_of(process.pid):
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        assert b"KeyboardInterrupt" in process.communicate(timeout=30)[1]
    deadline = time.monotonic() + 10
    while children_of(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)
