import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from epanns.audio.resampling import to_int16
from epanns.audio.waveform import load_waveform
from epanns.data.clip import Clip
from epanns.data.manifest import Manifest, read_manifest, write_manifest
from epanns.data.packing import packer, packing_journal, shard_packing
from epanns.data.packing.packer import pack_manifest
from epanns.data.packs.pack import Pack
from epanns.data.packs.pack_format import PackSettings
from epanns.errors import ConfigError, DataError, DataProblems, OutputError, PackError
from epanns.labels import LabelSet
from tests.builders import contents
from tests.data import decoders
from tests.data.conftest import SETTINGS, noise


def test_every_clip_is_in_the_pack_as_it_is_on_disk(made):
    pack = Pack(made / "pack")
    clips = read_manifest(made / "set.csv").clips
    assert pack.columns.clip_ids.tolist() == [clip.clip_id.encode() for clip in clips]
    for index, clip in enumerate(clips):
        expected = to_int16(load_waveform(Path(clip.path), sample_rate=8_000).samples)
        np.testing.assert_array_equal(pack.read_waveform(index), expected)
        labels = [pack.info.labels.names[column] for column in np.flatnonzero(pack.columns.targets.dense([index])[0])]
        assert tuple(labels) == clip.labels


def test_the_description_has_the_settings_counts_and_shards(made):
    info = Pack(made / "pack").info
    assert (info.dataset, info.sample_rate, info.clip_samples) == ("synthetic", 8_000, 4_000)
    assert info.splits == ("test", "train", "val")
    assert (info.counts.expected, info.counts.found, info.counts.clips, info.counts.rejected) == (20, 20, 20, 0)
    assert [(shard.file, shard.clips) for shard in info.shards] == [
        ("shard-00000.h5", 8),
        ("shard-00001.h5", 8),
        ("shard-00002.h5", 4),
    ]
    assert info.resampler["name"] == "soxr"
    assert info.resampler["quality"] == "HQ"


def test_any_number_of_jobs_gives_the_same_bytes_at_any_time(made, tmp_path):
    time.sleep(1.1)  # HDF5 keeps time stamps of one second, where it is allowed to
    pack_manifest(made / "set.csv", tmp_path / "pack", SETTINGS, jobs=2)
    assert contents(tmp_path / "pack") == contents(made / "pack")


def test_a_split_is_packed_alone(made, tmp_path):
    summary = pack_manifest(made / "set.csv", tmp_path / "val", PackSettings(("val",), 8_000, 0.5))
    assert summary.counts.clips == 4
    assert Pack(tmp_path / "val").info.splits == ("val",)


def test_short_clips_are_padded_and_long_ones_cut(dataset, tmp_path):
    manifest = dataset({"short.wav": noise(0.2), "long.wav": noise(3.0)})
    pack_manifest(manifest, tmp_path / "pack", PackSettings((), 8_000, 1.0))
    pack = Pack(tmp_path / "pack")
    assert pack.columns.n_samples.tolist() == [1_600, 8_000]
    assert not pack.read_waveform(0)[1_600:].any()
    np.testing.assert_array_equal(pack.read_waveform(0)[:1_600], to_int16(noise(0.2)))
    np.testing.assert_array_equal(pack.read_waveform(1), to_int16(noise(3.0)[:8_000]))


def test_a_pack_of_another_rate_is_resampled(dataset, tmp_path):
    pack_manifest(dataset({"a.wav": noise(1.0)}), tmp_path / "pack", PackSettings((), 16_000, 1.0))
    assert Pack(tmp_path / "pack").columns.n_samples.tolist() == [16_000]


def test_clipped_and_silent_clips_are_counted(dataset, tmp_path):
    manifest = dataset({"loud.wav": noise() * 30, "silent.wav": noise() * 0, "fine.wav": noise()})
    counts = pack_manifest(manifest, tmp_path / "pack", SETTINGS).counts
    assert (counts.clips, counts.clipped, counts.silent) == (3, 1, 1)


def test_short_clips_are_counted_and_those_below_the_bound_rejected(dataset, tmp_path):
    manifest = dataset({"whole.wav": noise(1.5), "short.wav": noise(0.5), "shorter.wav": noise(0.49)})
    counts = pack_manifest(manifest, tmp_path / "all", PackSettings((), 8_000, 1.0)).counts
    assert (counts.clips, counts.short) == (3, 2)
    settings = PackSettings((), 8_000, 1.0, min_seconds=0.5)
    counts = pack_manifest(manifest, tmp_path / "pack", settings, max_bad=0.5).counts
    assert (counts.clips, counts.short, counts.rejected) == (2, 1, 1)
    with (tmp_path / "pack" / "rejects.csv").open(newline="") as file:
        (reject,) = csv.DictReader(file)
    assert reject["clip_id"] == "shorter.wav"
    assert "0.49 s is shorter than min_seconds=0.5" in reject["reason"]


def bad_sounds():
    return {
        "good-1.wav": noise(),
        "nan.wav": np.full(4_000, np.nan, np.float32),
        "empty.wav": np.zeros(0, np.float32),
        "text.wav": b"no sound",
        "good-2.wav": noise(seed=1),
        "gone.wav": None,
    }


def test_bad_clips_are_listed_with_the_reason(dataset, tmp_path):
    summary = pack_manifest(dataset(bad_sounds()), tmp_path / "pack", SETTINGS, max_bad=0.9)
    assert (summary.counts.found, summary.counts.rejected, summary.counts.clips) == (6, 4, 2)
    assert Pack(tmp_path / "pack").columns.clip_ids.tolist() == [b"good-1.wav", b"good-2.wav"]
    with (tmp_path / "pack" / "rejects.csv").open(newline="") as file:
        rejects = {row["clip_id"]: row["reason"] for row in csv.DictReader(file)}
    assert set(rejects) == {"nan.wav", "empty.wav", "text.wav", "gone.wav"}
    assert "NaN or infinite" in rejects["nan.wav"]
    assert "holds no samples" in rejects["empty.wav"]
    assert "cannot be decoded" in rejects["text.wav"]
    assert "cannot be read (No such file or directory)" in rejects["gone.wav"]


def test_a_clip_is_tried_again_once_its_decoder_is_installed(dataset, tmp_path, monkeypatch):
    manifest = dataset({"a.wav": noise(), "b.m4a": b"\0\0\0\x1cftypM4A " + bytes(500)})
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(DataProblems):
        pack_manifest(manifest, tmp_path / "pack", SETTINGS)
    assert 'pip install -e "".[av]"" in the source folder' in (tmp_path / "pack" / "rejects.csv").read_text()
    for is_there, n_resumed in ((False, 1), (True, 0)):
        monkeypatch.setattr(packing_journal, "can_import", lambda module, is_there=is_there: is_there)
        assert pack_manifest(manifest, tmp_path / "pack", SETTINGS, max_bad=0.5).n_resumed == n_resumed
        (tmp_path / "pack" / "pack.json").unlink()


def test_too_many_bad_clips_stop_the_run_and_repairs_let_it_resume(dataset, tmp_path):
    manifest = dataset(bad_sounds())
    message = r"4 of 6 clips cannot be packed, --max-bad 0\.01 allows 0; reasons are in .*rejects\.csv"
    with pytest.raises(DataProblems, match=message):
        pack_manifest(manifest, tmp_path / "pack", SETTINGS)
    assert not (tmp_path / "pack" / "pack.json").exists()
    for name in ("nan.wav", "empty.wav", "text.wav", "gone.wav"):
        soundfile.write(tmp_path / "audio" / name, noise(seed=2), 8_000)
    assert pack_manifest(manifest, tmp_path / "pack", SETTINGS).counts.clips == 6


def test_a_run_with_too_many_rejects_stops_early(dataset, tmp_path):
    manifest = dataset({f"{number}.wav": b"" for number in range(10)})
    seen = []
    with pytest.raises(DataProblems, match="2 of 10 clips"):
        pack_manifest(
            manifest,
            tmp_path / "pack",
            PackSettings((), 8_000, 0.5, clips_per_shard=2),
            max_bad=0.1,
            progress=lambda done, total: seen.append((done, total)),
        )
    assert seen == [(0, 10), (1, 10), (2, 10)]


def test_a_stopped_run_keeps_its_shards_and_ends_with_the_same_bytes(made, tmp_path):
    def stop(done, total):
        if done == 13:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack_manifest(made / "set.csv", tmp_path / "pack", SETTINGS, progress=stop)
    assert {path.name for path in (tmp_path / "pack").iterdir()} == {"journal.jsonl", "shard-00000.h5"}
    kept = (tmp_path / "pack" / "shard-00000.h5").stat().st_mtime_ns
    assert pack_manifest(made / "set.csv", tmp_path / "pack", SETTINGS).n_resumed == 1
    assert (tmp_path / "pack" / "shard-00000.h5").stat().st_mtime_ns == kept
    assert contents(tmp_path / "pack") == contents(made / "pack")


def test_progress_begins_where_the_earlier_run_ended(own):
    (own / "pack" / "pack.json").unlink()
    shutil.copy(own / "set" / "audio" / "clip-000000.wav", own / "set" / "audio" / "clip-000019.wav")
    seen = []
    rerun(own, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 20) for done in (8, 16, *range(16, 21))]


@pytest.mark.parametrize("kept", [10, 500, 3_000, 4_000])
def test_a_journal_cut_anywhere_is_resumed(own, kept):
    whole = contents(own / "pack")
    (own / "pack" / "pack.json").unlink()
    (own / "pack" / "journal.jsonl").write_bytes(whole["journal.jsonl"][:kept])
    rerun(own)
    assert contents(own / "pack")["shard-00002.h5"] == whole["shard-00002.h5"]


def rerun(folder, **options):
    return pack_manifest(folder / "set.csv", folder / "pack", SETTINGS, **options)


def test_a_finished_pack_is_left_alone(own):
    before = {path.name: path.stat().st_mtime_ns for path in (own / "pack").iterdir()}
    assert rerun(own).n_resumed == 3
    assert {path.name: path.stat().st_mtime_ns for path in (own / "pack").iterdir()} == before


def test_a_shard_whose_audio_changed_is_made_again(own):
    (own / "pack" / "pack.json").unlink()
    shutil.copy(own / "set" / "audio" / "clip-000000.wav", own / "set" / "audio" / "clip-000009.wav")
    assert rerun(own).n_resumed == 2
    pack = Pack(own / "pack")
    np.testing.assert_array_equal(pack.read_waveform(0), pack.read_waveform(9))


def test_other_settings_are_refused_and_fresh_starts_over(own):
    other = PackSettings((), 8_000, 0.25, clips_per_shard=8)
    message = r"pack holds a pack with seconds=0\.5, not 0\.25: choose another --out, or start over with --fresh"
    with pytest.raises(OutputError, match=message):
        pack_manifest(own / "set.csv", own / "pack", other)
    (own / "pack" / "pack.json").unlink()
    with pytest.raises(OutputError, match=message):
        pack_manifest(own / "set.csv", own / "pack", other)
    assert pack_manifest(own / "set.csv", own / "pack", other, fresh=True).counts.clips == 20
    assert Pack(own / "pack").info.clip_samples == 2_000


def test_another_manifest_is_refused(own):
    lines = (own / "set.csv").read_text().splitlines(keepends=True)
    (own / "set.csv").write_text("".join(lines[:-1]))
    with pytest.raises(OutputError, match="holds a pack with manifest_sha256="):
        rerun(own)


@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_with_other_things_is_refused_and_left_alone(made, tmp_path, fresh):
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="pack exists already and is no pack: choose another --out"):
        pack_manifest(made / "set.csv", tmp_path / "pack", SETTINGS, fresh=fresh)
    assert contents(tmp_path / "pack") == {"thesis.txt": b"mine"}


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("text", [b'{"mine": 1}\n', b"Dear diary"])
def test_a_journal_of_another_program_is_refused_and_left_alone(made, tmp_path, fresh, text):
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "journal.jsonl").write_bytes(text)
    with pytest.raises(OutputError, match=r"journal\.jsonl is no journal of epanns"):
        pack_manifest(made / "set.csv", tmp_path / "pack", SETTINGS, fresh=fresh)
    assert contents(tmp_path / "pack") == {"journal.jsonl": text}


@pytest.mark.parametrize("name", ["thesis.txt", "shard-1.h5", "my-shard-00000.h5"])
def test_starting_over_deletes_nothing_in_a_folder_with_other_files(own, name):
    (own / "pack" / name).write_text("mine")
    before = contents(own / "pack")
    with pytest.raises(OutputError, match=f"pack holds '{name}', which is no part of a pack, so --fresh deletes"):
        rerun(own, fresh=True)
    assert contents(own / "pack") == before


def test_starting_over_deletes_no_subfolder(own):
    (own / "pack" / "shard-00009.h5").mkdir()
    with pytest.raises(OutputError, match=r"pack holds 'shard-00009\.h5', which is no part of a pack"):
        rerun(own, fresh=True)
    assert len(Pack(own / "pack")) == 20


def test_starting_over_needs_no_journal(own, made):
    (own / "pack" / "journal.jsonl").unlink()
    assert rerun(own, fresh=True).n_resumed == 0
    assert contents(own / "pack")["shard-00001.h5"] == contents(made / "pack")["shard-00001.h5"]
    assert (own / "pack" / "journal.jsonl").stat().st_size > 0


def test_a_description_of_another_program_is_left_alone(made, tmp_path):
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "pack.json").write_text('{"name": "my package"}')
    with pytest.raises(PackError, match="pack.json: format is None"):
        pack_manifest(made / "set.csv", tmp_path / "pack", SETTINGS)
    with pytest.raises(PackError, match="pack.json: format is None"):
        pack_manifest(made / "set.csv", tmp_path / "pack", SETTINGS, fresh=True)
    assert contents(tmp_path / "pack") == {"pack.json": b'{"name": "my package"}'}


def test_starting_over_removes_the_files_of_a_stopped_run(own, made):
    (own / "pack" / "shard-00009.h5").touch()
    (own / "pack" / "shard-00001.h5.partial").touch()
    assert rerun(own, fresh=True).n_resumed == 0
    kept, expected = contents(own / "pack"), contents(made / "pack")
    assert kept.keys() == expected.keys()
    assert all(kept[name] == expected[name] for name in kept if name != "journal.jsonl")  # it names the sources


@pytest.mark.parametrize("fresh", [False, True])
def test_two_packers_do_not_share_a_folder(made, tmp_path, fresh):
    def pack_again(done, total):
        pack_manifest(made / "set.csv", tmp_path / "pack", SETTINGS, fresh=fresh)

    with pytest.raises(OutputError, match="pack is in use by process .*: wait for it, stop it or choose another --out"):
        pack_manifest(made / "set.csv", tmp_path / "pack", SETTINGS, progress=pack_again)


def test_a_full_disk_is_reported(made, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shard_packing, "write_shard", fail)
    with pytest.raises(OutputError, match=r"cannot be written \(No space left on device\); make room .* are kept"):
        pack_manifest(made / "set.csv", tmp_path / "pack", SETTINGS)


def test_a_lower_max_bad_applies_to_a_finished_pack(dataset, tmp_path):
    manifest = dataset(bad_sounds())
    pack_manifest(manifest, tmp_path / "pack", SETTINGS, max_bad=0.9)
    with pytest.raises(DataProblems, match=r"4 of 6 clips cannot be packed, --max-bad 0\.5 allows 3; reasons are in"):
        pack_manifest(manifest, tmp_path / "pack", SETTINGS, max_bad=0.5)
    assert pack_manifest(manifest, tmp_path / "pack", SETTINGS, max_bad=0.7).counts.clips == 2


def test_the_space_of_a_shard_is_allocated_until_it_is_written(made, tmp_path):
    sizes = []

    def note_size(done, total):
        if 1 < done < 8:
            sizes.append((tmp_path / "pack" / "shard-00000.h5.partial").stat().st_blocks * 512)

    pack_manifest(made / "set.csv", tmp_path / "pack", SETTINGS, progress=note_size)
    assert min(sizes) >= 8 * 2 * SETTINGS.clip_samples
    assert (tmp_path / "pack" / "shard-00000.h5").stat().st_size < 80_000  # what was not needed is given back


FULL_DISK = """
import resource, sys
from epanns.cli.main import main
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
main(["pack", sys.argv[1], "--out", sys.argv[2], "--sample-rate", "8000", "--seconds", "0.5"])
"""


def test_a_disk_that_fills_up_is_one_error(made, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, made / "set.csv", tmp_path / "pack"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
        check=False,
    )
    assert done.returncode == 1
    assert "cannot be written (File too large); make room or choose another --out" in done.stderr
    assert done.stderr.count("\n") == 1
    assert [path.name for path in (tmp_path / "pack").iterdir()] == ["journal.jsonl"]


KILLED = """
import os, signal, sys
from pathlib import Path
from epanns.data.packs.pack_format import PackSettings
from epanns.data.packing.packer import pack_manifest

def kill(done, total):
    if done == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    pack_manifest(Path(sys.argv[1]), Path(sys.argv[2]), PackSettings((), 8_000, 0.5, 8), progress=kill)
"""


@pytest.mark.parametrize("clip", [1, 8, 9, 20])
def test_a_killed_run_is_resumed_to_the_same_bytes(made, tmp_path, clip):
    arguments = [sys.executable, "-c", KILLED, made / "set.csv", tmp_path / "pack", str(clip)]
    assert subprocess.run(arguments, cwd=Path(__file__).parents[3], check=False).returncode == -signal.SIGKILL
    journal = (tmp_path / "pack" / "journal.jsonl").read_text().splitlines()
    n_finished = sum("shard" in json.loads(line) for line in journal)
    assert n_finished in {(clip - 1) // 8, (clip - 1) // 8 - 1}  # the last one may not be on the disk yet
    assert pack_manifest(made / "set.csv", tmp_path / "pack", SETTINGS).n_resumed == n_finished
    assert contents(tmp_path / "pack") == contents(made / "pack")


@pytest.mark.parametrize(("jobs", "how"), [(1, "divide"), (2, "divide"), (2, "die")])
def test_an_error_of_a_decoder_rejects_one_clip(made, tmp_path, monkeypatch, jobs, how):
    monkeypatch.setattr(shard_packing, "convert_clip", getattr(decoders, how))
    summary = pack_manifest(made / "set.csv", tmp_path / "pack", SETTINGS, max_bad=0.05, jobs=jobs)
    assert (summary.counts.rejected, summary.counts.clips) == (1, 19)
    with (tmp_path / "pack" / "rejects.csv").open(newline="") as file:
        (reject,) = csv.DictReader(file)
    reason = {
        "divide": r"cannot be decoded \(ZeroDivisionError: by zero\); convert it",
        "die": r"two processes died at it \(the second one, which decoded nothing else, ended with exit code 9\); "
        "the same command retries it; if it stays, convert it to WAV or FLAC, or remove it",
    }[how]
    assert re.search(r"clip-000005\.wav: " + reason, reject["reason"])
    (tmp_path / "pack" / "pack.json").unlink()
    n_resumed = pack_manifest(made / "set.csv", tmp_path / "pack", SETTINGS, max_bad=0.05, jobs=jobs).n_resumed
    assert n_resumed == {"divide": 3, "die": 2}[how]


@pytest.mark.parametrize(("code", "text"), [(12, "Cannot allocate memory"), (24, "Too many open files")])
def test_lack_of_memory_is_not_reported_as_a_full_disk(made, tmp_path, monkeypatch, code, text):
    def fail(*arguments, **options):
        raise OSError(code, text)

    monkeypatch.setattr(shard_packing, "write_shard", fail)
    with pytest.raises(OutputError, match=rf"has no more memory, .* \({text}\); free some, and run the same"):
        pack_manifest(made / "set.csv", tmp_path / "pack", SETTINGS)


def test_audio_with_another_time_and_the_same_bytes_is_not_packed_again(own):
    (own / "pack" / "pack.json").unlink()
    for path in (own / "set" / "audio").iterdir():
        os.utime(path, ns=(0, 0))
    assert rerun(own).n_resumed == 3


def test_an_unknown_split_is_refused(made, tmp_path):
    with pytest.raises(DataError, match=r"no split 'vla' \(did you mean 'val'\?\); it has test, train, val"):
        pack_manifest(made / "set.csv", tmp_path / "pack", PackSettings(("vla",)))


def test_a_manifest_without_clips_is_refused(tmp_path):
    gone = Clip("a", str(tmp_path / "a.wav"), ("dog",), "train")
    write_manifest(Manifest("m", LabelSet.of(["dog"]), (), (gone,)), tmp_path / "m.csv")
    with pytest.raises(DataError, match="no clip was found on disk; check the data set's folder"):
        pack_manifest(tmp_path / "m.csv", tmp_path / "pack", PackSettings())


def test_missing_clips_are_counted_in_the_pack(dataset, tmp_path):
    manifest = dataset({"a.wav": noise()})
    rows = "clip_id,path,start,duration,labels,split,fold\nb.wav,b.wav,,,dog,train,\nc.wav,c.wav,,,dog,val,\n"
    manifest.with_suffix(".missing.csv").write_text(rows)
    counts = pack_manifest(manifest, tmp_path / "pack", PackSettings(("train",), 8_000, 0.5)).counts
    assert (counts.expected, counts.found, counts.missing) == (2, 1, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sample_rate": 10}, "sample_rate=10: must be a whole number in [1000, 384000]"),
        ({"seconds": 0}, "seconds=0: must be above 0"),
        ({"seconds": float("nan")}, "seconds=nan: must be above 0"),
        ({"seconds": 1e-6}, "seconds=1e-06 at 32000 Hz: must be at least one sample"),
        ({"min_seconds": 11}, "min_seconds=11: must be at most seconds=10"),
        ({"min_seconds": -1}, "min_seconds=-1: must be a finite number >= 0"),
        ({"clips_per_shard": 0}, "clips_per_shard=0: must be a whole number in [1"),
    ],
)
def test_settings_out_of_range_are_refused(change, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        PackSettings(**change)


def test_the_journal_names_every_source(made):
    lines = [json.loads(line) for line in (made / "pack" / "journal.jsonl").read_text().splitlines()]
    assert set(lines[0]) == {"header"}
    clips = [line for line in lines if "clip_id" in line]
    assert len(clips) == 20
    assert all(len(line["source"]["sha256"]) == 64 for line in clips)
    assert [line["shard"] for line in lines if "shard" in line] == [0, 1, 2]


def test_the_order_and_repetition_of_splits_do_not_matter(made, tmp_path):
    both = replace(SETTINGS, splits=("train", "val"))
    assert both == replace(SETTINGS, splits=("val", "train", "val"))
    pack_manifest(made / "set.csv", tmp_path / "pack", both)
    for splits in (("val", "train"), ("train", "train", "val")):
        assert pack_manifest(made / "set.csv", tmp_path / "pack", replace(SETTINGS, splits=splits)).counts.clips == 16
    assert len(Pack(tmp_path / "pack")) == 16


@pytest.mark.parametrize(("change", "message"), [("numpy", "2.4.0"), ("h5py", "null")])
def test_the_version_that_differs_is_named(own, change, message):
    (own / "pack" / "pack.json").unlink()
    lines = (own / "pack" / "journal.jsonl").read_text().splitlines(keepends=True)
    header = json.loads(lines[0])
    asked = header["header"]["versions"].pop(change)
    if message != "null":
        header["header"]["versions"][change] = message
    (own / "pack" / "journal.jsonl").write_text("".join([json.dumps(header) + "\n", *lines[1:]]))
    with pytest.raises(OutputError, match=re.escape(f"versions.{change}={message}, not {asked}: choose")):
        rerun(own)


@given(st.integers(0, 10_000), st.integers(0, 3_000_000))
def test_max_bad_is_exact_in_its_decimal_digits(share, n_clips):
    assert packer._allowed(n_clips, float(f"{share / 10_000:.4f}")) == share * n_clips // 10_000


def test_after_an_early_stop_only_clips_that_were_tried_are_listed(dataset, tmp_path):
    settings = replace(SETTINGS, clips_per_shard=2)
    manifest = dataset({f"{number}.wav": noise() if number < 4 else b"" for number in range(6)})
    with pytest.raises(DataProblems, match=r"2 of 6 clips cannot be packed, --max-bad"):
        pack_manifest(manifest, tmp_path / "pack", settings)
    dataset({f"{number}.wav": b"" if number < 4 else noise() for number in range(6)})
    with pytest.raises(DataProblems, match=r"2 of 6 clips cannot be packed so far \(2 were tried\), --max-bad"):
        pack_manifest(manifest, tmp_path / "pack", settings)
    with (tmp_path / "pack" / "rejects.csv").open(newline="") as file:
        assert [row["clip_id"] for row in csv.DictReader(file)] == ["0.wav", "1.wav"]
