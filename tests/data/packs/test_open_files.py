import gc
import os
import resource
from pathlib import Path

import numpy as np
import pytest

from epanns.data.packs import open_files
from epanns.data.packs.open_files import Stamp, _open, close_files, most_open, read_at
from epanns.errors import PackError


@pytest.fixture
def files(tmp_path):
    """Five files; each byte is a function of the file and the offset."""
    paths = [tmp_path / f"{number}.bin" for number in range(5)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes((50 * number + place) % 256 for place in range(100)))
    yield paths
    close_files(paths)


def read(path, offset, length, **how):
    out = np.empty(length, np.uint8)
    read_at(path, offset, out, **how)
    return out.tolist()


def descriptors():
    gc.collect()
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_bytes_are_read_at_their_offset_with_few_open_files(files, monkeypatch):
    monkeypatch.setattr(open_files, "_MOST_OPEN", 2)
    before, n_before = descriptors(), len(_open)
    for number, path in [*enumerate(files)] * 3:
        assert read(path, 7, 20) == [(50 * number + place) % 256 for place in range(7, 27)]
        assert len(_open) <= 2
    assert descriptors() <= before + 2 - min(n_before, 2)
    close_files(files)
    assert len(_open) == 0


def test_the_file_used_last_stays_open(files, monkeypatch):
    monkeypatch.setattr(open_files, "_MOST_OPEN", 2)
    read(files[0], 0, 1)
    opened = []
    monkeypatch.setattr(os, "open", lambda path, flags, original=os.open: opened.append(path) or original(path, flags))
    for path in (files[1], files[0], files[2], files[0]):
        read(path, 0, 1)
    assert opened == [str(files[1]), str(files[2])]


def test_a_low_limit_of_open_files_is_respected(monkeypatch):
    for limit, expected in ((100, 25), (1 << 20, 1024), (2, 1), (resource.RLIM_INFINITY, 1024)):
        monkeypatch.setattr(resource, "getrlimit", lambda which, limit=limit: (limit, limit))
        assert most_open() == expected


def test_a_file_that_ends_too_early_is_named(files):
    with pytest.raises(PackError, match=r"4\.bin: ends before byte 101: it was cut; copy the pack again"):
        read(files[4], 90, 11)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(PackError, match=r"none\.bin: cannot be read \(No such file or directory\); copy the pack"):
        read(tmp_path / "none.bin", 0, 1)


def test_a_stamped_file_that_changed_is_refused(files):
    stamp = Stamp.of(files[0].stat())
    assert read(files[0], 0, 2, stamp=stamp) == [0, 1]
    with files[0].open("r+b") as file:
        file.write(b"x")
    os.utime(files[0], ns=(0, stamp.changed + 1))
    with pytest.raises(PackError, match=r"0\.bin: has changed since it was opened; start again"):
        read(files[0], 0, 2, stamp=stamp)
