import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from epanns.data.workers import ordered_rows
from epanns.errors import DataError


def fill(item, row):
    """Take longer for some items than for others, so that they end in another order."""
    time.sleep(0.01 * (item % 3))
    row[:] = item
    return -item


def sure_to_fail(item, row):
    if item == 5:
        raise ZeroDivisionError("five")
    return item


def die_at_five(item, row):
    if item == 5:
        os._exit(9)


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_rows_come_in_the_order_of_their_items(jobs):
    seen = [(result, row.tolist()) for result, row in ordered_rows(fill, range(40), jobs, 4)]
    assert seen == [(-item, [item] * 4) for item in range(40)]


@pytest.mark.parametrize("jobs", [1, 2])
def test_no_items_are_no_rows(jobs):
    assert list(ordered_rows(fill, [], jobs, 4)) == []


@pytest.mark.parametrize("jobs", [1, 2])
def test_few_items_are_taken_before_their_turn(jobs):
    taken = []

    def items():
        for item in range(1_000):
            taken.append(item)
            yield item

    rows = ordered_rows(fill, items(), jobs, 4)
    for number, _ in enumerate(rows):
        assert len(taken) - number <= 8 * jobs + 1
        if number == 50:
            break
    rows.close()
    assert len(taken) < 100


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_goes_wrong_with_an_item_is_raised_at_its_turn(jobs):
    seen = []
    with pytest.raises(ZeroDivisionError, match="five"):
        for result, _ in ordered_rows(sure_to_fail, range(20), jobs, 4):
            seen.append(result)
    assert seen == [0, 1, 2, 3, 4]


def test_a_dead_process_is_named():
    with pytest.raises(
        DataError, match="item 5: one of 2 worker processes died at it, perhaps for want of memory; run"
    ):
        list(ordered_rows(die_at_five, range(20), 2, 4, name=lambda item: f"item {item}"))


def test_no_process_stays_when_the_rows_are_no_longer_wanted():
    rows = ordered_rows(fill, range(1_000), 2, 4)
    next(rows)
    assert len(multiprocessing.active_children()) == 2
    rows.close()
    assert multiprocessing.active_children() == []


ORPHANS = """
import multiprocessing, sys
from epanns.data.workers import ordered_rows
from tests.data.test_workers import fill

if __name__ == "__main__":
    for number, _ in enumerate(ordered_rows(fill, range(1_000_000), 2, 4)):
        if number == 5:
            print(*(child.pid for child in multiprocessing.active_children()), flush=True)
"""


def is_there(process):
    """Whether a process is running; one that has ended and waits for its parent is not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_processes_end_with_a_parent_that_is_killed():
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", ORPHANS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root
    ) as parent:
        children = [int(word) for word in parent.stdout.readline().split()]
        assert all(is_there(child) for child in children)
        for child in children:  # they do not notice what is meant for the parent
            os.kill(child, signal.SIGTERM)
            os.kill(child, signal.SIGINT)
        time.sleep(0.2)
        assert all(is_there(child) for child in children)
        parent.kill()
        for _ in range(100):
            if not any(is_there(child) for child in children):
                break
            time.sleep(0.05)
        assert not any(is_there(child) for child in children)
        assert parent.stderr.read() == ""


def test_rows_hold_what_was_written_to_the_last_sample():
    for item, row in ordered_rows(fill, range(4), 2, 100_003):
        assert len(row) == 100_003
        assert np.unique(row).tolist() == [-item]
