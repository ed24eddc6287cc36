"""A CSV file with any column names becomes the same manifest as one with the names that need no option."""

import re
from pathlib import Path

import pytest

from epanns.data.datasets.class_folders import read_folder
from epanns.data.datasets.clip_table import TableForm
from epanns.data.datasets.splits import SplitSettings
from epanns.errors import ConfigError, DataError


@pytest.fixture
def listed(tmp_path):
    """Read a CSV text, after making empty files beside it."""

    def run(text, files=(), form=None, name="list.csv", **options):
        for file in files:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).touch()
        (tmp_path / name).write_text(text)
        return read_folder(tmp_path / name, form=form, **options)

    return run


def test_columns_of_any_name_give_the_manifest_of_the_usual_names(listed):
    files = ["a.wav", "b.wav"]
    usual = listed("path,labels,split,fold\na.wav,dog;rain,train,1\nb.wav,rain,val,2\n", files)
    form = TableForm(path_column="File", label_column=("Tags",), split_column="Set", fold_column="CV")
    own = listed("id,File,CV,Set,Tags\n7,a.wav,fold1,train,dog; rain\n8,b.wav,02,val,rain\n", form=form)
    assert own == usual


def test_several_label_columns_and_another_separator(listed):
    form = TableForm(label_column=("first", "second"), label_separator=",")
    manifest = listed('path,first,second\na.wav,"dog, cat",rain\nb.wav,dog,\n', ["a.wav", "b.wav"], form)
    assert [clip.labels for clip in manifest.clips] == [("dog", "cat", "rain"), ("dog",)]
    assert manifest.labels.names == ("cat", "dog", "rain")


def test_one_hot_columns_are_classes_in_the_order_of_the_table(listed):
    text = "path,is_rain,is_dog,remark,is_cat\na.wav,1,0,x,\nb.wav,true,1.0,,False\n"
    manifest = listed(text, ["a.wav", "b.wav"], TableForm(one_hot_column=("is_*",)))
    assert manifest.labels.names == ("is_rain", "is_dog", "is_cat")  # a class without clips is a class
    assert [clip.labels for clip in manifest.clips] == [("is_rain",), ("is_rain", "is_dog")]
    assert listed(text, form=TableForm(one_hot_column=("is_rain", "is_dog", "is_cat"))) == manifest


def test_a_pattern_of_one_hot_columns_leaves_out_the_columns_with_another_use(listed):
    form = TableForm(one_hot_column=("*",), path_column="name")
    assert listed("name,fold,dog,cat\na.wav,1,1,0\n", form=form).labels.names == ("dog", "cat")


def test_one_hot_and_label_columns_are_joined(listed):
    form = TableForm(one_hot_column=("rain",), label_column=("tag",))
    manifest = listed("path,rain,tag\na.wav,1,dog\nb.wav,0,cat\n", form=form)
    assert manifest.labels.names == ("rain", "cat", "dog")
    assert [clip.labels for clip in manifest.missing] == [("rain", "dog"), ("cat",)]


def test_without_a_split_column_each_fold_is_a_split(listed):
    text = "path,labels,fold\na.wav,dog,1\nb.wav,dog,2\nc.wav,dog,3\nd.wav,dog,\n"
    assert listed(text).splits == {"all": 1, "fold1": 1, "fold2": 1, "fold3": 1}
    text = text.replace("d.wav,dog,\n", "")
    assert listed(text, val_fold=2, test_fold=3).splits == {"test": 1, "train": 1, "val": 1}
    with pytest.raises(
        DataError, match="list: no file was found, so no splits can be drawn; the first would be .*/a.wav; c"
    ):
        listed(text, drawn=SplitSettings(val_fraction=0.4))
    drawn = listed(text, ["a.wav", "b.wav", "c.wav"], drawn=SplitSettings(val_fraction=0.4))
    assert drawn.splits == {"train": 2, "val": 1}
    with pytest.raises(ConfigError, match="--val-fold 4: list has the folds 1, 2, 3"):
        listed(text, val_fold=4)


@pytest.mark.parametrize(
    ("text", "splits"),
    [
        ("path,labels,fold\na.wav,dog,1\nb.wav,dog,\n", "all"),
        ("path,labels,fold,split\na.wav,dog,1,train\nb.wav,dog,2,val\n", "train, val"),
    ],
)
def test_folds_of_clips_in_other_splits_are_not_chosen(listed, text, splits):
    message = rf"list has clips in other splits than its folds \({splits}\); leave them out, or give each clip a fold"
    with pytest.raises(ConfigError, match=message):
        listed(text, val_fold=1)


def test_paths_are_relative_to_the_audio_root(listed, tmp_path):
    form = TableForm(audio_root=str(tmp_path / "sound"))
    manifest = listed(f"path,labels\na.wav,dog\n{tmp_path}/b.wav,dog\n", ["sound/a.wav", "b.wav"], form)
    assert [Path(clip.path) for clip in manifest.clips] == [tmp_path / "sound" / "a.wav", tmp_path / "b.wav"]
    note = f"no file was found; the first would be {tmp_path}/a.wav: correct the column, or name the folder that paths"
    assert [text[: len(note)] for text in listed("path,labels\na.wav,dog\n").notes] == [note]


PARTS = (
    "path,labels,from,length,split\na.wav,dog,0,1.5,train\na.wav,cat,1.5,,val\nb.wav,dog,,2,train\nc.wav,dog,,,val\n"
)
TIMES = TableForm(start_column="from", duration_column="length")


def test_clips_may_be_parts_of_a_file(listed):
    manifest = listed(PARTS, ["a.wav", "b.wav", "c.wav"], TIMES)
    assert [(clip.clip_id, clip.start, clip.duration) for clip in manifest.clips] == [
        ("a.wav@0.0+1.5", 0.0, 1.5),
        ("a.wav@1.5", 1.5, None),
        ("b.wav@0.0+2.0", None, 2.0),
        ("c.wav", None, None),
    ]
    note = "files with clips in several splits: 1 of 3, such as {}/a.wav in train and val; that is a leak"
    assert manifest.notes == (note.format(Path(manifest.clips[0].path).parent),)


def test_parts_of_one_file_are_drawn_into_one_split(listed):
    rows = [f"{file}.wav,{'dog' if file % 2 else 'cat'},{start}" for file in range(10) for start in range(4)]
    manifest = listed(
        "path,labels,start\n" + "\n".join(rows),
        [f"{file}.wav" for file in range(10)],
        TableForm(start_column="start"),
        drawn=SplitSettings(val_fraction=0.3),
    )
    splits = {}
    for clip in manifest.clips:
        splits.setdefault(clip.path, set()).add(clip.split)
    assert {len(found) for found in splits.values()} == {1}
    assert manifest.notes[0].startswith("splits drawn by class and by group (10 groups, the clips of a file), seed 0")


def test_a_file_with_tabs_is_read_by_its_suffix(listed):
    manifest = listed("path\tlabels\na, b.wav\tdog\n", ["a, b.wav"], name="list.tsv")
    assert [clip.clip_id for clip in manifest.clips] == ["a, b.wav"]


@pytest.mark.parametrize(
    ("text", "form", "message"),
    [
        ("file,labels\n", {"path_column": "fil"}, "--path-column fil (did you mean 'file'?): "),
        ("path,label\n", {"label_column": ("labels",)}, "--label-column labels (did you mean 'label'?): "),
        ("path,labels,Fold\n", {"fold_column": "fold"}, "--fold-column fold (did you mean 'Fold'?): "),
        ("path,labels\n", {"split_column": "x"}, "--split-column x: "),
        ("path,labels\n", {"start_column": "onset"}, "--start-column onset: "),
        ("path,labels\n", {"duration_column": "length"}, "--duration-column length: "),
        (
            "path,is_dog\n",
            {"one_hot_column": ("is_dogs",)},
            "--one-hot-column is_dogs (did you mean 'is_dog'?): matches",
        ),
        ("path,dog\n", {"one_hot_column": ("cat*",)}, "--one-hot-column cat*: matches none of the other columns of "),
        ("path,labels\n", {"label_separator": ""}, "label_separator='': must be text that is not empty"),
    ],
)
def test_a_column_that_does_not_exist_is_refused_with_the_nearest_name(listed, text, form, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        listed(text + "a.wav,dog\n", form=TableForm(**form))


@pytest.mark.parametrize(
    ("text", "form", "message"),
    [
        (
            "file,label\na,b\n",
            {},
            "must name the columns path and labels, lacks path and labels (did you mean 'label'?); na",
        ),
        (
            "path,dog\na.wav,2\n",
            {"one_hot_column": ("dog",)},
            "row 1: dog is '2', must be 1 for clips of this class, 0 f",
        ),
        (
            "path,dog\na.wav,0\n",
            {"one_hot_column": ("dog",)},
            "row 1: no class is 1; a clip needs a class: remove the row",
        ),
        (
            "path,labels,s\na.wav,dog,-1\n",
            {"start_column": "s"},
            "row 1: s '-1' must be seconds of at least 0, or empty",
        ),
        ("path,labels,d\na.wav,dog,0\n", {"duration_column": "d"}, "row 1: d '0' must be seconds of at least 1e-06"),
        (
            "path,labels,fold\na.wav,dog,one\n",
            {},
            "row 1: path 'a.wav', labels 'dog', fold 'one': path and labels must be",
        ),
        (
            "path,labels,s,split\na.wav,dog,1,a\n./a.wav,dog,1.0,b\n",
            {"start_column": "s"},
            "rows 1 and 2: one file in the splits 'a' and 'b': a leak",
        ),
    ],
)
def test_a_wrong_row_is_named(listed, text, form, message):
    with pytest.raises(DataError, match=re.escape(message)):
        listed(text, form=TableForm(**form))


def test_columns_of_a_folder_are_refused(tree):
    with pytest.raises(
        ConfigError, match=r"sounds is no CSV file: columns, separator and --audio-root are those of a CSV"
    ):
        read_folder(tree("dog/a.wav"), form=TableForm(path_column="file"))


@pytest.mark.parametrize(
    ("files", "note"),
    [(("validation_list.txt", "bed/a.wav"), "validation_list.txt is not used; `epanns data speechcommands` reads it")],
)
def test_the_lists_of_speech_commands_are_noted(tree, files, note):
    assert read_folder(tree(*files)).notes == (note,)


def test_a_task_of_hear_is_refused_with_its_reader(tree):
    with pytest.raises(DataError, match="which are parts of a task of HEAR: read it with `epanns data hear`"):
        read_folder(tree("task_metadata.json", "48000/train/a.wav"))
