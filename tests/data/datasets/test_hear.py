import json
import re

import pytest

from epanns.data.datasets.hear import read_hear
from epanns.errors import ConfigError, DataError

SCENE = {"task_name": "birds", "embedding_type": "scene", "prediction_type": "multiclass", "sample_duration": 1.0}
LABELS = {"train": {"a.wav": ["owl"]}, "valid": {"b.wav": ["jay"]}, "test": {"c.wav": ["owl"], "d.wav": ["jay"]}}
FILES = ["48000/train/a.wav", "48000/valid/b.wav", "48000/test/c.wav", "48000/test/d.wav"]


@pytest.fixture
def made(tree):
    """Make a task of its metadata, labels of each split and file names."""

    def run(files=FILES, labels=LABELS, vocabulary="idx,label\n0,jay\n1,owl\n", task="birds-v1-full", **metadata):
        root = tree(*(f"tasks/{task}/{file}" for file in files)) / "tasks" / task
        root.mkdir(parents=True, exist_ok=True)
        (root / "task_metadata.json").write_text(json.dumps({**SCENE, "splits": list(labels), **metadata}))
        (root / "labelvocabulary.csv").write_text(vocabulary)
        for split, given in labels.items():
            (root / f"{split}.json").write_text(json.dumps(given))
        return root

    return run


def test_a_task_with_three_splits_is_read_in_the_order_of_its_vocabulary(made):
    manifest = read_hear(made())
    assert manifest.dataset == "birds-v1-full"
    assert manifest.labels.names == ("jay", "owl")
    assert [(clip.clip_id, clip.labels, clip.split, clip.fold) for clip in manifest.clips] == [
        ("a.wav", ("owl",), "train", None),
        ("b.wav", ("jay",), "val", None),
        ("c.wav", ("owl",), "test", None),
        ("d.wav", ("jay",), "test", None),
    ]
    assert (manifest.missing, manifest.ignored, manifest.notes) == ((), 0, ())


def test_folds_have_their_numbers_and_become_splits_on_demand(made):
    labels = {f"fold{fold:02d}": {f"{fold}.wav": [fold]} for fold in range(3)}
    root = made([f"16000/fold{fold:02d}/{fold}.wav" for fold in range(3)], labels, "idx,label\n0,0\n1,1\n2,2\n")
    manifest = read_hear(root)
    assert [(clip.split, clip.fold, clip.labels) for clip in manifest.clips] == [
        ("fold1", 1, ("0",)),
        ("fold2", 2, ("1",)),
        ("fold3", 3, ("2",)),
    ]
    assert [clip.split for clip in read_hear(root, val_fold=2, test_fold=3).clips] == ["train", "val", "test"]


def test_a_task_without_folds_has_none_to_choose(made):
    with pytest.raises(ConfigError, match="--val-fold 1: birds-v1-full has no folds"):
        read_hear(made(), val_fold=1)


def test_a_multilabel_task_has_several_labels(made):
    labels = {**LABELS, "train": {"a.wav": ["owl", "jay"]}}
    assert read_hear(made(labels=labels, prediction_type="multilabel")).clips[0].labels == ("owl", "jay")


def test_the_splits_are_those_of_the_files_where_the_metadata_has_none(made):
    assert read_hear(made(splits=None)).splits == {"test": 2, "train": 1, "val": 1}


def test_of_several_sample_rates_the_highest_is_read_unless_one_is_named(made):
    root = made([*FILES, "16000/train/a.wav"])
    assert read_hear(root).clips[0].path == f"{root}/48000/train/a.wav"
    manifest = read_hear(root, sample_rate=16_000)
    assert [clip.path for clip in manifest.clips] == [f"{root}/16000/train/a.wav"]
    assert [clip.clip_id for clip in manifest.missing] == ["b.wav", "c.wav", "d.wav"]


def test_clips_without_a_file_are_missing_and_files_without_labels_counted(made):
    manifest = read_hear(made([*FILES[:3], "48000/train/x.wav"]))
    assert ([clip.clip_id for clip in manifest.missing], manifest.ignored) == (["d.wav"], 1)


def test_the_folders_above_a_single_task_are_accepted_and_of_several_one_must_be_named(made):
    root = made()
    assert read_hear(root.parents[1]) == read_hear(root.parent) == read_hear(root)
    made(task="frogs")
    with pytest.raises(
        DataError, match="HEAR task, with task_metadata.json: it holds 2 tasks, name one.*: birds-v1-full"
    ):
        read_hear(root.parent)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"embedding_type": "event"},
            "'event': only scene tasks are read; the labels of an event task have times, and i",
        ),
        ({"embedding_type": None}, "task_metadata.json: embedding_type is None, must be scene"),
        ({"prediction_type": "regression"}, "prediction_type is 'regression', must be multiclass or multilabel"),
        ({"splits": "train"}, "task_metadata.json: splits is 'train', must be a list of names"),
        ({"splits": ["../other"]}, "task_metadata.json: splits='../other': must be a name of 1 to 200"),
        ({"files": []}, "must hold the sound in a folder of its sample rate; it holds none"),
        ({"vocabulary": "id,label\n0,jay\n"}, "no column idx (did you mean 'id'?); HEAR's layout has idx,label"),
        (
            {"vocabulary": "idx,labels\n0,jay\n"},
            "no column label (did you mean 'labels'?); HEAR's layout has idx,label",
        ),
        ({"vocabulary": "idx,label\n1,jay\n"}, "labelvocabulary.csv, row 1: '1,jay' must be 0,<label>"),
        ({"labels": {"train": {"a.wav": ["crow"]}}}, "'a.wav': label 'crow' is not among the 2 of labelvocabulary.csv"),
        ({"labels": {"train": {"a.wav": ["owl", "jay"]}}}, "labels ['owl', 'jay'] must be a list of exactly one label"),
        ({"labels": {"train": {"a.wav": "owl"}}}, "labels 'owl' must be a list of exactly one label"),
        ({"labels": {"train": ["a.wav"]}}, "train.json: must be an object of file names and labels, is ['a.wav']"),
        (
            {"labels": {"train": {"a.wav": ["owl"]}, "test": {"a.wav": ["owl"]}}},
            "is in the splits 'train' and 'test': a l",
        ),
    ],
)
def test_a_wrong_task_is_refused(made, settings, message):
    with pytest.raises(DataError, match=re.escape(message)):
        read_hear(made(**settings))


def test_a_sample_rate_that_the_task_does_not_hold_is_refused(made):
    with pytest.raises(ConfigError, match="must hold the sound in a folder of its sample rate, 32000; it holds 48000"):
        read_hear(made(), sample_rate=32_000)


def test_a_folder_without_a_task_is_refused(tmp_path):
    with pytest.raises(DataError, match="must be the folder of one HEAR task, with task_metadata.json: name the"):
        read_hear(tmp_path)
