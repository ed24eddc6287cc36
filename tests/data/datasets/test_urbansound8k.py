import re
from pathlib import Path

import pytest

from epanns.data.datasets.splits import groups_by_pattern
from epanns.data.datasets.urbansound8k import CLASSES, read_urbansound8k
from epanns.errors import ConfigError, DataError

HEADER = "slice_file_name,fsID,start,end,salience,fold,classID,class"
ROWS = [
    "100-3-0-0.wav,100,0.0,4.0,1,1,3,dog_bark",
    "100-3-0-1.wav,100,4.0,8.0,1,1,3,dog_bark",
    "200-8-0-0.wav,200,0.0,4.0,2,2,8,siren",
    "300-0-1-0.wav,300,1.5,2.5,2,3,0,air_conditioner",
]
FILES = ["fold1/100-3-0-0.wav", "fold1/100-3-0-1.wav", "fold2/200-8-0-0.wav", "fold3/300-0-1-0.wav"]


@pytest.fixture
def made(tmp_path):
    """Make a data set of a table's rows and file names below ``audio``."""

    def run(rows=None, files=(), header=HEADER):
        root = tmp_path / "UrbanSound8K"
        (root / "audio").mkdir(parents=True)
        if rows is not None:
            (root / "metadata").mkdir()
            (root / "metadata" / "UrbanSound8K.csv").write_text("\n".join([header, *rows]) + "\n")
        for file in files:
            (root / "audio" / file).parent.mkdir(parents=True, exist_ok=True)
            (root / "audio" / file).touch()
        return root

    return run


def test_the_table_gives_folds_and_classes_in_the_order_of_their_numbers(made):
    manifest = read_urbansound8k(made(ROWS, FILES))
    assert manifest.dataset == "UrbanSound8K"
    assert manifest.labels.names == ("air_conditioner", "dog_bark", "siren")
    assert [(clip.clip_id, clip.labels, clip.split, clip.fold) for clip in manifest.clips] == [
        ("100-3-0-0.wav", ("dog_bark",), "fold1", 1),
        ("100-3-0-1.wav", ("dog_bark",), "fold1", 1),
        ("200-8-0-0.wav", ("siren",), "fold2", 2),
        ("300-0-1-0.wav", ("air_conditioner",), "fold3", 3),
    ]
    assert (manifest.missing, manifest.ignored, manifest.notes) == ((), 0, ())


@pytest.mark.parametrize("place", [".", "..", "audio"])
def test_the_folder_above_and_the_audio_folder_are_accepted(made, place):
    root = made(ROWS, FILES)
    assert read_urbansound8k(root / place) == read_urbansound8k(root)


def test_without_the_table_names_and_folders_give_the_same_clips(made, tmp_path):
    root = made(ROWS, FILES)
    with_table = read_urbansound8k(root)
    (root / "metadata" / "UrbanSound8K.csv").unlink()
    without = read_urbansound8k(root)
    assert without.clips == with_table.clips
    assert without.labels.names == CLASSES
    assert without.notes == (
        "no metadata/UrbanSound8K.csv: folds are those of the folders, classes those of the file names",
        "slices: 4; UrbanSound8K as published has 8732",
    )


def test_every_published_number_has_its_class(made):
    files = [f"fold{number % 2 + 1}/{number}-{number}-0-0.wav" for number in range(10)]
    manifest = read_urbansound8k(made(files=files))
    assert {clip.clip_id: clip.labels[0] for clip in manifest.clips} == {
        "0-0-0-0.wav": "air_conditioner",
        "1-1-0-0.wav": "car_horn",
        "2-2-0-0.wav": "children_playing",
        "3-3-0-0.wav": "dog_bark",
        "4-4-0-0.wav": "drilling",
        "5-5-0-0.wav": "engine_idling",
        "6-6-0-0.wav": "gun_shot",
        "7-7-0-0.wav": "jackhammer",
        "8-8-0-0.wav": "siren",
        "9-9-0-0.wav": "street_music",
    }


def test_the_recordings_are_found_in_the_clip_ids(made):
    manifest = read_urbansound8k(made(ROWS, FILES))
    groups, _ = groups_by_pattern("^([0-9]+)-", [clip.clip_id for clip in manifest.clips])
    assert groups == ["100", "100", "200", "300"]


def test_missing_files_are_listed_and_files_outside_the_table_counted(made):
    root = made(ROWS, [*FILES[:2], "fold2/200-8-0-0.flac", "fold1/900-1-0-0.wav", "fold1/.DS_Store"])
    manifest = read_urbansound8k(root)
    assert [clip.path.rpartition("/")[2] for clip in manifest.clips[2:]] == ["200-8-0-0.flac"]
    assert [(clip.clip_id, clip.split) for clip in manifest.missing] == [("300-0-1-0.wav", "fold3")]
    assert manifest.missing[0].path == str(root / "audio/fold3/300-0-1-0.wav")
    assert manifest.ignored == 1


def test_contradictions_are_counted_and_the_table_is_used(made):
    rows = [
        "100-3-0-0.wav,100,0,4,1,2,3,dog_bark",  # lies in fold1
        "200-8-0-0.wav,200,0,4,1,2,3,dog_bark",  # is a siren by its name
        "300-3-0-0.wav,301,0,4,1,2,3,dog_bark",  # is of recording 300 by its name
        "bark.wav,400,0,4,1,2,3,dog_bark",
    ]
    files = ["fold1/100-3-0-0.wav", "fold2/200-8-0-0.wav", "fold2/300-3-0-0.wav", "fold2/bark.wav"]
    manifest = read_urbansound8k(made(rows, files))
    assert {(clip.labels, clip.split) for clip in manifest.clips} == {(("dog_bark",), "fold2")}
    assert manifest.notes == (
        "1 files are in the folder of another fold than UrbanSound8K.csv lists, which is used, first 100-3-0-0.wav in "
        "fold1, listed in fold2",
        "1 names have another class than UrbanSound8K.csv lists, which is used, first 200-8-0-0.wav, listed with "
        "classID 3",
        "1 names have another recording than UrbanSound8K.csv lists, which is used, first 300-3-0-0.wav, listed with "
        "fsID 301",
        "1 names are not <fsID>-<classID>-<occurrence>-<slice>, first bark.wav",
    )


def test_a_number_of_two_classes_is_noted(made):
    rows = [ROWS[0], "200-3-0-0.wav,200,0,4,1,2,3,cat", "300-0-1-0.wav,300,0,4,1,3,0,siren"]
    notes = read_urbansound8k(made(rows, [*FILES[:1], "fold2/200-3-0-0.wav", FILES[3]])).notes
    assert notes == ("1 values of classID belong to several classes, first 3 of cat and dog_bark",)


def test_of_two_files_of_one_name_the_one_in_the_listed_fold_is_used(made):
    manifest = read_urbansound8k(made(ROWS[2:3], ["fold1/200-8-0-0.wav", "fold2/200-8-0-0.wav"]))
    assert Path(manifest.clips[0].path).parent.name == "fold2"
    assert (manifest.ignored, manifest.notes) == (1, ())


def test_files_may_be_in_one_folder_without_folds(made):
    manifest = read_urbansound8k(made(ROWS, [Path(file).name for file in FILES]))
    assert (len(manifest.clips), manifest.notes) == (4, ())


@pytest.mark.parametrize("has_table", [True, False])
def test_a_recording_in_two_folds_is_noted(made, has_table):
    rows = ["100-3-0-0.wav,100,0,4,1,1,3,dog_bark", "100-3-0-1.wav,100,0,4,1,2,3,dog_bark"]
    root = made(rows if has_table else None, ["fold1/100-3-0-0.wav", "fold2/100-3-0-1.wav"])
    note = "recordings with clips in several splits: 1 of 1, such as 100 in fold1 and fold2; that is a leak"
    assert note in read_urbansound8k(root).notes


def test_one_file_in_two_folds_is_a_leak_without_the_table(made):
    with pytest.raises(DataError, match=r"'100-3-0-0\.wav' is in the splits 'fold1' and 'fold2': a leak"):
        read_urbansound8k(made(files=["fold1/100-3-0-0.wav", "fold2/100-3-0-0.wav"]))


def test_without_the_table_other_names_are_counted_and_broken_links_are_missing(made):
    root = made(files=["fold1/100-3-0-0.wav", "fold1/bark.wav", "fold1/more/1-1-0-0.wav.wav", "other/1-1-0-0.wav"])
    (root / "audio" / "fold2").mkdir()
    (root / "audio" / "fold2" / "2-2-0-0.wav").symlink_to(root / "nothing.wav")
    manifest = read_urbansound8k(root)
    assert ([clip.clip_id for clip in manifest.clips], manifest.ignored) == (["100-3-0-0.wav"], 3)
    assert [clip.clip_id for clip in manifest.missing] == ["2-2-0-0.wav"]


def test_folds_become_splits_on_demand(made):
    manifest = read_urbansound8k(made(ROWS, FILES), name="urban", val_fold=2, test_fold=3)
    assert [clip.split for clip in manifest.clips] == ["train", "train", "val", "test"]
    assert manifest.dataset == "urban"


@pytest.mark.parametrize(
    ("rows", "files", "header", "message"),
    [
        (None, ["a.wav"], HEADER, "not UrbanSound8K's layout: neither metadata/UrbanSound8K.csv nor a folder"),
        (None, ["fold1/bark.wav"], HEADER, "audio: no file such as fold1/100032-3-0-0.wav; without metadata/Urban"),
        (None, ["fold1/1-10-0-0.wav"], HEADER, "class 10 in the name must be one of UrbanSound8K's, 0 to 9; list oth"),
        (["a.wav,1,x"], [], "slice_file_nam,fold,class", "no column slice_file_name (did you mean 'slice_file_nam'?)"),
        (
            ["a.wav,one,dog"],
            [],
            "slice_file_name,fold,class",
            "row 1: slice_file_name 'a.wav', class 'dog', fold 'one'",
        ),
        (
            ["a.wav,1,3,dog", "b.wav,1,4,dog"],
            [],
            "slice_file_name,fold,classID,class",
            "row 2: classID '4' of 'dog': one number per category",
        ),
    ],
)
def test_a_wrong_data_set_is_refused(made, rows, files, header, message):
    with pytest.raises(DataError, match=re.escape(message)):
        read_urbansound8k(made(rows, files, header))


def test_wrong_folds_are_refused(made):
    with pytest.raises(ConfigError, match="--test-fold 11: UrbanSound8K has the folds 1, 2, 3"):
        read_urbansound8k(made(ROWS, FILES), test_fold=11)
