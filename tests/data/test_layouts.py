"""Folds, splits and archives are not taken for classes, and classes are not taken for them."""

import re

import pytest

from epanns.data.class_folders import read_folder
from epanns.data.esc50 import read_esc50
from epanns.errors import DataError

CSV_FORM = "write a CSV with the columns path, labels and fold or split, and give it to `epanns data folder FILE.csv`"


@pytest.mark.parametrize(
    "names", ["fold{}", "fold_{}", "Fold 0{}", "FOLD-{}", "folds{}", "kfold{}", "f{}", "split{}", "cv_{}"]
)
def test_folders_of_folds_are_refused(tree, names):
    root = tree(*(f"{names.format(number)}/a.wav" for number in (1, 2, 3)))
    with pytest.raises(DataError, match=f"the classes would be .*, which are folds: {re.escape(CSV_FORM)}"):
        read_folder(root)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("fold1/dog/a.wav", "fold2/dog/b.wav"), "fold1, fold2, which are folds: "),
        (("train/fold1/a.wav", "val/fold2/b.wav"), "fold1, fold2, which are folds: "),
        (("fold3/a.wav",), "fold3, which are folds: "),
        (
            ("metadata/UrbanSound8K.csv", "audio/fold1/a.wav"),
            "audio, which is the folder of all sound, beside meta",
        ),
        (("metadata/UrbanSound8K.csv", "audio/fold1/a.wav"), f"has no reader of its own: {CSV_FORM}"),
        (("meta/esc50.csv", "audio/1-a.wav"), "beside meta/esc50.csv: read it with `epanns data esc50`"),
        (("list.csv", "Audio_Files/a.wav"), f"is the folder of all sound, beside list.csv: {CSV_FORM}"),
        (("train_set/dog/a.wav", "test_set/dog/b.wav"), "test_set, train_set, which are splits: call them train, val"),
        (("FSDKaggle2018.audio_train/a.wav", "FSDKaggle2018.audio_test/b.wav"), "which are splits: "),
        (
            ("FSD50K.dev_audio/1.wav", "FSD50K.eval_audio/2.wav"),
            "which are parts of FSD50K: read the folder above",
        ),
        (("eval_segments_part00/1.wav", "eval_segments_part01/2.wav"), "which are parts of AudioSet: read the folder"),
        (("balanced_train/1.wav", "eval_segments/2.wav"), "which are parts of AudioSet: read the folder above them"),
    ],
)
def test_other_folders_that_are_no_classes_are_refused(tree, files, message):
    with pytest.raises(DataError, match=re.escape(message)):
        read_folder(tree(*files))


def test_folds_of_urbansound_are_named(tree):
    root = tree("metadata/UrbanSound8K.csv", "audio/fold1/1-0-0-0.wav", "audio/fold2/2-0-0-0.wav")
    for read, place in ((read_folder, root / "audio"), (read_esc50, root), (read_esc50, root / "audio")):
        with pytest.raises(DataError, match=r"UrbanSound8K's layout \(.*\) has no reader of its own: write a CSV"):
            read(place)


@pytest.mark.parametrize(
    "classes",
    [
        ("f1", "f2", "m1", "m2"),
        ("f1", "f2"),  # two voices
        ("folding chair", "fold"),
        ("train", "tram"),
        ("train horn", "train whistle"),
        ("test tone", "testing"),
        ("audio", "noise"),
        ("1", "2", "3"),
        ("split1", "split7", "split9"),
        ("development", "valley"),
    ],
)
def test_classes_with_such_names_are_read(tree, classes):
    root = tree("list.csv", *(f"{name}/{name}.wav" for name in classes))
    assert read_folder(root).labels.names == tuple(sorted(classes))


def test_one_class_called_audio_without_a_list_is_read_and_noted(tree):
    manifest = read_folder(tree("audio/a.wav"), val_fraction=0.5)
    assert manifest.labels.names == ("audio",)
    assert manifest.notes[0] == "the only class is called audio; its folder may hold sounds of all classes"


def test_a_fold_among_classes_is_noted(tree):
    manifest = read_folder(tree("fold1/a.wav", "dog/b.wav", "f1/c.wav"))
    assert manifest.notes == ("the class fold1 is called like a fold; its folder may hold sounds of all classes",)
