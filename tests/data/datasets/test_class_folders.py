"""Class folders and tables are read; folds, splits and archives are not taken for classes."""

import re
from collections import Counter
from pathlib import Path

import pytest

from epanns.data.datasets.class_folders import read_folder
from epanns.data.datasets.esc50 import read_esc50
from epanns.data.datasets.splits import SplitSettings
from epanns.data.manifest import write_manifest
from epanns.errors import ConfigError, DataError

CSV_FORM = "write a CSV with the columns path, labels and fold or split, and give it to `epanns data folder FILE.csv`"


def test_class_folders_are_read_with_nested_files(tree):
    manifest = read_folder(tree("rain/a.wav", "dog/more/b.flac", "dog/notes.txt", "loose.wav"))
    assert manifest.dataset == "sounds"
    assert manifest.labels.names == ("dog", "rain")
    assert [(clip.clip_id, clip.labels, clip.split) for clip in manifest.clips] == [
        ("dog/more/b.flac", ("dog",), "all"),
        ("rain/a.wav", ("rain",), "all"),
    ]
    assert manifest.ignored == 2


def test_split_folders_above_the_classes_become_splits(tree):
    manifest = read_folder(tree("train/dog/a.wav", "Validation/dog/a.wav", "eval/rain/a.wav"))
    assert {clip.clip_id: clip.split for clip in manifest.clips} == {
        "Validation/dog/a.wav": "val",
        "eval/rain/a.wav": "test",
        "train/dog/a.wav": "train",
    }


def test_folders_without_sound_do_not_hide_the_splits(tree):
    manifest = read_folder(tree("train/dog/a.wav", "test/dog/b.wav", "docs/notes.txt"))
    assert manifest.labels.names == ("dog",)
    assert manifest.splits == {"test": 1, "train": 1}
    assert manifest.ignored == 1


def test_classes_and_clips_may_be_links_and_a_link_to_nowhere_is_missing(tree, tmp_path):
    root = tree("cat/a.wav", "cat/._a.wav")
    (tmp_path / "dogs").mkdir()
    (tmp_path / "dogs" / "b.wav").touch()
    (root / "dog").symlink_to(tmp_path / "dogs")
    (root / "cat" / "gone.wav").symlink_to(tmp_path / "nothing.wav")
    manifest = read_folder(root)
    assert [(clip.clip_id, clip.labels) for clip in manifest.clips] == [
        ("cat/a.wav", ("cat",)),
        ("dog/b.wav", ("dog",)),
    ]
    assert [clip.clip_id for clip in manifest.missing] == ["cat/gone.wav"]
    assert manifest.ignored == 1


def test_a_class_may_be_called_like_a_split(tree):
    assert read_folder(tree("train/a.wav", "tram/b.wav")).labels.names == ("train", "tram")


def test_splits_beside_classes_are_refused(tree):
    message = (
        r"sounds: 'train' looks like a split, 'dog' like a class; give either CLASS/\*\.wav or train/CLASS/\*\.wav"
    )
    with pytest.raises(DataError, match=message):
        read_folder(tree("train/dog/a.wav", "dog/b.wav"))


def test_drawn_splits_have_their_share_and_are_a_function_of_the_seed(tree):
    root = tree(*(f"dog/{number}.wav" for number in range(40)), *(f"cat/{number}.wav" for number in range(20)))
    manifest = read_folder(root, drawn=SplitSettings(val_fraction=0.2, test_fraction=0.3))
    counts = Counter((clip.labels[0], clip.split) for clip in manifest.clips)
    assert [counts["dog", split] for split in ("train", "val", "test")] == [20, 8, 12]
    assert [counts["cat", split] for split in ("train", "val", "test")] == [10, 4, 6]
    assert read_folder(root, drawn=SplitSettings(val_fraction=0.2, test_fraction=0.3)) == manifest
    assert read_folder(root, drawn=SplitSettings(val_fraction=0.2, test_fraction=0.3, seed=1)) != manifest
    assert manifest.notes == ("splits drawn by class, seed 0: train 30 (50.0%), val 12 (20.0%), test 18 (30.0%)",)


def test_added_clips_move_few_others(tree):
    root = tree(*(f"dog/{number}.wav" for number in range(400)))
    before = {
        clip.clip_id: clip.split
        for clip in read_folder(root, drawn=SplitSettings(val_fraction=0.2, test_fraction=0.3)).clips
    }
    tree("dog/0-first.wav", "cat/new.wav")
    after = {
        clip.clip_id: clip.split
        for clip in read_folder(root, drawn=SplitSettings(val_fraction=0.2, test_fraction=0.3)).clips
    }
    assert sum(after[clip_id] != split for clip_id, split in before.items()) <= 2


def test_no_group_is_drawn_into_two_splits(tree):
    """Slices of one recording are in one split, and every class is in both."""
    files = [f"{name}/{take}-{part}.wav" for name in ("cat", "dog") for take in range(6) for part in "abcd"]
    root = tree(*files)
    manifest = read_folder(root, drawn=SplitSettings(val_fraction=0.25, group_pattern=r"^([0-9]+)-"))
    splits = {}
    for clip in manifest.clips:
        splits.setdefault(clip.clip_id.split("/")[1].split("-")[0], set()).add(clip.split)
    assert {len(found) for found in splits.values()} == {1}
    assert {(clip.labels, clip.split) for clip in manifest.clips} == {
        ((name,), split) for name in ("cat", "dog") for split in ("train", "val")
    }
    assert manifest.notes[0].startswith(
        "splits drawn by class and by group (6 groups, found in the file name with ^([0-9]+)-), seed 0: train 3"
    )


def test_a_column_of_a_table_may_name_the_groups(tree):
    root = tree()
    root.mkdir()
    rows = [f"{number}.wav,dog,take {number // 4}" for number in range(24)]
    (root / "mine.csv").write_text("path,labels,take\n" + "\n".join(rows) + "\n")
    tree(*(f"{number}.wav" for number in range(24)))
    manifest = read_folder(root / "mine.csv", drawn=SplitSettings(val_fraction=0.3, group_column="take"))
    splits = [{clip.split for clip in manifest.clips if int(clip.clip_id[:-4]) // 4 == take} for take in range(6)]
    assert all(len(found) == 1 for found in splits)
    assert {"train", "val"} == set.union(*splits)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"group_pattern": "(.)"},
            "groups are used only to draw splits: give --val-fraction or --test",
        ),
        (
            {"val_fraction": 0.5, "group_pattern": "(.)", "group_column": "take"},
            "both name the groups: give one",
        ),
        (
            {"val_fraction": 0.5, "group_column": "tako"},
            r"--group-column tako \(did you mean 'take'\?\): .*mine.csv has the columns path, labels, t",
        ),
        ({"val_fraction": 0.5, "group_column": "take"}, "mine.csv, row 2: take is empty; name the group of each clip"),
        ({"val_fraction": 0.5, "group_pattern": "(x)"}, "finds no group for 2 of 2 clips, first 'a.wav'"),
    ],
)
def test_groups_that_cannot_be_used_are_refused(tmp_path, options, message):
    (tmp_path / "mine.csv").write_text("path,labels,take\na.wav,dog,1\nb.wav,dog, \n")
    with pytest.raises((ConfigError, DataError), match=message):
        read_folder(tmp_path / "mine.csv", drawn=SplitSettings(**options))


def test_a_group_column_needs_a_table(tree):
    with pytest.raises(ConfigError, match=r"--group-column take: .*sounds is no CSV file; use --group-pattern"):
        read_folder(tree("dog/a.wav"), drawn=SplitSettings(val_fraction=0.5, group_column="take"))


def test_classes_that_a_drawn_split_lacks_are_named(tree):
    root = tree("cat/a.wav", *(f"dog/{number}.wav" for number in range(9)))
    notes = read_folder(root, drawn=SplitSettings(val_fraction=0.2)).notes
    assert notes[1:] == ("1 of 2 classes have no clip in val: cat",)


def test_numeric_classes_are_ordered_by_value(tree):
    assert read_folder(tree("0/a.wav", "10/a.wav", "2/a.wav", "1/a.wav")).labels.names == ("0", "1", "2", "10")


def test_names_of_classes_are_composed_and_names_that_read_alike_are_noted(tree, tmp_path):
    root = tree("cafe\u0301/a.wav", "caf\u00e9/b.wav", "Rue/c.wav", "rue/d.wav")
    manifest = read_folder(root)
    assert manifest.labels.names == ("Rue", "caf\u00e9", "rue")
    assert manifest.notes == ("classes 'Rue' and 'rue' differ only in case, blanks, _, - or commas: are they one?",)
    (tmp_path / "list.csv").write_text("path,labels\na.wav,cafe\u0301;rue\n")
    assert read_folder(tmp_path / "list.csv").labels.names == ("caf\u00e9", "rue")


def test_a_name_that_is_too_long_for_a_file_is_missing_and_a_fold_may_not_be_huge(tmp_path):
    (tmp_path / "list.csv").write_text(f"path,labels,fold\n{'a' * 1000}.wav,dog,1\n")
    assert len(read_folder(tmp_path / "list.csv").missing) == 1
    (tmp_path / "list.csv").write_text(f"path,labels,fold\na.wav,dog,{'9' * 5000}\n")
    with pytest.raises(DataError, match="row 1: .* fold must be a whole number or empty"):
        read_folder(tmp_path / "list.csv")


def test_a_manifest_inside_the_folder_is_not_counted(tree):
    root = tree("dog/a.wav", "notes.txt")
    first = read_folder(root)
    write_manifest(first, root / "m.csv")
    write_manifest(first, root / "lists" / "other.csv")
    again = read_folder(root)
    assert again == first
    assert again.ignored == 1
    write_manifest(again, root / "m.csv")


def test_a_file_that_is_listed_twice_cannot_be_drawn(tmp_path):
    (tmp_path / "list.csv").write_text("path,labels\na.wav,dog\n./a.wav,dog\n")
    assert len(read_folder(tmp_path / "list.csv").missing) == 2
    with pytest.raises(DataError, match="list.csv, rows 1 and 2: one file, .*; list it once"):
        read_folder(tmp_path / "list.csv", drawn=SplitSettings(val_fraction=0.5))


def test_a_table_of_paths_and_labels_is_read(tree):
    root = tree("a.wav", "sub/b.wav")
    table = root / "mine.csv"
    table.write_text(
        "path,labels,split,fold,remark\na.wav,dog; rain,train,1,x\nsub/b.wav,rain,val,,\nc.wav,dog,val,2,\n"
    )
    manifest = read_folder(table)
    assert manifest.dataset == "mine"
    assert [(Path(clip.path), clip.labels, clip.split, clip.fold) for clip in manifest.clips] == [
        (root / "a.wav", ("dog", "rain"), "train", 1),
        (root / "sub" / "b.wav", ("rain",), "val", None),
    ]
    assert [clip.clip_id for clip in manifest.missing] == ["c.wav"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\na,b\n", "first line is 'file,label', must name the columns path and labels"),
        ("path,labels\n", "holds no clips; write one row per clip below the first line"),
        ("path,labels\na.wav, ;\n", "row 1: path 'a.wav', labels ' ;', fold '': path and labels must be given"),
        ("path,labels,fold\na.wav,dog,x\n", "row 1: .*fold 'x': .*fold must be a whole number or empty"),
    ],
)
def test_a_wrong_table_is_named(tmp_path, text, message):
    (tmp_path / "mine.csv").write_text(text)
    with pytest.raises(DataError, match=rf"mine\.csv.*{message}"):
        read_folder(tmp_path / "mine.csv")


def test_a_folder_without_sound_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no audio files in class folders; expected such as .*/dog/barking\.wav"):
        read_folder(tmp_path)


def test_fractions_must_leave_clips_to_train_on(tree):
    with pytest.raises(ConfigError, match=r"--val-fraction 0\.5 and --test-fraction 0\.5: must not be negative"):
        read_folder(tree("dog/a.wav"), drawn=SplitSettings(val_fraction=0.5, test_fraction=0.5))


def test_own_splits_are_not_drawn_again(tree):
    with pytest.raises(ConfigError, match=r"sounds has its own splits \(train\): leave out"):
        read_folder(tree("train/dog/a.wav"), drawn=SplitSettings(val_fraction=0.5))


def test_one_file_in_two_splits_is_a_leak_however_its_path_is_written(tmp_path):
    (tmp_path / "list.csv").write_text("path,labels,split\na/b.wav,dog,train\n./a//c/../b.wav,dog,val\n")
    with pytest.raises(DataError, match="list.csv, rows 1 and 2: one file in the splits 'train' and 'val': a leak"):
        read_folder(tmp_path / "list.csv")


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
        (
            ("metadata/UrbanSound8K.csv", "audio/fold1/a.wav"),
            "audio/fold1, ...): read it with `epanns data urbansound8k`",
        ),
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
def test_folders_that_are_no_classes_are_refused(tree, files, message):
    with pytest.raises(DataError, match=re.escape(message)):
        read_folder(tree(*files))


def test_folds_of_urbansound_are_named(tree):
    root = tree("metadata/UrbanSound8K.csv", "audio/fold1/1-0-0-0.wav", "audio/fold2/2-0-0-0.wav")
    for read, place in ((read_folder, root / "audio"), (read_esc50, root), (read_esc50, root / "audio")):
        with pytest.raises(DataError, match=r"UrbanSound8K's layout \(.*\): read it with `epanns data urbansound8k`"):
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
def test_classes_with_names_like_folds_and_splits_are_read(tree, classes):
    root = tree("list.csv", *(f"{name}/{name}.wav" for name in classes))
    assert read_folder(root).labels.names == tuple(sorted(classes))


def test_one_class_called_audio_without_a_list_is_read_and_noted(tree):
    manifest = read_folder(tree("audio/a.wav"), drawn=SplitSettings(val_fraction=0.5))
    assert manifest.labels.names == ("audio",)
    assert manifest.notes[0] == "the only class is called audio; its folder may hold sounds of all classes"


def test_a_fold_among_classes_is_noted(tree):
    manifest = read_folder(tree("fold1/a.wav", "dog/b.wav", "f1/c.wav"))
    assert manifest.notes == ("the class fold1 is called like a fold; its folder may hold sounds of all classes",)
