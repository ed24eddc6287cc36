"""Peak memory of packing data sets of several sizes.

    python benchmarks/pack_memory.py [--folder FOLDER] [--quick]

The memory is that of the whole command, `epanns pack --jobs 2`: the sum over its processes, with shared pages counted
once. Two runs pack ten-second FLAC clips from 44.1 kHz to 32 kHz. A third run has many more clips of a quarter of a
second, which shows memory that grows with the number of clips rather than with their length. To save disk space, many
clips of a manifest share an audio file; each clip is decoded and packed separately.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile
from pack_flac import write_clip
from record import peak_of_command, save

from epanns.data.clip import Clip
from epanns.data.manifest import Manifest, write_manifest
from epanns.labels import LabelSet

JOBS = 2
TARGET_MB = 600
FILES = 50  # of each length


def write_short_clip(folder: Path, number: int) -> Path:
    """Write a quarter of a second at 8 kHz."""
    path = folder / f"short-{number:05d}.wav"
    soundfile.write(path, 0.1 * np.random.default_rng(number).standard_normal(2_000), 8_000, subtype="PCM_16")
    return path


def peak_of(folder: Path, name: str, files: list[Path], n_clips: int, options: list[str]) -> dict[str, float]:
    """Pack `n_clips` clips that use the files in turn; return the peak in MB and the clips per second."""
    clips = tuple(
        Clip(f"clip-{number:08d}", str(files[number % len(files)]), ("noise",), "train") for number in range(n_clips)
    )
    manifest = folder / f"{name}.csv"
    write_manifest(Manifest(name, LabelSet.of(["noise"]), clips), manifest)
    with tempfile.TemporaryDirectory(dir=folder) as out:
        command = [sys.executable, "-m", "epanns", "pack", str(manifest), "--out", f"{out}/pack"]
        peak, seconds = peak_of_command([*command, "--jobs", str(JOBS), *options])
    return {"clips": n_clips, "peak_mb": round(peak / 1e6, 1), "clips_per_second": round(n_clips / seconds, 1)}


def main() -> None:
    """Pack at each size and save the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="Folder of clips and packs (3 GB); a temporary folder by default.")
    parser.add_argument("--quick", action="store_true", help="A tenth of the clips, no record.")
    arguments = parser.parse_args()
    share = 10 if arguments.quick else 1
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        long_files = [write_clip(folder, number) for number in range(FILES)]
        short_files = [write_short_clip(folder, number) for number in range(FILES)]
        short_options = ["--sample-rate", "8000", "--seconds", "0.25"]
        runs = [
            {"clip_seconds": seconds} | peak_of(folder, name, files, n_clips // share, options)
            for seconds, name, files, n_clips, options in (
                (10, "fewer", long_files, 500, []),
                (10, "more", long_files, 4_000, []),
                (0.25, "short", short_files, 200_000, short_options),
            )
        ]
    peaks = [run["peak_mb"] for run in runs]
    if arguments.quick:
        print(runs)
        return
    sizes = ", ".join(f"{run['clips']} clips of {run['clip_seconds']} s" for run in runs)
    save(
        "pack_memory",
        what=f"peak memory of packing with --jobs {JOBS}: {sizes}",
        against="-",
        target=f"under {TARGET_MB} MB however many clips",
        met=max(peaks) < TARGET_MB,
        result={"runs": runs, "headline": " / ".join(f"{peak:.0f} MB" for peak in peaks)},
    )


if __name__ == "__main__":
    main()
