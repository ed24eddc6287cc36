"""The same command after a run with rejects."""

import csv
import functools
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
from hypothesis import given, settings
from hypothesis import strategies as st

from epanns.data.packing import packer, shard_packing
from epanns.data.packing.packer import pack_manifest
from epanns.data.packing.packing_journal import JournalRecords
from epanns.data.packs.verification import verify_pack
from epanns.errors import DataError, DataProblems, EpannsError, OutputError
from tests import builders
from tests.data import decoders
from tests.data.conftest import SETTINGS, noise

SMALL = replace(SETTINGS, clips_per_shard=2)
NAMES = ("0.wav", "1.wav", "2.wav", "bad-3.wav", "4.wav")


@pytest.fixture(params=["epanns", "panns"])
def finished(request, dataset, tmp_path):
    """A function that packs five clips, one of which is not audio at first, into three shards; and its folder."""
    sounds = {name: noise(seed=number) for number, name in enumerate(NAMES)}
    manifest = dataset({**sounds, "bad-3.wav": b"no sound"})
    small = replace(SMALL, format=request.param)

    def run(**options):
        return pack_manifest(manifest, tmp_path / "pack", small, **{"max_bad": 0.5, **options})

    run()
    return run, tmp_path / "pack"


def audio(folder, name="bad-3.wav"):
    return folder.parent / "audio" / name


def repair(folder):
    soundfile.write(audio(folder), noise(seed=3), 8_000, subtype="FLOAT")


# An index names its folder by its absolute path.
contents = functools.partial(builders.contents, without=r"^indexes")


def fresh(run, folder):
    """The pack that the same files give in a new folder."""
    shutil.move(folder, folder.with_name("aside"))
    run()
    whole = contents(folder)
    shutil.rmtree(folder)
    shutil.move(folder.with_name("aside"), folder)
    return whole


def test_a_finished_pack_with_another_journal_is_packed_again(finished):
    """Rejects of such a pack are retried too."""
    run, folder = finished
    repair(folder)
    journal = folder / "journal.jsonl"
    journal.write_bytes(journal.read_bytes().splitlines(keepends=True)[0])
    assert run().counts.rejected == 0
    assert contents(folder) == fresh(run, folder)


@pytest.mark.parametrize("max_bad", [0.5, 0.01])
def test_a_repaired_reject_gives_the_bytes_of_a_fresh_pack(finished, max_bad):
    run, folder = finished
    repair(folder)
    summary = run(max_bad=max_bad)
    assert (summary.counts.rejected, summary.counts.clips) == (0, 5)
    assert (summary.n_resumed, summary.n_repaired, summary.n_retried, summary.remarks) == (2, 0, 1, ())
    assert contents(folder) == fresh(run, folder)
    assert verify_pack(folder).problems == ()
    assert (run().n_resumed, run().n_retried) == (3, 0)


def test_an_unchanged_reject_is_not_retried(finished):
    run, folder = finished
    os.utime(audio(folder), ns=(0, 0))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert (run().n_resumed, run().n_retried) == (3, 0)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize("become", ["gone", "damaged"])
def test_a_shard_that_would_lose_another_clip_is_kept_and_reported(finished, become):
    run, folder = finished
    repair(folder)
    if become == "gone":
        audio(folder, "2.wav").unlink()
    else:
        audio(folder, "2.wav").write_bytes(b"no sound any more")
    before = contents(folder)
    summary = run()
    assert (summary.counts.rejected, summary.n_retried, summary.n_not_retried) == (1, 0, 1)
    (remark,) = summary.remarks
    assert "1 rejected clips are due for a retry, but their shards would lose other clips, whose" in remark
    assert contents(folder) == before
    with pytest.raises(DataProblems, match="raise --max-bad, and run again; 1 rejected .* start over with --fresh"):
        run(max_bad=0)
    assert run(fresh=True).counts.rejected == 1


def test_a_reject_is_retried_beside_audio_that_was_rewritten(finished):
    run, folder = finished
    repair(folder)
    soundfile.write(audio(folder, "2.wav"), noise(seed=9), 8_000, subtype="PCM_16")
    assert run().counts.rejected == 0
    assert contents(folder) == fresh(run, folder)


def test_a_pack_of_other_versions_is_kept_and_reported(finished, monkeypatch):
    run, folder = finished
    repair(folder)
    before = contents(folder)
    monkeypatch.setattr(packer, "versions", lambda *names: dict.fromkeys(names, "9"))
    summary = run()
    assert summary.n_not_retried == 1
    assert re.search(r"made with versions\.\w+=.*, not 9: to retry them, start over with", summary.remarks[0])
    assert contents(folder) == before


def test_a_run_killed_during_a_retry_ends_with_the_same_bytes(finished):
    run, folder = finished
    before = (folder / "pack.json").read_bytes()
    lists = {name: (folder / name).read_bytes() for name in ("rejects.csv", "notes.csv")}
    repair(folder)
    run()
    whole = contents(folder)
    (folder / "pack.json").write_bytes(before)  # as if it were killed before the last file
    for name, content in lists.items():
        (folder / name).write_bytes(content)
    assert run().n_resumed == 3
    assert contents(folder) == whole


def test_a_finished_pack_is_kept_if_too_many_clips_are_still_rejected(dataset, tmp_path):
    sounds = {"0.wav": noise(), "bad-1.wav": b"no", "bad-2.wav": b"no", "3.wav": noise(seed=3)}
    manifest = dataset(sounds)
    pack_manifest(manifest, tmp_path / "pack", SMALL, max_bad=0.5)
    dataset({**sounds, "bad-1.wav": noise(seed=1)})
    with pytest.raises(DataProblems, match=r"1 of 4 clips cannot be packed, --max-bad 0\.01 allows 0"):
        pack_manifest(manifest, tmp_path / "pack", SMALL)
    assert verify_pack(tmp_path / "pack").problems == ()
    assert pack_manifest(manifest, tmp_path / "pack", SMALL, max_bad=0.5).counts.clips == 3


def test_a_clip_that_crashed_processes_is_retried_by_the_next_run(made, tmp_path, monkeypatch):
    def run(jobs):
        return pack_manifest(made / "set.csv", tmp_path / "pack", SETTINGS, max_bad=0.05, jobs=jobs)

    with monkeypatch.context() as patch:
        patch.setattr(shard_packing, "convert_clip", decoders.be_killed)
        assert run(jobs=2).counts.rejected == 1
    assert "which decoded nothing else, crashed with signal SIGKILL" in (tmp_path / "pack" / "rejects.csv").read_text()
    assert run(jobs=1).n_retried == 1
    assert contents(tmp_path / "pack") == contents(made / "pack")


@pytest.mark.parametrize(("jobs", "how"), [(1, "lack_memory"), (2, "lack_memory"), (1, "lack_open_files")])
def test_lack_of_memory_ends_the_run_and_rejects_no_clip(made, tmp_path, monkeypatch, jobs, how):
    def run(jobs):
        return pack_manifest(made / "set.csv", tmp_path / "pack", SETTINGS, jobs=jobs)

    text = "much too much" if how == "lack_memory" else "cannot be decoded"
    message = (
        r"clip-000005\.wav: the system lacks memory or another resource for it, also when nothing else is decoded "
        rf"\(MemoryError: {text}\); free memory or raise the limit, then run the same command again"
    )
    with monkeypatch.context() as patch:
        patch.setattr(shard_packing, "convert_clip", getattr(decoders, how))
        with pytest.raises(DataError, match=message):
            run(jobs)
    assert run(jobs=1).counts.rejected == 0
    assert contents(tmp_path / "pack") == contents(made / "pack")


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_clip_that_lacked_memory_is_retried_alone(own, made, monkeypatch, jobs):
    monkeypatch.setattr(shard_packing, "convert_clip", decoders.lack_memory_once)
    shutil.rmtree(own / "pack")
    assert pack_manifest(own / "set.csv", own / "pack", SETTINGS, jobs=jobs).counts.rejected == 0
    assert (own / "set" / "audio" / "clip-000005.wav.tried").exists()
    assert contents(own / "pack")["shard-00000.h5"] == contents(made / "pack")["shard-00000.h5"]


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't start new thread")])
def test_lack_of_memory_for_a_shard_is_one_error(made, tmp_path, monkeypatch, error):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(shard_packing, "write_shard", fail)
    with pytest.raises(OutputError, match=r"no more memory, .* \((MemoryError|can't start.*)\); free some, and run"):
        pack_manifest(made / "set.csv", tmp_path / "pack", SETTINGS)


def test_a_path_that_is_no_regular_file_is_rejected(dataset, tmp_path):
    manifest = dataset({"0.wav": noise(), "fifo.wav": None, "zero.wav": None, "folder.wav": None})
    os.mkfifo(tmp_path / "audio" / "fifo.wav")
    (tmp_path / "audio" / "zero.wav").symlink_to("/dev/zero")
    (tmp_path / "audio" / "folder.wav").mkdir()
    for _ in range(2):  # the second run finds nothing to try again
        summary = pack_manifest(manifest, tmp_path / "pack", SMALL, max_bad=0.9)
        assert (summary.counts.clips, summary.n_retried) == (1, 0)
    with (tmp_path / "pack" / "rejects.csv").open(newline="") as file:
        reasons = {row["clip_id"]: row["reason"] for row in csv.DictReader(file)}
    for name, kind in {"fifo": r"a named pipe \(FIFO\)", "zero": "a character device", "folder": "a folder"}.items():
        assert re.search(f"is {kind}, must be a regular file; correct the path", reasons[f"{name}.wav"])


def test_rows_that_differ_from_their_clips_are_counted_and_listed(dataset, tmp_path):
    sounds = {"whole.wav": noise(), "short.wav": noise(0.2), "long.wav": noise(0.6), "silent.wav": noise() * 0}
    loud = noise()
    loud[:3] = 2.0
    manifest = dataset({**sounds, "loud.wav": loud, "bad.wav": b"no sound"})
    summary = pack_manifest(manifest, tmp_path / "pack", SMALL, max_bad=0.5)
    counts = summary.counts
    assert (counts.short, counts.cut, counts.silent, counts.clipped) == (1, 1, 1, 1)
    with (tmp_path / "pack" / "notes.csv").open(newline="") as file:
        rows = {row["clip_id"]: row for row in csv.DictReader(file)}
    named = {name: {key for key in row if row[key] not in ("0", name, row["path"])} for name, row in rows.items()}
    assert named == {
        "short.wav": {"short"},
        "long.wav": {"cut"},
        "silent.wav": {"silent"},
        "loud.wav": {"clipped"},
    }
    assert rows["loud.wav"]["clipped"] == "3"
    assert rows["loud.wav"]["path"] == str(tmp_path / "audio" / "loud.wav")
    (tmp_path / "pack" / "notes.csv").write_text((tmp_path / "pack" / "notes.csv").read_text().replace(",1,", ",0,", 1))
    (problem,) = verify_pack(tmp_path / "pack").problems
    assert "notes.csv: lists 0 clips as short, pack.json counts 1; copy the pack again" in problem


@pytest.mark.parametrize("seconds", [0.4999, 0.5, 0.50013, 0.51, 3.0])
@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_a_clip_is_cut_if_it_has_more_samples_than_the_row(dataset, tmp_path, seconds, rate):
    samples = (0.1 * np.random.default_rng(0).standard_normal(round(rate * seconds))).astype(np.float32)
    counts = pack_manifest(dataset({"a.wav": samples}, rate), tmp_path / "pack", SMALL).counts
    assert counts.cut == (round(len(samples) * 8_000 / rate) > 4_000)
    assert counts.cut + counts.short <= 1


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["file", "size"]), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=settings.default.max_examples // 5)
@given(st.data())
def test_a_journal_with_any_values_gives_the_same_pack_or_one_error(made, tmp_path_factory, data):
    lines = [json.loads(line) for line in (made / "pack" / "journal.jsonl").read_text().splitlines()]
    for line in lines[1:]:
        line |= {"short": 0} if "shard" in line else {"short": 0, "retry": False, "needs": ""}
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.sampled_from(lines))
        inner = [value for value in place.values() if isinstance(value, dict) and value]
        target = data.draw(st.sampled_from([place, *inner]))
        target[data.draw(st.sampled_from(sorted(target)))] = data.draw(values)
    folder = tmp_path_factory.mktemp("journal") / "pack"
    shutil.copytree(made / "pack", folder)
    (folder / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if data.draw(st.booleans()):
        (folder / "pack.json").unlink()
    records = JournalRecords.read(folder / "journal.jsonl")
    assert all("/" not in entry.shard.file for entry in records.finished.values() if entry.shard)
    try:
        pack_manifest(made / "set.csv", folder, SETTINGS)
    except EpannsError as error:
        assert "\n" not in str(error)
        return
    for name in ("shard-00000.h5", "shard-00001.h5", "shard-00002.h5"):
        assert (folder / name).read_bytes() == (made / "pack" / name).read_bytes()


HANGING = """
import sys
from epanns.cli import pack
from epanns.cli.main import main
from epanns.data.packing import shard_packing
from tests.data import decoders

if __name__ == "__main__":
    where, manifest, out, jobs = sys.argv[1:]
    pack.DEADLINE_SECONDS = 0.3  # for a hang in the main process, where signals are noticed at the next clip only
    if where == "decoder":
        shard_packing.convert_clip = decoders.hang
    else:
        shard_packing.parts_of = lambda *arguments: decoders.hang_for_ever()
    options = ["--sample-rate", "8000", "--seconds", "0.5", "--clips-per-shard", "8"]
    main(["pack", manifest, "--out", out, "--jobs", jobs, *options])
"""


@pytest.mark.parametrize(
    ("where", "jobs", "number"),
    [("decoder", 1, signal.SIGINT), ("decoder", 2, signal.SIGTERM), ("main", 1, signal.SIGTERM)],
)
def test_a_signal_ends_a_run_that_hangs(made, tmp_path, where, jobs, number):
    arguments = [where, made / "set.csv", tmp_path / "pack", jobs]
    with subprocess.Popen(
        [sys.executable, "-c", HANGING, *map(str, arguments)],
        cwd=Path(__file__).parents[2],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while not (tmp_path / "pack" / "journal.jsonl").exists():
            time.sleep(0.01)
        time.sleep(0.3)
        process.send_signal(number)
        begun = time.monotonic()
        _, error = process.communicate(timeout=30)
        assert time.monotonic() - begun < 4
    assert process.returncode == 128 + number
    assert error.count("\n") == 1
    assert re.search(rf"stopped by signal {number}.* the same command", error)
    assert pack_manifest(made / "set.csv", tmp_path / "pack", SETTINGS).counts.clips == 20
