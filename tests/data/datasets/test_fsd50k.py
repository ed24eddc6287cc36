import csv
import re
from collections import Counter

import numpy as np
import pytest
import soundfile

from epanns.data.datasets.fsd50k import PUBLISHED, read_fsd50k
from epanns.data.manifest import write_manifest
from epanns.data.packing.packer import pack_manifest
from epanns.data.packs.pack_format import PackSettings
from epanns.errors import DataError
from epanns.labels import LabelSet, fsd50k

VOCABULARY = "0,Bark,/m/05tny_\n1,Dog,/m/0bt9lr\n2,Rain,/m/06mb1\n"
DEV = 'fname,labels,mids,split\n10,"Bark,Dog","/m/05tny_,/m/0bt9lr",train\n007,Rain,/m/06mb1,val\n'
EVAL = 'fname,labels,mids\n30,"Rain,Dog","/m/06mb1,/m/0bt9lr"\n'


@pytest.fixture
def made(tmp_path):
    """Make a small FSD50K in the folders given, from its three tables and names of audio files."""

    def run(*files, truth="FSD50K.ground_truth", dev=DEV, eval_=EVAL, vocabulary=VOCABULARY):
        root = tmp_path / "root"
        (root / truth).mkdir(parents=True)
        for name, text in (("dev", dev), ("eval", eval_), ("vocabulary", vocabulary)):
            (root / truth / f"{name}.csv").write_text(text)
        for file in files:
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).touch()
        return root

    return run


def rows_of(manifest, root):
    return [(clip.clip_id, clip.path.removeprefix(f"{root}/"), clip.labels, clip.split) for clip in manifest.clips]


@pytest.mark.parametrize(
    ("truth", "dev", "evaluation"),
    [
        ("FSD50K.ground_truth", "FSD50K.dev_audio", "FSD50K.eval_audio"),
        ("ground_truth", "dev_audio", "eval_audio"),
        ("labels", "clips/dev", "clips/eval"),
        (".", "dev", "eval"),
    ],
)
def test_every_layout_gives_the_same_clips(made, truth, dev, evaluation):
    root = made(f"{dev}/10.wav", f"{dev}/part/007.flac", f"{evaluation}/30.ogg", truth=truth)
    manifest = read_fsd50k(root)
    assert manifest.dataset == "FSD50K"
    assert manifest.labels == LabelSet(("Bark", "Dog", "Rain"), ("/m/05tny_", "/m/0bt9lr", "/m/06mb1"))
    assert rows_of(manifest, root) == [
        ("10", f"{dev}/10.wav", ("Bark", "Dog"), "train"),
        ("007", f"{dev}/part/007.flac", ("Rain",), "val"),
        ("30", f"{evaluation}/30.ogg", ("Rain", "Dog"), "eval"),
    ]
    assert (manifest.missing, manifest.ignored) == ((), 0)


def test_parts_can_be_in_other_folders_or_in_one(made, tmp_path):
    root = made("all/10.wav", "all/30.wav", truth="truth")
    manifest = read_fsd50k(
        tmp_path, ground_truth=root / "truth", dev_audio=root / "all", eval_audio=root / "all", name="mine"
    )
    assert [clip.clip_id for clip in manifest.clips] == ["10", "30"]
    assert (manifest.dataset, manifest.ignored) == ("mine", 0)


def test_missing_clips_have_their_expected_path(made):
    root = made("FSD50K.dev_audio/10.wav")
    manifest = read_fsd50k(root)
    assert [(clip.clip_id, clip.path) for clip in manifest.missing] == [
        ("007", f"{root}/FSD50K.dev_audio/007.wav"),
        ("30", f"{root}/FSD50K.eval_audio/30.wav"),
    ]
    assert manifest.splits == {"eval": 1, "train": 1, "val": 1}


def test_a_part_is_looked_for_in_its_own_folder_and_the_rest_is_counted(made):
    root = made("dev_audio/30.wav", "dev_audio/10.flac", "dev_audio/10.wav", "dev_audio/notes.txt")
    manifest = read_fsd50k(root)
    assert [clip.path for clip in manifest.clips] == [f"{root}/dev_audio/10.wav"]
    assert manifest.ignored == 2


def test_another_number_of_rows_than_published_is_noted(made):
    assert read_fsd50k(made()).notes == (
        "rows of the ground truth: train 1, val 1, eval 1; FSD50K as published has train 36796, val 4170, eval 10231",
    )


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"dev": DEV.replace(",train", ",test")}, "dev.csv, row 1: split 'test' must be train or val"),
        ({"dev": DEV.replace("\n007", "\n")}, "dev.csv, row 2: fname is empty; give the clip's number on Freesound"),
        ({"dev": DEV.replace("fname", "id")}, "dev.csv: no column fname; FSD50K's layout has fname,labels,mids,split"),
        ({"dev": "fname,labels,mids\n"}, "dev.csv: no column split; FSD50K's layout has fname,labels,mids,split"),
        ({"eval_": EVAL.replace("Rain", "Hail")}, "eval.csv, row 1: label 'Hail' is not among the 3 of vocabulary.csv"),
        (
            {"eval_": EVAL.replace("/m/06mb1,", "")},
            "eval.csv, row 1: mids '/m/0bt9lr' are not those of its labels, '/m/06mb1,/m/0bt9lr' in vocabulary.csv",
        ),
        (
            {"dev": DEV.replace("/m/05tny_,/m/0bt9lr", "/m/0bt9lr,/m/05tny_")},
            "dev.csv, row 1: mids '/m/0bt9lr,/m/05tny_' are not those of its labels",
        ),
        ({"eval_": EVAL.replace("\n30", "\n10")}, "eval.csv, row 1: fname '10' is in the splits 'train' and 'eval'"),
        (
            {"dev": DEV.replace("\n007", "\n10")},
            "dev.csv, row 2: fname '10' is in the splits 'train' and 'val': a leak",
        ),
        ({"eval_": EVAL + "30,Dog,/m/0bt9lr\n"}, "eval.csv, row 2: fname '30' is listed twice; remove one"),
        ({"vocabulary": VOCABULARY.replace("Dog,", "")}, "vocabulary.csv, line 2: '1,/m/0bt9lr' must be 1,<label>"),
        (
            {"vocabulary": "index,label,mid\n" + VOCABULARY},
            "vocabulary.csv, line 1: 'index,label,mid' must be 0,<label>",
        ),
    ],
)
def test_a_wrong_table_is_named(made, tables, message):
    with pytest.raises(DataError, match=re.escape(message)):
        read_fsd50k(made(**tables))


def test_no_ground_truth_and_two_of_a_kind_are_refused(made, tmp_path):
    with pytest.raises(
        DataError, match=r"no FSD50K\.ground_truth with dev\.csv, .* name its folder with --ground-truth"
    ):
        read_fsd50k(tmp_path)
    root = made("dev_audio/10.wav", "FSD50K.dev_audio/10.wav")
    with pytest.raises(DataError, match=r"FSD50K\.dev_audio and .*/dev_audio both exist; choose one with --dev-audio"):
        read_fsd50k(root)


def test_the_published_ground_truth_is_read_whole_and_packs(shared, tmp_path):
    root = tmp_path / "FSD50K"
    root.mkdir()
    (root / "FSD50K.ground_truth").symlink_to(shared / "data" / "meta" / "fsd50k")
    chosen = {"dev": ("64760", "16399"), "eval": ("37199",)}
    for part, names in chosen.items():
        (root / f"FSD50K.{part}_audio").mkdir()
        for name in names:
            tone = 0.1 * np.sin(np.arange(4410) / 10)
            soundfile.write(root / f"FSD50K.{part}_audio" / f"{name}.wav", tone, 44_100)
    manifest = read_fsd50k(root)
    assert manifest.labels == fsd50k()
    assert manifest.splits == PUBLISHED
    assert manifest.notes == ()
    assert [clip.clip_id for clip in manifest.clips] == ["64760", "16399", "37199"]
    n_labels = Counter()
    for clip in (*manifest.clips, *manifest.missing):
        n_labels["eval" if clip.split == "eval" else "dev"] += len(clip.labels)
    assert n_labels == {"dev": 114_271, "eval": 38_596}

    write_manifest(manifest, tmp_path / "m.csv")
    settings = PackSettings(splits=("eval",), sample_rate=8_000, seconds=0.1)
    counts = pack_manifest(tmp_path / "m.csv", tmp_path / "pack", settings).counts
    assert (counts.expected, counts.found, counts.missing, counts.clips) == (10_231, 1, 10_230, 1)
    with (tmp_path / "m.missing.csv").open() as missing:
        assert sum(1 for _ in csv.DictReader(missing)) == 51_197 - 3
