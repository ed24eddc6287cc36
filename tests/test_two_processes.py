"""What two processes do together is what one does alone: the laws of `two_processes.py`, all of them in one start."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests import two_processes
from tests.processes import free_port, started

LAWS = [two_processes.name_of(law) for law in two_processes.laws(Path(), Path())]


@pytest.fixture(scope="module")
def problems(tiny_packs, tmp_path_factory) -> Mapping[tuple[int, str], str]:
    """What went wrong with each law on each rank; empty where it holds."""
    packs, out, port = tiny_packs["train"].parent, tmp_path_factory.mktemp("two"), free_port()
    command = [two_processes.__file__, str(packs), str(out)]
    processes = [started(command, rank, port) for rank in range(2)]
    said = [process.communicate(timeout=120) for process in processes]
    lines = [json.loads(line) for stdout, _ in said for line in stdout.splitlines() if line.startswith("{")]
    found = {(line["rank"], line["law"]): line["problem"] for line in lines}
    return {"ended": "\n".join(stderr for _, stderr in said), **found}


@pytest.mark.parametrize("law", LAWS)
def test_law_holds_on_both(problems, law):
    for rank in range(2):
        assert problems.get((rank, law), problems["ended"]) == ""


def test_the_end_of_one_is_told_to_the_other(problems):
    assert problems.get((0, "the_end_of_one_is_told_to_the_other"), problems["ended"]) == ""
