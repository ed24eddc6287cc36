import io
import json

import numpy as np
import pytest
import soundfile
import tqdm

from epanns.cli.shared.terminal import progress_counter
from epanns.data.packing.packer import pack_manifest
from epanns.data.packs.pack import Pack
from epanns.data.packs.pack_format import PackSettings


@pytest.fixture
def manifest(epanns, tmp_path):
    """Three short sounds: one plain, one too loud, one silent."""
    noise = 0.1 * np.random.default_rng(0).standard_normal(8_000)
    for name, samples in {"plain": noise, "loud": noise * 30, "silent": noise * 0}.items():
        path = tmp_path / "set" / "train" / "hiss" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples, 8_000, subtype="FLOAT")
    epanns("data", "folder", tmp_path / "set", "--out", tmp_path / "m.csv")
    return tmp_path / "m.csv"


OPTIONS = ["--sample-rate", 8000, "--seconds", 1]


def test_pack_prints_its_counts_as_json(epanns, manifest, tmp_path):
    command = ["pack", manifest, "--out", tmp_path / "pack", "--split", "train", *OPTIONS]
    code, out, _ = epanns(*command, "--json")
    assert code == 0
    assert json.loads(out) == {
        "pack": str(tmp_path / "pack"),
        "expected": 3,
        "found": 3,
        "missing": 0,
        "rejected": 0,
        "clips": 3,
        "clipped": 1,
        "silent": 1,
        "short": 0,
        "cut": 0,
        "beyond_header": 0,
        "unstated_length": 0,
        "shards": 1,
        "shards_resumed": 0,
        "shards_repaired": 0,
        "rejects_retried": 0,
        "rejects_not_retried": 0,
        "remarks": [],
    }
    assert json.loads(epanns(*command, "--json")[1])["shards_resumed"] == 1


def test_pack_prints_the_numbers_of_limited_and_silent_clips(epanns, manifest, tmp_path):
    code, out, _ = epanns("pack", manifest, "--out", tmp_path / "pack", *OPTIONS)
    assert code == 0
    assert "3 clips in 1 shard (3 expected, 0 missing, 0 rejected)" in out
    assert "1 clips had samples beyond [-1, 1], which were limited" in out
    assert "1 clips are digital silence" in out


def test_too_many_bad_clips_are_exit_code_3(epanns, manifest, tmp_path):
    (tmp_path / "set" / "train" / "hiss" / "plain.wav").write_bytes(b"")
    code, out, err = epanns("pack", manifest, "--out", tmp_path / "pack", *OPTIONS)
    assert (code, out) == (3, "")
    assert "1 of 3 clips cannot be packed, --max-bad 0.01 allows 0" in err
    assert str(tmp_path / "pack" / "rejects.csv") in err
    code, out, _ = epanns("pack", manifest, "--out", tmp_path / "pack", *OPTIONS, "--max-bad", 0.5)
    assert code == 0
    assert f"the rejected clips and the reasons are in {tmp_path / 'pack' / 'rejects.csv'}" in out


def test_short_clips_are_named_and_may_be_rejected(epanns, manifest, tmp_path):
    command = ["pack", manifest, "--sample-rate", 8000, "--seconds", 1.5, "--max-bad", 1]
    code, out, _ = epanns(*command, "--out", tmp_path / "padded")
    assert code == 0
    assert "3 clips ended before the row, which was padded with zeros" in out
    code, out, _ = epanns(*command, "--out", tmp_path / "pack", "--min-seconds", 1.2)
    assert code == 0
    assert "0 clips in 0 shards (3 expected, 0 missing, 3 rejected)" in out
    assert "1.00 s is shorter than min_seconds=1.2" in (tmp_path / "pack" / "rejects.csv").read_text()


def test_panns_format_is_written_on_request(epanns, manifest, tmp_path):
    assert epanns("pack", manifest, "--out", tmp_path / "pack", *OPTIONS, "--format", "panns")[0] == 0
    files = {str(path.relative_to(tmp_path / "pack")) for path in (tmp_path / "pack").rglob("*.h5")}
    assert files == {"waveforms/part00000.h5", "indexes/all.h5"}
    code, _, err = epanns("pack", manifest, "--out", tmp_path / "pack", *OPTIONS)
    assert code == 1
    assert "holds a pack with format=panns, not epanns" in err


def test_work_of_an_earlier_run_does_not_count_in_the_rate(monkeypatch):
    bars = []

    class Bar(tqdm.tqdm):
        def __init__(self, **how):
            super().__init__(**{**how, "disable": False, "file": io.StringIO()})
            bars.append(self)

    monkeypatch.setattr(tqdm, "tqdm", Bar)
    with progress_counter("packing", "clip") as show:
        show(900, 1_000)
        show(901, 1_000)
    (bar,) = bars
    assert (bar.n, bar.total, bar.initial) == (901, 1_000, 900)
    assert bar.disable  # closed


def test_a_stopped_run_is_resumed_where_it_was(epanns, manifest, tmp_path):
    command = ["pack", manifest, "--out", tmp_path / "pack", *OPTIONS, "--clips-per-shard", 1]
    assert epanns(*command)[2] == ""
    journal = tmp_path / "pack" / "journal.jsonl"
    whole = journal.read_bytes()
    journal.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))  # killed before the last shard was noted
    (tmp_path / "pack" / "pack.json").unlink()
    assert epanns(*command)[2] == "resume: 2 of 3 shards are done\n"
    assert journal.read_bytes() == whole
    assert epanns(*command)[2] == ""


def test_an_existing_folder_is_kept(epanns, manifest, tmp_path):
    code, _, err = epanns("pack", manifest, "--out", tmp_path, *OPTIONS)
    assert code == 1
    assert f"{tmp_path} exists already and is no pack: choose another --out" in err
    assert manifest.exists()


def test_fresh_replaces_a_pack_of_other_settings(epanns, manifest, tmp_path):
    command = ["pack", manifest, "--out", tmp_path / "pack", "--sample-rate", 8000]
    assert epanns(*command, "--seconds", 1)[0] == 0
    code, _, err = epanns(*command, "--seconds", 2)
    assert code == 1
    assert "holds a pack with seconds=1.0, not 2.0: choose another --out, or start over with --fresh" in err
    assert epanns(*command, "--seconds", 2, "--fresh")[0] == 0
    assert Pack(tmp_path / "pack").info.clip_samples == 16_000


def test_settings_out_of_range_are_exit_code_1(epanns, manifest, tmp_path):
    code, _, err = epanns("pack", manifest, "--out", tmp_path / "pack", "--seconds", 0)
    assert code == 1
    assert "seconds=0.0: must be above 0" in err


def test_real_recordings_are_packed(epanns, shared, tmp_path):
    """Four clips of ESC-10, copied in its own layout: 44.1 kHz Ogg Vorbis to 32 kHz."""
    for folder in sorted((shared / "data" / "esc10").glob("0*"))[:2]:
        (tmp_path / "esc10" / folder.name).mkdir(parents=True)
        for path in sorted(folder.glob("*.ogg"))[:2]:
            (tmp_path / "esc10" / folder.name / path.name).write_bytes(path.read_bytes())
    assert epanns("data", "esc50", tmp_path / "esc10", "--out", tmp_path / "m.csv")[0] == 0
    summary = pack_manifest(tmp_path / "m.csv", tmp_path / "pack", PackSettings(("fold1",), 32_000, 5.0))
    pack = Pack(tmp_path / "pack")
    assert summary.counts.clips == len(pack) == 4
    assert pack.info.labels.names == ("Dog bark", "Rain")
    assert pack.columns.targets.counts().tolist() == [2, 2]
    assert min(pack.columns.n_samples) > 0.99 * 5 * 32_000
    assert epanns("verify", tmp_path / "pack")[0] == 0


def test_a_damaged_pack_is_repaired_and_the_repair_is_printed(epanns, manifest, tmp_path):
    command = ["pack", manifest, "--out", tmp_path / "pack", *OPTIONS]
    epanns(*command)
    (tmp_path / "pack" / "shard-00000.h5").unlink()
    assert epanns("verify", tmp_path / "pack")[0] != 0
    code, out, _ = epanns(*command)
    assert code == 0
    assert "packed again, since damaged or missing: 1 of the shards of an earlier run" in out
    assert epanns("verify", tmp_path / "pack")[0] == 0
