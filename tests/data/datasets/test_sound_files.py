import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epanns.data.datasets.sound_files import SoundsByStem, files_below, folders_holding, is_sound, sounds_below
from epanns.errors import DataError

names = st.sampled_from(["a", "b", "B", "a-b", "a.wav", "-x", "_y", "é"])
trees = st.sets(st.lists(names, min_size=1, max_size=3).map(tuple), max_size=12)


def make(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


@given(trees)
def test_files_come_in_the_order_of_their_paths(tmp_path_factory, tree):
    root = tmp_path_factory.mktemp("tree")
    files = {parts for parts in tree if not any(other[: len(parts)] == parts for other in tree - {parts})}
    make(root, *("/".join(parts) for parts in files))
    expected = sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
    assert list(files_below(root)) == [(str(path), True) for path in expected]


def test_linked_folders_and_files_are_found_under_the_link(tmp_path):
    make(tmp_path / "elsewhere", "x.wav", "deep/y.wav")
    root = make(tmp_path / "root", "a/own.wav")
    (root / "b").symlink_to(tmp_path / "elsewhere")
    (root / "c.wav").symlink_to(tmp_path / "elsewhere" / "x.wav")
    assert list(files_below(root)) == [
        ("a/own.wav", True),
        ("b/deep/y.wav", True),
        ("b/x.wav", True),
        ("c.wav", True),
    ]


def test_a_circular_link_is_not_followed_and_a_broken_link_is_marked(tmp_path):
    root = make(tmp_path / "root", "a/x.wav")
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "here").symlink_to(root / "a")
    (root / "circle").symlink_to(root / "circle")
    (root / "gone.wav").symlink_to(root / "nothing")
    assert list(files_below(root)) == [("a/x.wav", True), ("circle", False), ("gone.wav", False)]
    assert list(sounds_below(root)) == ["a/x.wav"]


def test_two_folders_that_link_to_each_other_end(tmp_path):
    root = make(tmp_path / "root", "a/x.wav", "b/y.wav")
    (root / "a" / "b").symlink_to(root / "b")
    (root / "b" / "a").symlink_to(root / "a")
    assert [path for path, _ in files_below(root)] == ["a/b/y.wav", "a/x.wav", "b/a/x.wav", "b/y.wav"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.wav", True),
        ("x/a.FLAC", True),
        ("x.y/a.b.opus", True),
        ("a.wav.part", False),
        ("wav", False),
        (".wav", False),
        ("x/._a.wav", False),
        (".trash/a.wav", False),
        ("x/.trash/y/a.wav", False),
    ],
)
def test_sounds_are_visible_files_with_an_audio_suffix(path, expected):
    assert is_sound(path) is expected


def test_a_missing_folder_has_no_files(tmp_path):
    assert list(files_below(tmp_path / "none")) == []


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=rf"{tmp_path}: cannot be listed \(Permission denied\); make it readable"):
        list(files_below(tmp_path))


def test_a_sound_is_found_by_its_name_then_by_its_stem(tmp_path):
    sounds = SoundsByStem(make(tmp_path, "a.wav", "a.flac", "x/b.ogg", "c.ogg", "c.mp3", "notes.txt"))
    assert sounds.n_files == 5
    assert sounds.find("a.wav", "row 1") == f"{tmp_path}/a.wav"
    assert sounds.find("b.wav", "row 2") == f"{tmp_path}/x/b.ogg"
    assert sounds.find("b.wav", "row 2", named={"b.ogg"}) is None
    assert sounds.find("notes.wav", "row 3") is None
    with pytest.raises(DataError, match=rf"row 4: c\.wav could be {tmp_path}/c\.mp3 or {tmp_path}/c\.ogg; keep one"):
        sounds.find("c.wav", "row 4")


def test_a_file_in_the_expected_folder_is_preferred(tmp_path):
    root = make(tmp_path / "root", "a/x.wav", "b/x.wav", "b/y.flac")
    sounds = SoundsByStem(root)
    assert sounds.find("x.wav", "row 1", folder="b") == f"{root}/b/x.wav"
    assert sounds.find("y.wav", "row 1", folder="a") == f"{root}/b/y.flac"
    with pytest.raises(DataError, match=r"row 1: x\.wav could be .*/a/x\.wav or .*/b/x\.wav; keep one"):
        sounds.find("x.wav", "row 1")


def test_the_nearest_folders_that_hold_all_files_are_found(tmp_path):
    root = make(tmp_path / "root", "a/list.csv", "a/b/list.csv", "a/b/c/list.csv", "a/b/c/d/list.csv", "a/b/more.csv")
    assert folders_holding(root, "list.csv") == [root / "a"]
    assert folders_holding(root, "list.csv", "more.csv") == [root / "a" / "b"]
    assert folders_holding(root / "a", "list.csv") == [root / "a"]
    assert folders_holding(root, "b/list.csv") == [root / "a"]
    assert folders_holding(root, "d/list.csv") == []
