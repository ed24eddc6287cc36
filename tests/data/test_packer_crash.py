"""A packer that is stopped, killed or out of disk space, and the run after it."""

import csv
import functools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from epanns import atomic
from epanns.data.clip import Clip
from epanns.data.manifest import Manifest, write_manifest
from epanns.data.packing.packer import pack_manifest
from epanns.data.packing.packing_journal import Journal
from epanns.data.packs import safe_hdf5
from epanns.data.packs.pack_format import PackSettings
from epanns.errors import OutputError
from epanns.labels import LabelSet
from tests import builders
from tests.data.conftest import SETTINGS
from tests.data.packing.test_decoding_pool import is_there

ROOT = Path(__file__).parents[2]
MANY = PackSettings((), 8_000, 1.0, clips_per_shard=25)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A manifest of 1500 clips, among them bad ones, that takes seconds to pack; its folder."""
    folder = tmp_path_factory.mktemp("many")
    rng = np.random.default_rng(0)
    for number in range(6):
        soundfile.write(folder / f"{number}.flac", 0.1 * rng.standard_normal(44_100), 44_100)
    (folder / "5.flac").write_bytes((folder / "5.flac").read_bytes()[:9_000])
    paths = [folder / f"{5 if number % 40 == 7 else number % 5}.flac" for number in range(1_500)]
    clips = tuple(Clip(f"clip-{number:04d}", str(path), ("dog",), "train") for number, path in enumerate(paths))
    write_manifest(Manifest("many", LabelSet.of(["dog"]), clips), folder / "m.csv")
    return folder


@pytest.fixture(scope="module")
def undisturbed(many):
    """The packs of an undisturbed run, by format."""
    for name in ("epanns", "panns"):
        pack_manifest(many / "m.csv", many / name, replace(MANY, format=name), max_bad=0.1)
    return {name: contents(many / name) for name in ("epanns", "panns")}


# An index names its folder by its absolute path.
contents = functools.partial(builders.contents, without=r"^indexes")


def command(many, out, shard_format="epanns", jobs=2):
    """The command line that packs `many` to `out`."""
    options = ["--sample-rate", 8000, "--seconds", 1, "--clips-per-shard", 25, "--max-bad", 0.1]
    line = [sys.executable, "-m", "epanns", "pack", many / "m.csv", "--out", out, "--jobs", jobs]
    return [str(word) for word in [*line, "--format", shard_format, *options]]


def start(arguments):
    return subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished_shards(folder):
    """Inode and time of change of every finished shard of the journal."""
    journal = folder / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True) if journal.exists() else []
    records = [json.loads(line) for line in lines if line.endswith("\n")]
    files = [folder / record["of"]["file"] for record in records if record.get("of")]
    return {file: (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}


def workers_of(process):
    text = "".join(path.read_text() for path in Path("/proc", str(process), "task").glob("*/children"))
    children = [int(word) for word in text.split()]
    return [child for child in children if b"spawn_main" in Path("/proc", str(child), "cmdline").read_bytes()]


def wait_until(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("shard_format", ["epanns", "panns"])
def test_a_run_killed_at_any_moment_ends_with_the_same_bytes(many, undisturbed, tmp_path, shard_format):
    rng = random.Random(shard_format)
    out, kept = tmp_path / "pack", {}
    for attempt in range(12):  # later ones get more time, so that a busy machine gets to a first shard too
        with start(command(many, out, shard_format)) as process:
            try:
                process.wait(timeout=rng.uniform(0.4, 1.0) * (1 + attempt / 2))
            except subprocess.TimeoutExpired:
                process.kill()
        now = finished_shards(out) if out.exists() else {}
        assert {file: now[file] for file in kept} == kept  # what was finished is not written again
        kept = now
    assert subprocess.run(command(many, out, shard_format), cwd=ROOT, check=False).returncode == 0
    now = finished_shards(out)
    assert {file: now[file] for file in kept} == kept
    assert contents(out) == undisturbed[shard_format]
    assert kept  # some runs came far enough for this to say anything


@pytest.mark.slow
def test_a_killed_worker_is_replaced(many, undisturbed, tmp_path):
    out = tmp_path / "pack"
    with start(command(many, out)) as process:
        wait_until(lambda: out.exists() and finished_shards(out))
        workers = workers_of(process.pid)
        assert len(workers) == 2
        os.kill(workers[0], signal.SIGKILL)
        _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (0, "")
    assert not any(is_there(worker) for worker in workers)
    assert contents(out) == undisturbed["epanns"]


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138)])
def test_a_signal_ends_a_run_with_one_line(many, undisturbed, tmp_path, jobs, number, code):
    out = tmp_path / "pack"
    with start(command(many, out, jobs=jobs)) as process:
        wait_until(lambda: out.exists() and finished_shards(out))
        workers = workers_of(process.pid)
        for target in (*workers, process.pid):  # as a terminal does, and a scheduler that ends a job
            os.kill(target, number)
        output, error = process.communicate(timeout=30)
    assert (process.returncode, output) == (code, "")
    message = rf"epanns: .*pack: stopped by signal {number} after (\d+) of 60 shards; run the same command again"
    n_finished = int(re.match(message, error)[1])
    assert error.count("\n") == 1
    assert n_finished == len(finished_shards(out)) >= 1
    assert not list(out.glob("*.partial"))
    assert not any(is_there(worker) for worker in workers)
    kept = finished_shards(out)
    done = subprocess.run([*command(many, out), "--json"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["shards_resumed"] == n_finished
    assert {file: finished_shards(out)[file] for file in kept} == kept
    assert contents(out) == undisturbed["epanns"]


@pytest.mark.parametrize("shard_format", ["epanns", "panns"])
@pytest.mark.parametrize("full", ["writing", "syncing", "noting"])
def test_a_full_disk_leaves_every_finished_shard_whole(made, tmp_path, monkeypatch, shard_format, full):
    settings = replace(SETTINGS, format=shard_format)
    out, whole = tmp_path / "pack", tmp_path / "whole"
    pack_manifest(made / "set.csv", whole, settings)
    with monkeypatch.context() as patch:
        fill_the_disk(patch, full)
        with pytest.raises(OutputError, match=r"cannot be written \(No space left on device\); make room"):
            pack_manifest(made / "set.csv", out, settings)
    assert not list(out.rglob("*.partial"))
    kept = finished_shards(out)
    assert len(kept) == 1
    (name,) = (str(file.relative_to(out)) for file in kept)
    assert contents(out)[name] == contents(whole)[name]
    assert pack_manifest(made / "set.csv", out, settings).n_resumed == 1
    assert {file: finished_shards(out)[file] for file in kept} == kept
    assert contents(out) == contents(whole)


def fill_the_disk(patch, full):
    """Fill the disk at the second shard: when it is begun, renamed, or added to the journal."""
    places = {
        "writing": (safe_hdf5.os, "posix_fallocate", 3),  # twice for each file
        "syncing": (atomic, "put_in_place", 2),
        "noting": (Journal, "_append", 3),  # the first is the header
    }
    where, name, turn = places[full]
    function, calls = getattr(where, name), []

    def fail_at_turn(*arguments):
        calls.append(arguments)
        if len(calls) < turn:
            return function(*arguments)
        if full == "noting":
            arguments[0]._file.write(b'{"clip_id": "half a li')
        raise OSError(28, "No space left on device")

    patch.setattr(where, name, fail_at_turn)


@pytest.mark.slow
def test_rejects_are_those_of_the_undisturbed_run(undisturbed):
    text = undisturbed["epanns"]["rejects.csv"].decode()
    rejects = list(csv.DictReader(text.splitlines()))
    assert [row["clip_id"] for row in rejects] == [f"clip-{number:04d}" for number in range(7, 1_500, 40)]
    assert all("cannot be decoded" in row["reason"] or "truncated" in row["reason"] for row in rejects)
    assert undisturbed["panns"]["rejects.csv"].decode() == text
