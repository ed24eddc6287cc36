"""Packs that are written in PANNs' format."""

import csv
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from epanns.data.clip import Clip
from epanns.data.manifest import Manifest, read_manifest, write_manifest
from epanns.data.packing.packer import pack_manifest
from epanns.data.packs.pack import Pack
from epanns.data.packs.pack_format import PackSettings, read_pack_info
from epanns.errors import ConfigError, DataProblems, OutputError
from epanns.labels import LabelSet
from tests.builders import contents
from tests.data.conftest import SETTINGS

PANNS = replace(SETTINGS, format="panns")


@pytest.fixture(scope="module")
def panns(made, tmp_path_factory) -> Path:
    """The clips of `made` as a panns pack; not to be changed."""
    folder = tmp_path_factory.mktemp("panns") / "pack"
    pack_manifest(made / "set.csv", folder, PANNS)
    return folder


def shards_of(folder):
    return {name: content for name, content in contents(folder).items() if name.startswith("waveforms/")}


def test_a_pack_in_panns_format_has_the_files_of_panns_and_of_the_packer(panns):
    assert set(contents(panns)) == {
        "pack.json",
        "journal.jsonl",
        "rejects.csv",
        "notes.csv",
        "indexes/all.h5",
        *(f"waveforms/part{number:05d}.h5" for number in range(3)),
    }
    info = read_pack_info(panns)
    assert info.settings.format == "panns"
    assert [(shard.file, shard.clips) for shard in info.shards] == [
        ("waveforms/part00000.h5", 8),
        ("waveforms/part00001.h5", 8),
        ("waveforms/part00002.h5", 4),
    ]


def test_the_index_refers_to_the_rows_of_the_pack_in_epanns_format(made, panns):
    ours = Pack(made / "pack")
    with h5py.File(panns / "indexes" / "all.h5") as index:
        assert [name.decode() for name in index["audio_name"]] == [clip.clip_id for clip in clips_of(made)]
        for row in range(len(ours)):
            with h5py.File(index["hdf5_path"][row].decode()) as file:
                place = index["index_in_hdf5"][row]
                np.testing.assert_array_equal(file["waveform"][place], ours.read_waveform(row))
                np.testing.assert_array_equal(file["target"][place], index["target"][row])
                assert file.attrs["sample_rate"] == 8_000
                labels = [ours.info.labels.names[column] for column in np.flatnonzero(index["target"][row])]
                assert tuple(labels) == clips_of(made)[row].labels


def clips_of(made):
    return read_manifest(made / "set.csv").clips


def test_the_index_is_named_after_the_split(made, tmp_path):
    pack_manifest(made / "set.csv", tmp_path / "pack", replace(PANNS, splits=("train", "val")))
    assert [path.name for path in (tmp_path / "pack" / "indexes").iterdir()] == ["train+val.h5"]


def test_any_number_of_jobs_gives_the_same_bytes(made, panns, tmp_path):
    pack_manifest(made / "set.csv", tmp_path / "pack", PANNS, jobs=2)
    assert shards_of(tmp_path / "pack") == shards_of(panns)


def test_a_stopped_run_keeps_its_shards_and_ends_with_the_same_bytes(made, panns, tmp_path):
    def stop(done, total):
        if done == 13:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack_manifest(made / "set.csv", tmp_path / "pack", PANNS, progress=stop)
    assert set(shards_of(tmp_path / "pack")) == {"waveforms/part00000.h5"}
    kept = (tmp_path / "pack" / "waveforms" / "part00000.h5").stat()
    assert pack_manifest(made / "set.csv", tmp_path / "pack", PANNS).n_resumed == 1
    now = (tmp_path / "pack" / "waveforms" / "part00000.h5").stat()
    assert (now.st_ino, now.st_mtime_ns) == (kept.st_ino, kept.st_mtime_ns)
    assert shards_of(tmp_path / "pack") == shards_of(panns)


def test_the_two_formats_do_not_share_a_folder(made, panns, tmp_path):
    shutil.copytree(panns, tmp_path / "pack")
    with pytest.raises(OutputError, match="holds a pack with format=panns, not epanns: choose another --out"):
        pack_manifest(made / "set.csv", tmp_path / "pack", SETTINGS)
    pack_manifest(made / "set.csv", tmp_path / "pack", SETTINGS, fresh=True)
    assert not (tmp_path / "pack" / "waveforms").exists()
    assert not (tmp_path / "pack" / "indexes").exists()
    assert len(Pack(tmp_path / "pack")) == 20


@pytest.mark.parametrize("place", ["waveforms/mine.h5", "indexes/notes.txt", "waveforms/more/part00000.h5"])
def test_starting_over_deletes_nothing_in_a_folder_with_other_files(made, panns, tmp_path, place):
    shutil.copytree(panns, tmp_path / "pack")
    (tmp_path / "pack" / place).parent.mkdir(exist_ok=True)
    (tmp_path / "pack" / place).write_text("mine")
    before = contents(tmp_path / "pack")
    with pytest.raises(OutputError, match=r"pack holds '.*', which is no part of a pack, so --fresh deletes nothing"):
        pack_manifest(made / "set.csv", tmp_path / "pack", PANNS, fresh=True)
    assert contents(tmp_path / "pack") == before


def test_the_index_of_a_moved_pack_is_written_again(made, panns, tmp_path):
    shutil.copytree(panns, tmp_path / "moved")
    pack_manifest(made / "set.csv", tmp_path / "moved", PANNS)
    with h5py.File(tmp_path / "moved" / "indexes" / "all.h5") as index:
        places = {name.decode() for name in index["hdf5_path"]}
    assert places == {str(tmp_path / "moved" / "waveforms" / f"part{number:05d}.h5") for number in range(3)}


@pytest.fixture
def partly_bad(made, tmp_path):
    """Four clips in parts of two, of which the named ones cannot be decoded; return the manifest's path."""

    def run(bad):
        clips = []
        for number, clip in enumerate(clips_of(made)[:4]):
            path = tmp_path / f"{number}.wav"
            path.write_bytes(b"" if number in bad else Path(clip.path).read_bytes())
            clips.append(Clip(f"clip-{number}", str(path), ("dog",), "train"))
        write_manifest(Manifest("mine", LabelSet.of(["dog"]), tuple(clips)), tmp_path / "m.csv")
        return tmp_path / "m.csv"

    return run


@pytest.mark.parametrize(
    ("bad", "rows"),
    [
        ({1}, {"part00000.h5": ["clip-0"], "part00001.h5": ["clip-2", "clip-3"]}),
        ({0, 1}, {"part00001.h5": ["clip-2", "clip-3"]}),
        ({2, 3}, {"part00000.h5": ["clip-0", "clip-1"]}),
        ({0, 1, 2, 3}, {}),
    ],
)
def test_rejected_clips_leave_no_rows(partly_bad, tmp_path, bad, rows):
    settings = PackSettings((), 8_000, 0.5, clips_per_shard=2, format="panns")
    summary = pack_manifest(partly_bad(bad), tmp_path / "pack", settings, max_bad=1.0)
    assert (summary.counts.clips, summary.counts.rejected, summary.n_shards) == (4 - len(bad), len(bad), len(rows))
    found = {}
    for path in sorted((tmp_path / "pack" / "waveforms").iterdir()):
        with h5py.File(path) as file:
            found[path.name] = [name.decode() for name in file["audio_name"]]
            assert file["waveform"][...].any(axis=1).all()
            assert file["target"][...].all()
    assert found == rows
    index = tmp_path / "pack" / "indexes" / "all.h5"
    assert index.exists() == bool(rows)
    if rows:
        with h5py.File(index) as file:
            assert [name.decode() for name in file["audio_name"]] == [name for names in rows.values() for name in names]
    with (tmp_path / "pack" / "rejects.csv").open(newline="") as file:
        assert {row["clip_id"] for row in csv.DictReader(file)} == {f"clip-{number}" for number in bad}


def test_a_part_without_readable_clips_has_no_shard(partly_bad, tmp_path):
    settings = PackSettings((), 8_000, 0.5, clips_per_shard=2, format="panns")
    manifest = partly_bad(set())
    pack_manifest(manifest, tmp_path / "pack", settings)
    (tmp_path / "pack" / "pack.json").unlink()
    for number in (0, 1):
        (tmp_path / f"{number}.wav").write_bytes(b"")
    with pytest.raises(DataProblems, match="2 of 4 clips cannot be packed"):
        pack_manifest(manifest, tmp_path / "pack", settings)
    assert pack_manifest(manifest, tmp_path / "pack", settings, max_bad=0.5).n_shards == 1
    assert set(shards_of(tmp_path / "pack")) == {"waveforms/part00001.h5"}


def test_an_unknown_format_is_refused():
    with pytest.raises(ConfigError, match="format='hdf': must be one of epanns, panns"):
        PackSettings(format="hdf")


def test_a_folder_of_panns_waveform_files_is_left_alone(made, panns, tmp_path):
    (tmp_path / "pack" / "waveforms").mkdir(parents=True)
    os.link(panns / "waveforms" / "part00000.h5", tmp_path / "pack" / "waveforms" / "part00000.h5")
    for fresh in (False, True):
        with pytest.raises(OutputError, match="pack exists already and is no pack"):
            pack_manifest(made / "set.csv", tmp_path / "pack", PANNS, fresh=fresh)
    assert set(shards_of(tmp_path / "pack")) == {"waveforms/part00000.h5"}


def test_the_settings_are_in_the_description(panns):
    settings = json.loads((panns / "pack.json").read_text())["settings"]
    assert settings["format"] == "panns"
    assert settings["min_seconds"] == 0
