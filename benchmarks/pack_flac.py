"""Rate of packing 44.1 kHz FLAC to 32 kHz, compared with soundfile and soxr alone; two processes each.

    python benchmarks/pack_flac.py [--clips 2400] [--repeats 5] [--quick]

The clips are ten seconds of mono noise whose power falls with frequency, with a few tones: FLAC compresses them to 0.85
of their size, a little less than most recordings. The peer does only what every packer must do: read the file and
resample it. It checks and writes nothing. Both sides use two processes and find the files in the page cache; the time
to start the processes is included on both sides. CPU seconds are recorded as well: other load affects them less.
"""

import argparse
import multiprocessing
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
import soxr
from record import rates_in_turn, ratio_text, save

from epanns.data.clip import Clip
from epanns.data.manifest import Manifest, write_manifest
from epanns.labels import LabelSet

RATE, PACK_RATE, SECONDS, JOBS = 44_100, 32_000, 10, 2
TARGET = 0.8


def write_clip(folder: Path, number: int) -> Path:
    """Write one clip and return its path."""
    generator = np.random.default_rng(number)
    n_samples = RATE * SECONDS
    spectrum = np.fft.rfft(generator.standard_normal(n_samples)) / np.sqrt(1 + np.arange(n_samples // 2 + 1))
    samples = np.fft.irfft(spectrum, n_samples)
    samples *= 0.6 / np.abs(samples).max()
    times = np.arange(n_samples) / RATE
    for frequency in generator.uniform(100, 4_000, 3):
        samples += 0.05 * np.sin(2 * np.pi * frequency * times)
    path = folder / f"clip-{number:05d}.flac"
    soundfile.write(path, samples, RATE, subtype="PCM_16")
    return path


def pack(manifest: Path, folder: Path, n_clips: int) -> int:
    """Pack all clips with the command; return their number."""
    with tempfile.TemporaryDirectory(dir=folder) as out:
        command = [sys.executable, "-m", "epanns", "pack", manifest, "--out", f"{out}/pack", "--jobs", str(JOBS)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return n_clips


def read_and_resample(path: Path) -> int:
    """Read and resample one file; return the number of samples."""
    samples, rate = soundfile.read(path, dtype="float32")
    return len(soxr.resample(samples, rate, PACK_RATE, quality="HQ"))


def read_all(paths: list[Path]) -> int:
    """Read and resample all clips in `JOBS` processes; return their number."""
    with multiprocessing.get_context("spawn").Pool(JOBS) as pool:
        lengths = pool.map(read_and_resample, paths, chunksize=8)
        pool.close()
        pool.join()
    assert set(lengths) == {PACK_RATE * SECONDS}
    return len(lengths)


def counting_cpu(function: Callable[[], int], spent: list[float]) -> int:
    """Call a function that starts processes, and append the CPU seconds of the call to `spent`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = function()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent.append(round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2))
    return result


def main() -> None:
    """Make the clips, measure both sides, and save the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=2_400)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="Folder of clips and packs (4 GB); a temporary folder by default.")
    parser.add_argument("--quick", action="store_true", help="100 clips, 2 repeats, no record.")
    arguments = parser.parse_args()
    n_clips, repeats = (100, 2) if arguments.quick else (arguments.clips, arguments.repeats)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        with multiprocessing.get_context("spawn").Pool(JOBS) as pool:
            paths = pool.map(partial(write_clip, folder), range(n_clips))
        clips = tuple(Clip(path.stem, str(path), ("noise",), "train") for path in paths)
        write_manifest(Manifest("noise", LabelSet.of(["noise"]), clips), folder / "m.csv")
        spent: dict[str, list[float]] = {"ours": [], "peer": []}
        ours = partial(counting_cpu, partial(pack, folder / "m.csv", folder, n_clips), spent["ours"])
        peer = partial(counting_cpu, partial(read_all, paths), spent["peer"])
        result = rates_in_turn(ours, peer, repeats) | {"cpu_seconds": spent}
    if arguments.quick:
        print(result)
        return
    ratio = result["ratio"]
    result["headline"] = ratio_text(ratio)
    save(
        "pack_flac",
        what=f"packing {n_clips} mono FLAC clips of 10 s at 44.1 kHz to 32 kHz, --jobs {JOBS}, whole command",
        against=f"soundfile.read and soxr HQ alone on the same files, {JOBS} processes",
        target=f">= {TARGET} x",
        met=ratio["median"] >= TARGET,
        result=result,
    )


if __name__ == "__main__":
    main()
