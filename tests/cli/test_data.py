import json

import pytest


@pytest.fixture
def esc(tmp_path):
    """A data set in ESC-50's layout with two of its three files."""
    root = tmp_path / "birds"
    (root / "meta").mkdir(parents=True)
    (root / "audio").mkdir()
    rows = ["filename,fold,target,category", "a.wav,1,0,owl", "b.wav,2,1,wren", "c.wav,2,1,wren"]
    (root / "meta" / "esc50.csv").write_text("\n".join(rows))
    for name in ("a.wav", "b.flac"):
        (root / "audio" / name).touch()
    return root


def test_esc50_prints_its_counts_as_json(epanns, esc, tmp_path):
    code, out, _ = epanns("data", "esc50", esc, "--out", tmp_path / "m.csv", "--json")
    assert code == 0
    assert json.loads(out) == {
        "dataset": "birds",
        "expected": 3,
        "found": 2,
        "missing": 1,
        "ignored": 0,
        "classes": 2,
        "splits": {"fold1": 1, "fold2": 2},
        "notes": [],
        "manifest": str(tmp_path / "m.csv"),
    }
    assert len((tmp_path / "m.csv").read_text().splitlines()) == 3
    assert len((tmp_path / "m.missing.csv").read_text().splitlines()) == 2


def test_esc50_prints_the_missing_clips(epanns, esc, tmp_path):
    code, out, _ = epanns("data", "esc50", esc, "--out", tmp_path / "m.csv", "--val-fold", 1, "--name", "Birds")
    assert code == 0
    assert "2 clips of 3, 2 classes; train 2, val 1" in out
    assert f"1 files were not found (train 1); they are listed in {tmp_path / 'm.missing.csv'}" in out


def test_esc50_counts_audio_that_its_table_does_not_list(epanns, esc, tmp_path):
    (esc / "audio" / "extra.wav").touch()
    _, out, _ = epanns("data", "esc50", esc, "--out", tmp_path / "m.csv")
    assert "1 files were ignored: not audio, not listed, or outside the layout" in out


def test_fsd50k_finds_its_folders_and_notes_other_counts_on_stderr(epanns, tmp_path):
    for name, text in {
        "truth/vocabulary.csv": "0,Bark,/m/05tny_\n",
        "truth/dev.csv": "fname,labels,mids,split\n1,Bark,/m/05tny_,train\n2,Bark,/m/05tny_,val\n",
        "truth/eval.csv": "fname,labels,mids\n3,Bark,/m/05tny_\n",
        "clips/dev/1.wav": "",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    command = ["data", "fsd50k", tmp_path, "--ground-truth", tmp_path / "truth", "--out", tmp_path / "m.csv"]
    code, out, err = epanns(*command, "--json")
    note = "rows of the ground truth: train 1, val 1, eval 1; FSD50K as published has train 36796, val 4170, eval 10231"
    assert (code, err) == (0, f"note: {note}\n")
    counts = json.loads(out)
    assert counts["notes"] == [note]
    assert (counts["expected"], counts["found"], counts["missing"], counts["classes"]) == (3, 1, 2, 1)
    assert counts["splits"] == {"eval": 1, "train": 1, "val": 1}
    assert "2 files were not found (eval 1, val 1)" in epanns(*command)[1]


def test_audioset_takes_lists_classes_and_whole_videos(epanns, tmp_path):
    (tmp_path / "classes.csv").write_text('index,mid,display_name\n0,/m/0bt9lr,"Dog, any"\n')
    for name in ("one", "two"):
        (tmp_path / f"{name}.csv").write_text(f'# YTID, ...\n-_-_-_-_{name}, 30.0, 40.0, "/m/0bt9lr"\n')
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "Y-_-_-_-_one.webm").touch()
    lists = ["--segments", tmp_path / "one.csv", "--segments", tmp_path / "two.csv"]
    options = [*lists, "--labels", tmp_path / "classes.csv", "--whole-videos", "--name", "dogs"]
    code, out, err = epanns("data", "audioset", tmp_path / "root", *options, "--out", tmp_path / "m.csv", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "dataset": "dogs",
        "expected": 2,
        "found": 1,
        "missing": 1,
        "ignored": 0,
        "classes": 1,
        "splits": {"one": 1, "two": 1},
        "notes": [],
        "manifest": str(tmp_path / "m.csv"),
    }
    row = '-_-_-_-_one,root/Y-_-_-_-_one.webm,30.0,10.0,"Dog, any",one,'
    assert (tmp_path / "m.csv").read_text().splitlines()[1] == row


def test_folder_counts_what_it_passes_over(epanns, tmp_path):
    (tmp_path / "set" / "dog").mkdir(parents=True)
    for name in ("a.wav", "notes.txt"):
        (tmp_path / "set" / "dog" / name).touch()
    code, out, _ = epanns("data", "folder", tmp_path / "set", "--out", tmp_path / "m.csv", "--test-fraction", 0.999)
    assert code == 0
    assert "1 clips of 1, 1 classes; test 1" in out
    assert "1 files were ignored: not audio, not listed, or outside the layout" in out


def test_synthetic_writes_the_audio_and_takes_options_from_a_file(epanns, tmp_path):
    (tmp_path / "set.toml").write_text("clips = 10\nclasses = 3\nseconds = 0.5\nsample-rate = 8000\n")
    command = ["data", "synthetic", tmp_path / "set", "--config", tmp_path / "set.toml", "--clips", 5]
    code, out, _ = epanns(*command, "--out", tmp_path / "m.csv", "--json")
    assert code == 0
    assert json.loads(out)["splits"] == {"test": 1, "train": 3, "val": 1}
    assert len(list((tmp_path / "set" / "audio").glob("*.wav"))) == 5


def test_an_existing_manifest_is_kept(epanns, esc, tmp_path):
    (tmp_path / "m.csv").write_text("mine")
    code, _, err = epanns("data", "esc50", esc, "--out", tmp_path / "m.csv")
    assert code == 1
    assert f"{tmp_path / 'm.csv'} exists already and holds something else: choose another --out or delete it" in err
    assert (tmp_path / "m.csv").read_text() == "mine"


def test_a_wrong_layout_is_one_line_and_exit_code_1(epanns, tmp_path):
    code, out, err = epanns("data", "esc50", tmp_path, "--out", tmp_path / "m.csv")
    assert (code, out) == (1, "")
    assert err.startswith(f"epanns: {tmp_path}: neither ESC-50's layout")
    assert err.count("\n") == 1


def test_an_unknown_layout_is_wrong_usage(epanns, tmp_path):
    code, _, err = epanns("data", "esc5", tmp_path)
    assert code == 2
    assert "esc5" in err
