from pathlib import Path

import pytest

from epanns.data.folder import read_folder
from epanns.errors import ConfigError, DataError


@pytest.fixture
def tree(tmp_path):
    """Make empty files below a folder."""

    def run(*files):
        root = tmp_path / "sounds"
        for file in files:
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).touch()
        return root

    return run


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


def test_drawn_splits_have_about_their_share_and_do_not_move_when_clips_come(tree):
    root = tree(*(f"dog/{number}.wav" for number in range(400)))
    before = {clip.clip_id: clip.split for clip in read_folder(root, val_fraction=0.2, test_fraction=0.3).clips}
    counts = [list(before.values()).count(split) for split in ("train", "val", "test")]
    assert counts == pytest.approx([200, 80, 120], abs=30)
    tree("dog/0-first.wav", "cat/new.wav")
    after = {clip.clip_id: clip.split for clip in read_folder(root, val_fraction=0.2, test_fraction=0.3).clips}
    assert before.items() <= after.items()


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
        read_folder(tree("dog/a.wav"), val_fraction=0.5, test_fraction=0.5)


def test_own_splits_are_not_drawn_again(tree):
    with pytest.raises(ConfigError, match=r"sounds has its own splits \(train\): leave out"):
        read_folder(tree("train/dog/a.wav"), val_fraction=0.5)


def test_one_file_in_two_splits_is_a_leak_however_its_path_is_written(tmp_path):
    (tmp_path / "list.csv").write_text("path,labels,split\na/b.wav,dog,train\n./a//c/../b.wav,dog,val\n")
    with pytest.raises(DataError, match="list.csv, rows 1 and 2: one file in the splits 'train' and 'val': a leak"):
        read_folder(tmp_path / "list.csv")
