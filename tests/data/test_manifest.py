import hashlib
import re
import tracemalloc
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epanns import atomic
from epanns.data.clip import Clip
from epanns.data.manifest import (
    Manifest,
    ManifestFile,
    SplitCounts,
    labels_path,
    missing_path,
    read_manifest,
    write_manifest,
)
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
    manifest = Manifest(
        "mine", LabelSet.of(["dog", "rain", "sea, waves"]), (clip,), (gone,), ignored=3, notes=("one", "two")
    )
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
        "notes": ["one", "two"],
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


def test_the_same_manifest_can_be_written_again_and_another_is_refused(tmp_path, clip):
    manifest = Manifest("m", LabelSet.of(["dog", "rain"]), (clip,))
    write_manifest(manifest, tmp_path / "m.csv")
    write_manifest(manifest, tmp_path / "m.csv")
    before = (tmp_path / "m.csv").read_bytes()
    with pytest.raises(OutputError, match=r"m\.(info\.json|csv) exists already and holds something else: choose"):
        write_manifest(replace(manifest, clips=(replace(clip, split="val"),)), tmp_path / "m.csv")
    assert (tmp_path / "m.csv").read_bytes() == before


def test_a_manifest_of_many_rows_is_written_in_their_order(tmp_path, clip):
    clips = tuple(replace(clip, clip_id=f"{number}.wav") for number in range(10_000))
    write_manifest(Manifest("m", LabelSet.of(["dog", "rain"]), clips), tmp_path / "m.csv")
    lines = (tmp_path / "m.csv").read_text().splitlines()
    assert lines == [HEADER, *(f"{number}.wav,a.wav,1.5,0.1,dog;rain,train,2" for number in range(10_000))]


def test_existing_files_are_compared_completely_before_any_is_written(tmp_path, clip):
    manifest = Manifest("m", LabelSet.of(["dog", "rain"]), (clip,))
    write_manifest(manifest, tmp_path / "m.csv")
    whole = (tmp_path / "m.csv").read_bytes()
    labels_path(tmp_path / "m.csv").unlink()
    for held in (whole + b"x", whole[:-1]):
        (tmp_path / "m.csv").write_bytes(held)
        with pytest.raises(OutputError, match=r"m\.csv exists already and holds something else"):
            write_manifest(manifest, tmp_path / "m.csv")
        assert not labels_path(tmp_path / "m.csv").exists()


def test_a_changed_number_of_ignored_files_is_written_again(tmp_path, clip):
    """Packs and runs below the data set's folder are ignored files of the next scan."""
    manifest = Manifest("m", LabelSet.of(["dog", "rain"]), (clip,), ignored=1, notes=("a note",))
    write_manifest(manifest, tmp_path / "m.csv")
    write_manifest(replace(manifest, ignored=7), tmp_path / "m.csv")
    assert read_manifest(tmp_path / "m.csv") == replace(manifest, ignored=7)
    with pytest.raises(OutputError, match=r"m\.info\.json exists already and holds something else"):
        write_manifest(replace(manifest, ignored=7, notes=()), tmp_path / "m.csv")


@pytest.mark.parametrize("label", ["a\nb", "a\x1b[1mb"])
def test_a_label_that_is_not_printable_cannot_be_written(tmp_path, label):
    with pytest.raises(DataError, match="must be printable text, on one line; rename the class"):
        write_manifest(Manifest("m", LabelSet.of([label]), ()), tmp_path / "m.csv")


def test_names_with_joiners_survive_the_round_trip(tmp_path):
    names = ["👩\u200d👧", "می\u200cروم"]
    clips = tuple(Clip(f"{name}/a.wav", f"{tmp_path}/{name}/a.wav", (name,), "train") for name in names)
    manifest = Manifest("m", LabelSet.of(names), clips)
    write_manifest(manifest, tmp_path / "m.csv")
    assert read_manifest(tmp_path / "m.csv") == manifest


def test_the_csv_file_is_written_last(tmp_path, clip, monkeypatch):
    replacing, written = atomic.replacing, []
    monkeypatch.setattr(atomic, "replacing", lambda path: written.append(path.name) or replacing(path))
    write_manifest(Manifest("m", LabelSet.of(["dog", "rain"]), (clip,)), tmp_path / "m.csv")
    assert sorted(written) == ["m.csv", "m.info.json", "m.labels.csv", "m.missing.csv"]
    assert written[-1] == "m.csv"


def test_a_label_with_the_separator_cannot_be_written(tmp_path):
    with pytest.raises(DataError, match="label 'a;b' holds ';', which separates labels; rename it"):
        write_manifest(Manifest("m", LabelSet.of(["a;b"]), ()), tmp_path / "m.csv")


def test_labels_may_be_audioset_identifiers(written):
    assert read_manifest(written("a,a.wav,,,/m/0bt9lr,train,")).clips[0].labels == ("/m/0bt9lr",)


def test_labels_may_differ_from_the_classes_in_unicode_composition(written):
    for listed, used in (("caf\u00e9", "cafe\u0301"), ("cafe\u0301", "caf\u00e9")):
        labels = f"index,mid,display_name\n0,,{listed}\n"
        assert read_manifest(written(f"a,a.wav,,,{used},train,", labels=labels)).clips[0].labels == (listed,)


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
        ('a,a.wav,,,dog,"tr\nain",', r"row 1: split 'tr\nain' of 'a' must be a name such as train"),
        (f"a,a.wav,,,dog,train,{'1' * 5000}", "must be a whole number, or empty; at most nine digits"),
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


def test_a_repeated_clip_id_is_refused(written):
    with pytest.raises(DataError, match="rows 1 and 3: clip_id 'a' is listed twice; clip ids must be unique"):
        read_manifest(written("a,a.wav,,,dog,train,", "b,b.wav,,,dog,train,", "a,c.wav,,,dog,train,"))


def test_a_clip_id_in_two_splits_is_refused_as_a_leak(written):
    with pytest.raises(DataError, match="rows 1 and 2: clip_id 'a' is in the splits 'train' and 'test': a leak"):
        read_manifest(written("a,a.wav,,,dog,train,", "a,a.wav,,,dog,test,"))


def test_a_leak_into_the_missing_clips_is_refused(written):
    path = written("b,b.wav,,,dog,train,", "a,a.wav,,,dog,train,")
    missing_path(path).write_text(f"{HEADER}\na,a.wav,,,dog,test,\n")
    with pytest.raises(DataError, match="row 2 and missing row 1: clip_id 'a' is in .* 'train' and 'test': a leak"):
        read_manifest(path)


def problems_by_comparing_all_pairs(clips, labels):
    """The slow twin of `ClipCheck`, clip by clip; of the rules for one clip only that of known labels."""
    problems = []
    for number, clip in enumerate(clips, start=1):
        for earlier, other in enumerate(clips[: number - 1], start=1):
            if other.clip_id == clip.clip_id:
                leak = other.split != clip.split
                problems.append(
                    f"rows {earlier} and {number}: clip_id {clip.clip_id!r} {'is in' if leak else 'is listed'}"
                )
                break
        if not labels.issuperset(clip.labels):
            problems.append(f"row {number}: unknown label")
    return problems


few_clips = st.lists(
    st.builds(
        Clip,
        st.sampled_from("abcdefgh"),
        st.just("/a.wav"),
        st.sampled_from([("dog",), ("dog",), ("x",)]),
        st.sampled_from(["train", "val"]),
    ),
    max_size=8,
)


@given(few_clips, st.booleans())
def test_the_first_problem_is_named_and_all_are_counted(clips, hashes_are_equal):
    with pytest.MonkeyPatch.context() as patch:
        if hashes_are_equal:  # may happen to any two ids, and must change nothing
            patch.setattr("epanns.data.clip.hash", lambda _: 7, raising=False)
        problems = problems_by_comparing_all_pairs(clips, {"dog"})
        if not problems:
            assert Manifest("m", LabelSet.of(["dog"]), tuple(clips)).clips == tuple(clips)
            return
        others = f" (and {len(problems) - 1} more such problems)" if len(problems) > 1 else ""
        with pytest.raises(DataError, match=f"^m, {re.escape(problems[0])}.*{re.escape(others)}$"):
            Manifest("m", LabelSet.of(["dog"]), tuple(clips))


def test_a_manifest_file_counts_by_split_and_streams_its_clips(tmp_path, clip):
    other = replace(clip, clip_id="längste.wav", split="val")
    gone = replace(clip, clip_id="an-even-longer-one.wav", split="val")
    manifest = Manifest("mine", LabelSet.of(["dog", "rain"]), (clip, other), (gone,), 3, ("a note",))
    write_manifest(manifest, tmp_path / "m.csv")
    file = ManifestFile(tmp_path / "m.csv")
    assert (file.dataset, file.labels, file.ignored, file.notes) == ("mine", manifest.labels, 3, ("a note",))
    assert file.splits == {"train": SplitCounts(1, 0, 5), "val": SplitCounts(1, 1, 12)}
    assert file.sha256 == hashlib.sha256((tmp_path / "m.csv").read_bytes()).hexdigest()
    assert [tuple(file.clips()) for _ in range(2)] == [manifest.clips, manifest.clips]
    assert list(file.clips(["val"])) == [other]
    assert list(file.missing()) == [gone]


def test_a_manifest_file_that_changes_while_in_use_is_refused(written):
    path = written("a,a.wav,,,dog,train,", "b,b.wav,,,dog,train,")
    file = ManifestFile(path)
    clips = file.clips()
    next(clips)
    path.write_text(f"{HEADER}\na,a.wav,,,dog,train,\nc,c.wav,,,dog,train,\n")
    for use in (clips, file.clips()):
        with pytest.raises(DataError, match=r"m\.csv: changed while it was in use; run the command again"):
            list(use)


def test_checking_a_manifest_file_takes_eight_bytes_per_row(written):
    n_rows = 20_000
    path = written(*(f"clip-number-{number},a.wav,,,dog,train," for number in range(n_rows)))
    tracemalloc.start()
    try:
        ManifestFile(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * n_rows * 2 + 300_000  # room to grow the array into, and file buffers


def test_problems_of_a_file_are_named_with_the_file(written):
    path = written("a,a.wav,,,x,train,", "b,b.wav,,,y,train,")
    message = f"{path}: m, row 1: unknown label 'x' of clip 'a': not among the 2 classes (and 1 more such problems)"
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        read_manifest(path)


def test_another_header_is_refused(written):
    with pytest.raises(DataError, match=r"m\.csv: first line must be clip_id,path,.*, is 'file,label'"):
        read_manifest(written("a,dog", header="file,label"))


def test_a_missing_label_file_is_reported(written):
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
