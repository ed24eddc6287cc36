import re
from pathlib import Path

import pytest

from epanns.data.datasets.esc50 import read_esc50
from epanns.errors import ConfigError, DataError


@pytest.fixture
def csv_layout(tmp_path):
    """Make a data set in ESC-50's layout from CSV lines and file names."""

    def run(rows, files, header="filename,fold,target,category,esc10,src_file,take", table="esc50.csv"):
        root = tmp_path / "birds"
        for folder in ("meta", "audio"):
            (root / folder).mkdir(parents=True)
        (root / "meta" / table).write_text("\n".join([header, *rows]) + "\n")
        for file in files:
            (root / "audio" / file).parent.mkdir(parents=True, exist_ok=True)
            (root / "audio" / file).touch()
        return root

    return run


@pytest.fixture
def folder_layout(tmp_path):
    """Make a data set in ESC-10's layout."""

    def run(*files):
        root = tmp_path / "esc10"
        for file in files:
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).touch()
        return root

    return run


ROWS = ["1-1-A-7.wav,1,7,wren,,,", "2-2-A-3.wav,2,3,owl,,,", "3-3-A-3.wav,3,3,owl,,,"]


def test_csv_layout_is_read_with_its_class_order_and_folds(csv_layout):
    manifest = read_esc50(csv_layout(ROWS, ["1-1-A-7.wav", "2-2-A-3.wav", "3-3-A-3.wav"]))
    assert manifest.dataset == "birds"
    assert manifest.labels.names == ("owl", "wren")
    assert [(clip.clip_id, clip.labels, clip.split, clip.fold) for clip in manifest.clips] == [
        ("1-1-A-7.wav", ("wren",), "fold1", 1),
        ("2-2-A-3.wav", ("owl",), "fold2", 2),
        ("3-3-A-3.wav", ("owl",), "fold3", 3),
    ]


def test_files_are_found_by_stem_and_missing_ones_are_listed(csv_layout):
    root = csv_layout(ROWS, ["1-1-A-7.flac", "fold2/2-2-A-3.ogg"])
    manifest = read_esc50(root, name="birds-flac")
    assert [Path(clip.path) for clip in manifest.clips] == [
        root / "audio" / "1-1-A-7.flac",
        root / "audio" / "fold2" / "2-2-A-3.ogg",
    ]
    assert [clip.clip_id for clip in manifest.missing] == ["3-3-A-3.wav"]
    assert manifest.summary()["splits"] == {"fold1": 1, "fold2": 1, "fold3": 1}
    assert manifest.dataset == "birds-flac"


def test_audio_that_is_not_listed_is_counted(csv_layout):
    root = csv_layout(ROWS[:1], ["1-1-A-7.wav", "1-1-A-7.ogg", "extra/9-9-A-9.wav"])
    assert read_esc50(root).ignored == 2


def test_the_exact_name_wins_over_the_stem(csv_layout):
    root = csv_layout(ROWS[:1], ["1-1-A-7.flac", "1-1-A-7.wav"])
    assert read_esc50(root).clips[0].path.rpartition("/")[2] == "1-1-A-7.wav"


def test_a_file_that_another_row_names_is_not_used(csv_layout):
    rows = ["1-1-A-7.flac,1,7,wren,,,", "1-1-A-7.wav,2,3,owl,,,"]
    manifest = read_esc50(csv_layout(rows, ["1-1-A-7.flac"]))
    assert [clip.clip_id for clip in manifest.clips] == ["1-1-A-7.flac"]
    assert [clip.clip_id for clip in manifest.missing] == ["1-1-A-7.wav"]


def test_two_files_of_one_stem_are_refused(csv_layout):
    root = csv_layout(ROWS[:1], ["1-1-A-7.flac", "1-1-A-7.ogg"])
    with pytest.raises(DataError, match=r"row 1: 1-1-A-7\.wav could be .*flac or .*ogg; keep one"):
        read_esc50(root)


def test_the_only_table_may_have_any_name_and_no_targets(csv_layout):
    root = csv_layout(
        ["x.wav,4,owl", "y.wav,5,jay"], ["x.wav", "y.wav"], header="filename,fold,category", table="b.csv"
    )
    assert read_esc50(root).labels.names == ("jay", "owl")


@pytest.mark.parametrize(
    ("options", "splits"),
    [
        ({"val_fold": 2, "test_fold": 3}, ["train", "val", "test"]),
        ({"test_fold": 1}, ["test", "train", "train"]),
        ({"val_fold": 1}, ["val", "train", "train"]),
    ],
)
def test_folds_become_splits_on_demand(csv_layout, options, splits):
    root = csv_layout(ROWS, ["1-1-A-7.wav", "2-2-A-3.wav", "3-3-A-3.wav"])
    assert [clip.split for clip in read_esc50(root, **options).clips] == splits


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_fold": 9}, "--val-fold 9: birds has the folds 1, 2, 3"),
        (
            {"val_fold": 1, "test_fold": 1},
            "--val-fold and --test-fold are both 1: choose on one fold",
        ),
    ],
)
def test_wrong_folds_are_refused(csv_layout, options, message):
    with pytest.raises(ConfigError, match=message):
        read_esc50(csv_layout(ROWS, []), **options)


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (["a.wav,1"], "filename,fold", "no column category; ESC-50's layout has filename,fold,category"),
        (["a.wav,one,dog"], "filename,fold,category", "row 1: filename 'a.wav', category 'dog', fold 'one': give all"),
        (["a.wav,1,1,dog", "b.wav,1,2,dog"], "filename,fold,target,category", "row 2: target '2' of 'dog': one number"),
    ],
)
def test_a_wrong_table_is_named(csv_layout, rows, header, message):
    with pytest.raises(DataError, match=message):
        read_esc50(csv_layout(rows, ["a.wav", "b.wav"], header=header))


def test_two_tables_are_ambiguous(csv_layout):
    root = csv_layout(ROWS, [], table="one.csv")
    (root / "meta" / "two.csv").touch()
    with pytest.raises(DataError, match=r"must hold esc50\.csv or exactly one CSV file, found one\.csv, two\.csv"):
        read_esc50(root)


def test_folder_layout_is_read_with_its_class_order_and_folds(folder_layout):
    root = folder_layout(
        "002 - Rain/5-20-A.ogg", "010 - Fire crackling/1-3-B.ogg", "001 - Dog bark/1-3-A.ogg", "README"
    )
    manifest = read_esc50(root)
    assert manifest.labels.names == ("Dog bark", "Rain", "Fire crackling")
    assert [(clip.clip_id, clip.labels[0], clip.split) for clip in manifest.clips] == [
        ("001 - Dog bark/1-3-A.ogg", "Dog bark", "fold1"),
        ("002 - Rain/5-20-A.ogg", "Rain", "fold5"),
        ("010 - Fire crackling/1-3-B.ogg", "Fire crackling", "fold1"),
    ]


def test_files_outside_numbered_folders_are_counted(folder_layout):
    root = folder_layout("001 - Dog/1-1-A.ogg", "001 - Dog/notes.txt", "001 - Dog/more/1-2-A.ogg", "Rain/1-3-A.ogg")
    (root / "README").touch()
    manifest = read_esc50(root)
    assert (len(manifest.clips), manifest.ignored) == (1, 3)


def test_numbered_folders_may_be_links_and_a_link_to_nowhere_is_missing(folder_layout, tmp_path):
    root = folder_layout("001 - Dog/1-1-A.ogg", "../rain/2-3-A.ogg")
    (root / "002 - Rain").symlink_to(tmp_path / "rain")
    (root / "001 - Dog" / "3-1-A.ogg").symlink_to(tmp_path / "nothing.ogg")
    manifest = read_esc50(root)
    assert [clip.clip_id for clip in manifest.clips] == ["001 - Dog/1-1-A.ogg", "002 - Rain/2-3-A.ogg"]
    assert [clip.clip_id for clip in manifest.missing] == ["001 - Dog/3-1-A.ogg"]
    assert (manifest.ignored, manifest.splits) == (0, {"fold1": 1, "fold2": 1, "fold3": 1})


def test_a_file_without_a_fold_is_refused(folder_layout):
    with pytest.raises(
        DataError, match=r"bark\.ogg: the name must begin with the fold's number, as in 1-100032-A\.ogg"
    ):
        read_esc50(folder_layout("001 - Dog bark/bark.ogg"))


def test_two_classes_of_one_number_are_refused(folder_layout):
    with pytest.raises(DataError, match="'001 - Cat' and '001 - Dog' have the same number; give each its own"):
        read_esc50(folder_layout("001 - Dog/1-1-A.ogg", "001 - Cat/1-1-A.ogg"))


def test_another_layout_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(DataError, match=re.escape(f"{tmp_path}: neither ESC-50's layout") + ".*`epanns data folder`"):
        read_esc50(tmp_path)


@pytest.mark.parametrize(("name", "n_clips", "n_classes"), [("esc10", 400, 10), ("esc50_16k", 2000, 50)])
def test_the_published_sets_are_read_whole(shared, name, n_clips, n_classes):
    summary = read_esc50(shared / "data" / name).summary()
    assert summary == {
        "dataset": name,
        "expected": n_clips,
        "found": n_clips,
        "missing": 0,
        "ignored": 0,
        "classes": n_classes,
        "splits": {f"fold{fold}": n_clips // 5 for fold in range(1, 6)},
    }
