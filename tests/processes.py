"""Processes that tests start: two of one run, as `torchrun` would start them, and waiting for their files."""

import fnmatch
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

_REPOSITORY = Path(__file__).parents[1]


def free_port() -> int:
    """Return a free port of 127.0.0.1."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def started(command: list[str], rank: int, port: int) -> subprocess.Popen[str]:
    """Start one Python process of two, with the variables of torchrun."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    environment = {**os.environ, "PYTHONPATH": str(_REPOSITORY), "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    environment |= {name: str(value) for name, value in place.items()}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *command], env=environment, **pipes)


def wait_for_file(folder: Path, pattern: str, seconds: float = 90) -> None:
    """Wait until a file under `folder` matches `pattern`.

    Other processes create and remove folders meanwhile: `Path.rglob` raises then, `os.walk` skips a removed folder.
    """
    deadline = time.monotonic() + seconds
    while not any(fnmatch.filter(files, pattern) for _, _, files in os.walk(folder)):
        assert time.monotonic() < deadline, f"no {pattern} under {folder} after {seconds} s"
        time.sleep(0.02)
