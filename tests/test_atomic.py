"""Files and folders appear whole or not at all."""

import errno
import hashlib
import json

import pytest

from epanns.atomic import (
    new_folder,
    refuse_existing,
    replacing,
    sha256_of,
    sha256_of_json,
    write_json,
    write_text,
    write_texts,
)
from epanns.errors import OutputError


def test_a_failure_leaves_the_old_file_and_no_partial_file(tmp_path):
    path = tmp_path / "table.csv"
    write_text(path, "old")

    def fail_half_way():
        with replacing(path) as partial:
            partial.write_text("half")
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        fail_half_way()
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["table.csv"]


def test_write_makes_missing_folders_and_replaces(tmp_path):
    path = tmp_path / "a" / "b.json"
    write_json(path, {"é": 1})
    write_json(path, {"é": 2})
    assert json.loads(path.read_text()) == {"é": 2}
    assert path.read_text() == '{\n  "é": 2\n}\n'


def test_many_texts_are_written_and_equal_files_are_left_unchanged(tmp_path):
    texts = {tmp_path / "a" / f"{number}.txt": f"é {number}" for number in range(3)}
    write_texts(texts)
    assert {path: path.read_text(encoding="utf-8") for path in texts} == texts
    before = {path: path.stat().st_ino for path in texts}
    changed = tmp_path / "a" / "1.txt"
    write_texts(texts | {changed: "é 9"})
    assert changed.read_text(encoding="utf-8") == "é 9"
    assert {path for path in texts if path.stat().st_ino != before[path]} == {changed}


def test_a_failure_among_many_texts_leaves_no_partial_file(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_texts({tmp_path / "a.txt": "new", tmp_path / "b.txt": "\ud800"})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.txt": "old"}


def test_new_folder_appears_when_it_is_whole(tmp_path):
    with new_folder(tmp_path / "out") as partial:
        (partial / "file").write_text("x")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out" / "file").read_text() == "x"
    assert not partial.exists()


def test_new_folder_that_fails_leaves_nothing(tmp_path):
    def fail():
        with new_folder(tmp_path / "out") as partial:
            (partial / "file").write_text("x")
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_new_folder_touches_nothing_beside_it(tmp_path):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "mine").write_text("x")
    with new_folder(tmp_path / "out") as first, new_folder(tmp_path / "other"):
        (first / "sub").mkdir()
        (first / "sub" / "file").write_text("x")
        with pytest.raises(OutputError, match="out exists already"), new_folder(tmp_path / "out"):
            (tmp_path / "out").mkdir()
        (tmp_path / "out").rmdir()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "out", "out.partial"]
    assert (tmp_path / "out.partial" / "mine").read_text() == "x"
    assert (tmp_path / "out" / "sub" / "file").read_text() == "x"
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_new_folder_flushes_every_folder_of_it(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr("epanns.atomic.fsync", lambda folder: flushed.append(folder.name))
    with new_folder(tmp_path / "out") as partial:
        (partial / "sub").mkdir()
    assert flushed == ["sub", "out", tmp_path.name]


def test_an_existing_folder_is_refused_and_untouched(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with (
        pytest.raises(OutputError, match="out exists already: choose another --out or delete it first"),
        new_folder(tmp_path / "out"),
    ):
        raise AssertionError("the block must not run")
    with pytest.raises(OutputError, match="exists already"):
        refuse_existing(tmp_path / "out")
    assert (tmp_path / "out" / "mine").read_text() == "x"


def test_checksums(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert sha256_of(tmp_path / "file") == hashlib.sha256(b"abc").hexdigest()
    assert sha256_of_json({"b": 1, "a": [1.5]}) == hashlib.sha256(b'{"a":[1.5],"b":1}').hexdigest()


def test_an_error_of_a_write_names_the_file(tmp_path):
    """The system names a file only where opening it fails."""
    with pytest.raises(OSError, match="No space left on device") as raised, replacing(tmp_path / "table.md"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert raised.value.filename == str(tmp_path / "table.md")
