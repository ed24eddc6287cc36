"""Packs of every format, changed at random: reading gives `PackError` or the right clips.

    python tests/data/fuzz_packs.py KIND FOLDER --mutants 20000 --seed 1

runs by hand what `test_fuzz` runs in small. Mutants are read in child processes with a memory limit and an alarm, so
that a crash, a hang or a flood of memory ends the child, and the parent names the mutant. Formats without checksums
cannot tell wrong samples from right ones: of them, clips of the right shape are right.
"""

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import h5py  # noqa: E402
import numpy as np  # noqa: E402

from epanns.data.datasets.synthetic import SyntheticSettings, make_synthetic  # noqa: E402
from epanns.data.manifest import write_manifest  # noqa: E402
from epanns.data.packing.packer import pack_manifest  # noqa: E402
from epanns.data.packs import shard as shard_module  # noqa: E402
from epanns.data.packs.pack import open_pack  # noqa: E402
from epanns.data.packs.pack_format import PackSettings  # noqa: E402
from epanns.errors import PackError  # noqa: E402
from epanns.labels import LabelSet  # noqa: E402
from tests.data import mp3_file, panns_files  # noqa: E402

SECONDS_PER_MUTANT = 20
MEMORY = 2 << 30  # bytes beyond what the modules take
BATCH = 250  # mutants of one child


def make(kind: str, folder: Path) -> tuple[Path, Path]:
    """Make an undamaged pack; return the path to open and the file to change."""
    names = panns_files.clip_names(6)
    if kind == "panns":
        path = panns_files.write_waveforms(folder / "x.h5", names, missing=names[2:3])
        return path, path
    if kind == "panns_gzip":
        path = panns_files.write_waveforms(folder / "x.h5", names, chunks=(2, 20), compression="gzip", fletcher32=True)
        return path, path
    if kind == "index":
        path = panns_files.write_waveforms(folder / "waveforms" / "x.h5", names)
        index = panns_files.write_index(folder / "indexes" / "x.h5", [path])
        return index, index
    if kind == "mp3":
        contents = [mp3_file.encoded(0.1, 300 + 100 * number) for number in range(3)]
        path = mp3_file.write_mp3_file(folder / "x.hdf", ["a", "b", "c"], contents, np.eye(3, mp3_file.CLASSES))
        return path, path
    made = SyntheticSettings(clips=6, classes=3, seconds=0.5, sample_rate=8_000)
    write_manifest(make_synthetic(folder / "set", made), folder / "set.csv")
    pack = folder / "pack"
    pack_manifest(folder / "set.csv", pack, PackSettings(sample_rate=8_000, seconds=0.02, clips_per_shard=3))
    if kind == "old_shard":
        _with_old_headers(pack / "shard-00001.h5")
    return pack, pack / ("pack.json" if kind == "json" else "shard-00001.h5")


def _with_old_headers(shard: Path) -> None:
    """Rewrite a shard with the structures of HDF5 1.0, which have no checksums: more mutants pass the parser.

    Such a shard is refused; here the check is disabled, so that the checks after it are tested too.
    """
    shard_module.headers_have_checksums = lambda file: True
    copy = shard.with_suffix(".old")
    with h5py.File(shard) as file, h5py.File(copy, "w", libver=("earliest", "v110")) as old:
        for name in file:
            values, like = file[name][...], file[name]
            old.create_dataset(name, data=values, dtype=like.dtype, chunks=like.chunks, fletcher32=True)
    copy.replace(shard)


KINDS = ("shard", "old_shard", "json", "panns", "panns_gzip", "index", "mp3")
HAS_CHECKSUMS = {"shard", "json"}


def read(path: Path, kind: str) -> list[object]:
    """Read all of a pack, and check the properties of any result."""
    classes = {"mp3": mp3_file.CLASSES}.get(kind, panns_files.CLASSES)
    pack = open_pack(path, labels=LabelSet.numbered(classes), seconds=0.1)
    columns = pack.columns
    waveform = np.empty(pack.clip_samples, np.int16)
    clips = []
    for index in range(len(pack)):
        n_samples = pack.read_into(index, waveform)
        assert 0 < n_samples <= pack.clip_samples
        clips.append((columns.clip_ids[index].decode(), n_samples, waveform.tobytes()))
    assert len({clip[0] for clip in clips}) == len(clips) == len(columns.targets) == len(columns.n_samples)
    target = columns.targets.dense()
    assert target.shape == (len(pack), len(pack.labels))
    pack.close()
    return [clips, target.tobytes(), pack.sample_rate, pack.clip_samples, pack.labels.names]


_NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 1 << 31, 1 << 40)


def mutant(whole: bytes, rng: random.Random) -> bytes:
    """Change a file in one to a few places, half of them where HDF5 keeps its structures."""
    content = bytearray(whole)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        regions = ((0, 2048), (0, len(content)), (max(0, len(content) - 4096), len(content)))
        first, last = rng.choice(regions)
        place = rng.randrange(first, max(first + 1, min(last, len(content))))
        size = rng.choice((1, 1, 1, 2, 4, 8))
        kind = rng.random()
        if kind < 0.35:
            values = (
                0,
                1,
                2,
                0xFF,
                0x7F,
                0x80,
                len(content),
                len(content) - place,
                rng.getrandbits(64),
                1 << 31,
                1 << 40,
            )
            value = rng.choice(values) % (1 << 8 * size)
            content[place : place + size] = value.to_bytes(size, "little")
        elif kind < 0.75:
            content[place] ^= 1 << rng.randrange(8)
        elif kind < 0.85:
            there = rng.randrange(len(content))
            content[place : place + 8 * size] = content[there : there + 8 * size]
        elif kind < 0.95:
            content[place : place + 64 * size] = bytes(64 * size)
        else:
            del content[place:]
        if not content:
            break
    return bytes(content)


_TOKENS = (
    "-1",
    "0",
    "1e400",
    "NaN",
    "null",
    "true",
    "[]",
    "{}",
    '""',
    '"\\ud800"',
    '"../x"',
    "99999999999999999999",
    "1.5",
)


def mutant_of_json(whole: bytes, rng: random.Random) -> bytes:
    """Put another value in the place of one, or change bytes."""
    if rng.random() < 0.3:
        return mutant(whole, rng)
    content = json.loads(whole)
    place: object = content
    while True:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        if not keys:
            return whole
        key = rng.choice(list(keys))
        if isinstance(place[key], dict | list) and len(place[key]) and rng.random() < 0.9:
            place = place[key]
            continue
        how = rng.random()
        if how < 0.15:
            del place[key]
        elif how < 0.3 and isinstance(place, list):
            place.append(place[key])
        else:
            place[key] = "@@"
        return json.dumps(content).replace('"@@"', rng.choice(_TOKENS)).encode()


def child(kind: str, path: Path, changed: Path, whole: bytes, seeds: range, expected: list[object]) -> dict[str, int]:
    """Read mutants; a file gives the parent the number of the last one begun."""
    counts = {"refused": 0, "right": 0, "other": 0}
    progress = changed.with_suffix(".seed")
    for seed in seeds:
        rng = random.Random(seed)
        changed.write_bytes((mutant_of_json if kind == "json" else mutant)(whole, rng))
        progress.write_text(str(seed))
        signal.alarm(SECONDS_PER_MUTANT)
        try:
            found = read(path, kind)
        except PackError:
            counts["refused"] += 1
            continue
        right = found == expected
        assert right or kind not in HAS_CHECKSUMS, f"mutant {seed} gave wrong data"
        counts["right" if right else "other"] += 1
    progress.unlink()
    return counts


def fuzz(kind: str, folder: Path, mutants: int, seed: int) -> dict[str, int]:
    """Read a number of mutants in children; stop at the first that breaks the rule."""
    totals = {"refused": 0, "right": 0, "other": 0}
    for first in range(seed, seed + mutants, BATCH):
        last = min(first + BATCH, seed + mutants)
        done = subprocess.run(
            [sys.executable, __file__, kind, str(folder), "--child", str(first), str(last)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            at = next((file.read_text() for file in folder.rglob("*.seed")), "none")
            raise AssertionError(f"{kind}, mutant {at}: exit code {done.returncode}\n{done.stderr[-3000:]}")
        for name, count in json.loads(done.stdout).items():
            totals[name] += count
    return totals


def main() -> None:
    """Run a child or, without ``--child``, all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mutants", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", type=int, nargs=2)
    asked = parser.parse_args()
    if asked.child is None:
        print(json.dumps(fuzz(asked.kind, asked.folder, asked.mutants, asked.seed)))
        return
    folder = asked.folder / "child"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    path, changed = make(asked.kind, folder)
    expected, whole = read(path, asked.kind), changed.read_bytes()
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
    try:
        print(json.dumps(child(asked.kind, path, changed, whole, range(*asked.child), expected)))
    except BaseException:
        traceback.print_exc()
        sys.exit(1)


if __name__ == "__main__":
    main()
