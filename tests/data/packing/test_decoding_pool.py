import multiprocessing
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import pytest

from epanns.data.packing import decoding_pool
from epanns.data.packing.decoding_pool import ordered_rows
from epanns.errors import ConfigError, DataError


def fill(item, row):
    """Take longer for some items than for others, so that they end in another order."""
    time.sleep(0.01 * (item % 3))
    row[:] = item
    return -item


def sure_to_fail(item, row):
    if item == 5:
        raise ZeroDivisionError("five")
    return item


def return_what_cannot_pass(item, row):
    return (lambda: None) if item == 5 else item


def die_at_five(item, row):
    if item == 5:
        os._exit(9)
    row[:] = item
    return item


def die_once(item, row):
    """Die at the first attempt of some items; a file marks the attempt."""
    number, folder = item
    if number % 5 == 0 and not (folder / str(number)).exists():
        (folder / str(number)).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    row[:] = number
    return number


def lack_memory_beside_others(item, row):
    """Lack memory in the processes that began first; a file marks each of them."""
    number, folder = item
    (folder / str(os.getpid())).touch()
    if number == 3 and len(list(folder.iterdir())) < 3:
        time.sleep(0.2)
        raise MemoryError("much")
    row[:] = number
    return number


def run(function, items, jobs, length):
    return ordered_rows(function, items, jobs, length, crashed=lambda item, how: -item)


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_rows_come_in_the_order_of_their_items(jobs):
    seen = [(result, row.tolist()) for result, row in run(fill, range(40), jobs, 4)]
    assert seen == [(-item, [item] * 4) for item in range(40)]


@pytest.mark.parametrize("jobs", [1, 2])
def test_no_items_give_no_rows(jobs):
    assert list(run(fill, [], jobs, 4)) == []


@pytest.mark.parametrize("jobs", [1, 2])
def test_few_items_are_taken_before_their_turn(jobs):
    taken = []

    def items():
        for item in range(1_000):
            taken.append(item)
            yield item

    rows = run(fill, items(), jobs, 4)
    for number, _ in enumerate(rows):
        assert len(taken) - number <= 8 * jobs + 1
        if number == 50:
            break
    rows.close()
    assert len(taken) < 100


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_error_of_an_item_is_raised_at_its_turn(jobs):
    seen = []
    with pytest.raises(DataError, match="^5: ZeroDivisionError: five; remove the clip") as caught:
        for result, _ in run(sure_to_fail, range(20), jobs, 4):
            seen.append(result)
    assert seen == [0, 1, 2, 3, 4]
    assert "in sure_to_fail" in "".join(traceback.format_exception(caught.value))


def test_a_result_that_cannot_be_pickled_is_an_error_with_its_item():
    with pytest.raises(DataError, match="^5: .*([Pp]ickl|local object)"):
        list(run(return_what_cannot_pass, range(20), 2, 4))


def test_only_an_item_that_crashes_two_processes_is_given_up():
    rows = run(die_at_five, range(40), 2, 4)
    seen = [(result, row.tolist()) for result, row in rows]
    assert [result for result, _ in seen] == [-5 if item == 5 else item for item in range(40)]
    assert all(row == [result] * 4 for result, row in seen if result != -5)


def test_an_item_whose_process_dies_once_is_tried_again(tmp_path):
    items = [(number, tmp_path) for number in range(8)]
    seen = [(result, row.tolist()) for result, row in run(die_once, items, 2, 4)]
    assert seen == [(number, [number] * 4) for number in range(8)]


def test_an_item_that_lacks_memory_is_tried_again_in_a_new_process(tmp_path):
    items = [(number, tmp_path) for number in range(12)]
    assert [result for result, _ in run(lack_memory_beside_others, items, 2, 4)] == list(range(12))


def test_processes_that_die_as_they_start_end_the_rows(monkeypatch):
    monkeypatch.setattr(decoding_pool, "_begin", os._exit)  # its arguments are no exit code, so that it fails
    with pytest.raises(DataError, match="^0: the process that was to decode it ended with exit code 0 as it started"):
        list(run(fill, range(40), 2, 4))


def test_lack_of_memory_for_the_rows_is_an_error(monkeypatch):
    def fail(*arguments):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(os, "posix_fallocate", fail)
    with pytest.raises(ConfigError, match=r"no memory for 7 MiB of rows .* \(Cannot allocate memory\): use"):
        next(run(fill, range(4), 2, 250_000))


def test_closing_the_generator_ends_its_processes():
    rows = run(fill, range(1_000), 2, 4)
    next(rows)
    assert len(multiprocessing.active_children()) == 2
    rows.close()
    assert multiprocessing.active_children() == []


ORPHANS = """
import multiprocessing, sys
from tests.data.packing.test_decoding_pool import fill, run

if __name__ == "__main__":
    for number, _ in enumerate(run(fill, range(1_000_000), 2, 4)):
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
    root = Path(__file__).parents[3]
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
        errors = parent.stderr.read()
        assert not errors or "leaked semaphore" in errors  # of the resource tracker of Python, which removes them


def test_rows_hold_what_was_written_to_the_last_sample():
    for item, row in run(fill, range(4), 2, 100_003):
        assert len(row) == 100_003
        assert np.unique(row).tolist() == [-item]
