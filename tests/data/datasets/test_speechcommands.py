import re
from pathlib import Path

import pytest

from epanns.data.datasets import speechcommands
from epanns.data.datasets.speechcommands import read_speechcommands
from epanns.data.datasets.splits import groups_by_pattern
from epanns.errors import DataError

FILES = ["bed/00_nohash_0.wav", "bed/11_nohash_0.wav", "bed/11_nohash_1.wav", "yes/22_nohash_0.wav"]
COUNTS = (
    "; Speech Commands as published has train 51088, val 6798, test 6835 (0.01) or train 84843, val 9981, test 11005"
)


@pytest.fixture
def made(tree):
    """Make a data set of file names and the lines of both lists."""

    def run(files=FILES, val=("bed/11_nohash_0.wav", "bed/11_nohash_1.wav"), test=("yes/22_nohash_0.wav",)):
        root = tree(*files, "validation_list.txt", "testing_list.txt", "LICENSE")
        (root / "validation_list.txt").write_text("\n".join(val) + "\n")
        (root / "testing_list.txt").write_text("\r\n".join(test))
        return root

    return run


def splits_of(manifest):
    return {clip.clip_id: clip.split for clip in manifest.clips}


def test_the_lists_are_val_and_test_and_the_rest_is_train(made):
    manifest = read_speechcommands(made())
    assert splits_of(manifest) == dict(zip(FILES, ["train", "val", "val", "test"], strict=True))
    assert manifest.labels.names == ("bed", "yes")
    assert [clip.labels for clip in manifest.clips] == [("bed",)] * 3 + [("yes",)]
    assert (manifest.dataset, manifest.missing, manifest.ignored) == ("sounds", (), 0)
    (note,) = manifest.notes
    assert note.startswith(f"clips: train 1, val 2, test 1{COUNTS}")


def test_the_published_numbers_need_no_note(made, monkeypatch):
    monkeypatch.setattr(speechcommands, "PUBLISHED", {"1": {"train": 1, "val": 2, "test": 1}})
    assert read_speechcommands(made()).notes == ()


def test_background_noise_is_no_class_and_is_counted(made):
    manifest = read_speechcommands(made([*FILES, "_background_noise_/tap.wav", "_background_noise_/README.md"]))
    assert manifest.labels.names == ("bed", "yes")
    assert manifest.ignored == 1
    assert manifest.notes[0] == "1 recordings in _background_noise_ are no clips and are among the ignored files"


def test_listed_clips_without_a_file_are_missing_and_other_files_ignored(made):
    manifest = read_speechcommands(made([*FILES[:2], "loose.wav", "bed/more/x.wav"]))
    assert [(clip.clip_id, clip.labels, clip.split) for clip in manifest.missing] == [
        ("bed/11_nohash_1.wav", ("bed",), "val"),
        ("yes/22_nohash_0.wav", ("yes",), "test"),
    ]
    assert manifest.labels.names == ("bed", "yes")
    assert manifest.ignored == 2


def test_encoded_copies_are_found_by_their_stem(made):
    manifest = read_speechcommands(made([str(Path(file).with_suffix(".flac")) for file in FILES]))
    assert list(splits_of(manifest).values()) == ["train", "val", "val", "test"]
    assert manifest.missing == ()


@pytest.mark.parametrize("above", [0, 1, 2])
def test_folders_above_are_accepted(made, above):
    root = made()
    assert read_speechcommands([root, *root.parents][min(above, 1)]) == read_speechcommands(root)


def test_speakers_in_several_splits_and_names_without_speaker_are_counted(made):
    manifest = read_speechcommands(made([*FILES, "yes/11_nohash_4.wav", "yes/me.wav"]))
    assert manifest.notes[1:] == (
        "1 names have no speaker before _nohash_, first yes/me.wav",
        "speakers with clips in several splits: 1 of 3, such as 11 in train and val; that is a leak",
    )


def test_the_speakers_are_found_in_the_clip_ids(made):
    clip_ids = [clip.clip_id for clip in read_speechcommands(made()).clips]
    assert groups_by_pattern("^(.+)_nohash_", clip_ids)[0] == ["00", "11", "11", "22"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"val": ["bed"]},
            "validation_list.txt, line 1: 'bed' must be <word>/<file>, such as bed/026290a7_nohash_0.wav",
        ),
        ({"val": ["", "a/b/c.wav"]}, "validation_list.txt, line 2: 'a/b/c.wav' must be <word>/<file>"),
        ({"val": ["bed/x.wav"], "test": ["bed/x.wav"]}, "is in the splits 'val' and 'test': a leak; keep it in one"),
        ({"val": ["bed/x.wav", "bed/x.wav"]}, "line 2: 'bed/x.wav' is listed twice; remove one line"),
        ({"files": ["bed/x.wav", "bed/x.flac"]}, "bed/x.flac and bed/x.wav are one clip in two encodings; keep one"),
        ({"files": ["loose.wav"]}, "no sound file in a folder of a word, such as bed/026290a7_nohash_0.wav"),
    ],
)
def test_a_wrong_data_set_is_refused(made, settings, message):
    with pytest.raises(DataError, match=re.escape(message)):
        read_speechcommands(made(**settings))


def test_a_folder_without_the_lists_and_one_above_two_versions_are_refused(tree):
    root = tree("yes/a.wav")
    message = "validation_list.txt and testing_list.txt must be in it, or in one folder below it: "
    with pytest.raises(
        DataError, match=f"{message}name the folder with the words and these lists; `epanns data folder`"
    ):
        read_speechcommands(root)
    tree(*(f"{version}/{name}_list.txt" for version in ("v1", "v2") for name in ("validation", "testing")))
    with pytest.raises(DataError, match=f"{message}{root}/v1 and {root}/v2 both hold them; name one of these"):
        read_speechcommands(root)
