import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

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
            command = folder.joinpath("cmdline").read_text()
        except OSError:
            continue  # it ended meanwhile
        if session == parent and int(folder.name) != parent and "spawn_main" in command:
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
