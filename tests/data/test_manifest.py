import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epanns.data.manifest import Clip, Manifest, labels_path, missing_path, write_manifest
from epanns.data.manifest_reader import read_manifest
from epanns.errors import DataError, OutputError
from epanns.labels import LabelSet

HEADER = "clip_id,path,start,duration,labels,split,fold"


@pytest.fixture
def clip(tmp_path):
    return Clip("a.wav", str(tmp_path / "a.wav"), ("dog", "rain"), "train", start=1.5, duration=0.1, fold=2)


@pytest.fixture
def written(tmp_path):
    """Write a manifest by hand from its rows; return its path."""

    def run(*rows, header=HEADER, labels="index,mid,display_name\n0,/m/0bt9lr,dog\n1,,rain\n"):
        path = tmp_path / "m.csv"
        path.write_text("\n".join([header, *rows]) + "\n")
        if labels is not None:
            labels_path(path).write_text(labels)
        return path

    return run


def test_a_manifest_survives_the_round_trip(tmp_path, clip):
    gone = replace(clip, clip_id="b.wav", path=f"{tmp_path}/sub/b.wav", start=None, duration=None, fold=None)
    manifest = Manifest("mine", LabelSet.of(["dog", "rain", "sea, waves"]), (clip,), (gone,), ignored=3)
    write_manifest(manifest, tmp_path / "m.csv")
    assert read_manifest(tmp_path / "m.csv") == manifest
    assert manifest.summary() == {
        "dataset": "mine",
        "expected": 2,
        "found": 1,
        "missing": 1,
        "ignored": 3,
        "classes": 3,
        "splits": {"train": 2},
    }


# Of Unicode's categories, C are control characters and the like, Z are blanks.
printable = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters=";"), min_size=1, max_size=20)


@settings(max_examples=30, deadline=None)
@given(clip_id=printable, label=printable, split=printable)
def test_any_printable_text_survives_the_round_trip(tmp_path_factory, clip_id, label, split):
    folder = tmp_path_factory.mktemp("manifest")
    clip = Clip(clip_id, str(folder / "a.wav"), (label,), split)
    manifest = Manifest("m", LabelSet.of([label]), (clip,))
    write_manifest(manifest, folder / "m.csv")
    assert read_manifest(folder / "m.csv") == manifest


def test_paths_below_the_manifest_are_relative_and_others_absolute(tmp_path, clip):
    inside = replace(clip, path=f"{tmp_path}/data/audio/a.wav")
    outside = replace(clip, clip_id="b.wav", path=f"{tmp_path}/b.wav")
    (tmp_path / "data").mkdir()
    write_manifest(Manifest("m", LabelSet.of(["dog", "rain"]), (inside, outside)), tmp_path / "data" / "m.csv")
    lines = (tmp_path / "data" / "m.csv").read_text().splitlines()
    assert lines[0] == HEADER
    assert lines[1] == "a.wav,audio/a.wav,1.5,0.1,dog;rain,train,2"
    assert lines[2].startswith(f"b.wav,{tmp_path}/b.wav,")


def test_writing_the_same_again_is_no_error_and_another_is_refused(tmp_path, clip):
    manifest = Manifest("m", LabelSet.of(["dog", "rain"]), (clip,))
    write_manifest(manifest, tmp_path / "m.csv")
    write_manifest(manifest, tmp_path / "m.csv")
    before = (tmp_path / "m.csv").read_bytes()
    with pytest.raises(OutputError, match=r"m\.(info\.json|csv) exists already and holds something else: choose"):
        write_manifest(replace(manifest, clips=(replace(clip, split="val"),)), tmp_path / "m.csv")
    assert (tmp_path / "m.csv").read_bytes() == before


def test_a_label_with_the_separator_cannot_be_written(tmp_path):
    with pytest.raises(DataError, match="label 'a;b' holds ';', which separates labels; rename it"):
        write_manifest(Manifest("m", LabelSet.of(["a;b"]), ()), tmp_path / "m.csv")


def test_labels_may_be_audioset_identifiers(written):
    assert read_manifest(written("a,a.wav,,,/m/0bt9lr,train,")).clips[0].labels == ("/m/0bt9lr",)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a,a.wav,,,dog,train", "row 1: has 6 fields, must have 7"),
        ("a,,,,dog,train,", "row 1: path is empty; name the audio file of clip 'a'"),
        ("a,a.wav,soon,,dog,train,", "row 1: start 'soon' must be seconds of at least 0, or empty"),
        ("a,a.wav,-1,,dog,train,", "row 1: start '-1' must be seconds"),
        ("a,a.wav,nan,,dog,train,", "row 1: start 'nan' must be seconds"),
        ("a,a.wav,,0,dog,train,", "row 1: duration '0' must be seconds of at least 1e-06"),
        ("a,a.wav,,inf,dog,train,", "row 1: duration 'inf' must be seconds"),
        ("a,a.wav,,,dog,train,one", "row 1: fold 'one' must be a whole number, or empty"),
        ("a,a.wav,,,,train,", "row 1: clip 'a' has no labels; give at least one or remove it"),
        ("a,a.wav,,,dgo,train,", "row 1: unknown label 'dgo' of clip 'a'"),
        ("a,a.wav,,,dog;dog,train,", "row 1: clip 'a' names a label twice: 'dog;dog'"),
        ("a,a.wav,,,dog,,", "row 1: split '' of 'a' must be a name such as train"),
        (",a.wav,,,dog,train,", "row 1: clip_id '' must be printable text"),
        ('"a\nb",a.wav,,,dog,train,', r"row 1: clip_id 'a\nb' must be printable text"),
        (f"{'a' * 1025},a.wav,,,dog,train,", "is longer than 1024 bytes; shorten it"),
    ],
)
def test_a_wrong_row_is_named(written, row, message):
    path = written(row)
    with pytest.raises(DataError, match=re.escape(str(path)) + ".*" + re.escape(message)):
        read_manifest(path)


def test_a_clip_id_that_stands_twice_is_refused(written):
    with pytest.raises(DataError, match="rows 1 and 3: clip_id 'a' stands twice; clip ids must be unique"):
        read_manifest(written("a,a.wav,,,dog,train,", "b,b.wav,,,dog,train,", "a,c.wav,,,dog,train,"))


def test_a_clip_id_in_two_splits_is_refused_as_a_leak(written):
    with pytest.raises(DataError, match="rows 1 and 2: clip_id 'a' is in the splits 'train' and 'test': a leak"):
        read_manifest(written("a,a.wav,,,dog,train,", "a,a.wav,,,dog,test,"))


def test_a_leak_into_the_missing_clips_is_refused_too(written):
    path = written("a,a.wav,,,dog,train,")
    missing_path(path).write_text(f"{HEADER}\na,a.wav,,,dog,test,\n")
    with pytest.raises(DataError, match="a leak"):
        read_manifest(path)


def test_the_first_problem_is_named_and_the_others_are_counted(written):
    with pytest.raises(DataError, match=r"row 1: unknown label 'x'.*\(and 1 more such problems\)"):
        read_manifest(written("a,a.wav,,,x,train,", "b,b.wav,,,y,train,"))


def test_another_header_is_refused(written):
    with pytest.raises(DataError, match=r"m\.csv: first line must be clip_id,path,.*, is 'file,label'"):
        read_manifest(written("a,dog", header="file,label"))


def test_the_class_order_must_be_there(written):
    with pytest.raises(DataError, match=r"m\.labels\.csv is missing: write the classes in output order"):
        read_manifest(written("a,a.wav,,,dog,train,", labels=None))


def test_a_missing_manifest_is_named(tmp_path):
    with pytest.raises(DataError, match=r"m\.csv: cannot be read as a manifest"):
        read_manifest(tmp_path / "m.csv")


@pytest.mark.parametrize("content", ["{", "[]", '{"dataset": 3}'])
def test_a_broken_info_file_is_named(written, content):
    path = written("a,a.wav,,,dog,train,")
    path.with_suffix(".info.json").write_text(content)
    with pytest.raises(DataError, match=r"m\.info\.json: (cannot be read as JSON|must be an object with \"dataset\")"):
        read_manifest(path)
