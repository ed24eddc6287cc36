"""Time and memory of the manifest of AudioSet's largest list, and whether both are linear in its rows.

    python benchmarks/manifest_rows.py [--rows 2041789] [--folder DIR]

A list in the official format is generated, with empty files in place of the audio: as many as PANNs' authors could
download, in 41 folders like theirs. `epanns data audioset` runs on a quarter, a half and all of the rows, each in a
separate process. Linearity of time is judged by processor time, which other load on the machine affects less.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import record

from epanns.labels import audioset

ROWS = 2_041_789
FOUND = 1_913_637 / ROWS  # fraction that PANNs' authors could download
PARTS = 41
ALPHABET = np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", "S1")
# Fractions of AudioSet's balanced and evaluation segments that have 1, 2, ... 10 labels (measured).
LABELS_OF_A_ROW = np.array([0.241, 0.366, 0.22, 0.096, 0.042, 0.02, 0.009, 0.003, 0.002, 0.001])
FRACTIONS = (0.25, 0.5, 1.0)
MOST_SECONDS, MOST_GB, MOST_GROWTH = 120, 2.0, 1.25
AT_ONCE = 100_000


def main() -> None:
    """Measure the three sizes and save the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--folder", type=Path, default=temporary_folder(), help="Folder of the temporary files.")
    arguments = parser.parse_args()
    sizes = [measure(round(arguments.rows * fraction), arguments.folder) for fraction in FRACTIONS]
    whole = sizes[-1]
    growth = {
        key: round(whole[key] / whole["rows"] / (sizes[0][key] / sizes[0]["rows"]), 3)
        for key in ("cpu_seconds", "peak_gb")
    }
    result = {
        "sizes": sizes,
        "growth_per_row": growth,
        "headline": f"{whole['seconds']:.0f} s, {whole['peak_gb']:.2f} GB; "
        f"per row {growth['cpu_seconds']:.2f} x the time and {growth['peak_gb']:.2f} x the memory of a quarter",
    }
    record.save(
        "manifest_rows",
        what=f"manifest of {whole['rows']:,} AudioSet rows, {whole['found']:,} files found in {PARTS} folders"
        f"{' in memory (tmpfs)' if str(arguments.folder).startswith('/dev/shm') else ''}",
        against="-",
        target=f"under {MOST_SECONDS} s and {MOST_GB:g} GB for {ROWS:,} rows, linear: "
        f"per row at most {MOST_GROWTH} x what a quarter takes",
        met=whole["rows"] >= ROWS
        and whole["seconds"] < MOST_SECONDS
        and whole["peak_gb"] < MOST_GB
        and max(growth.values()) <= MOST_GROWTH,
        result=result,
    )


def temporary_folder() -> Path:
    """Return a folder in memory if two million inodes fit there, else the default folder of temporary files."""
    shared = Path("/dev/shm")
    return shared if shared.is_dir() and shutil.disk_usage(shared).free > 8e9 else Path(tempfile.gettempdir())


def measure(rows: int, folder: Path) -> dict[str, Any]:
    """Make the data set, write its manifest in a child process, and return the time and the memory."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        root = Path(name, "audioset")
        found = make_audioset(root, rows)
        out = Path(name, "manifest.csv")
        command = [sys.executable, "-m", "epanns", "data", "audioset", str(root), "--out", str(out)]
        before = record.children_seconds()
        peak, seconds = record.peak_of_command(command, every=0.1)
        cpu_seconds = record.children_seconds() - before
        counts = json.loads(out.with_suffix(".info.json").read_text())
        if (counts["expected"], counts["found"], counts["ignored"]) != (rows, found, 0):
            sys.exit(f"{rows} rows and {found} files were made; the manifest counts {counts}")
        subprocess.run(["rm", "-rf", str(root)], check=True)  # much faster than shutil for two million files
    return {
        "rows": rows,
        "found": found,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "peak_gb": round(peak / 1e9, 3),
    }


def make_audioset(root: Path, rows: int) -> int:
    """Write the list, and empty files for a fraction of its rows; return the number of files."""
    rng = np.random.default_rng(0)
    parts = root / "unbalanced_train_segments"
    folders = [parts / f"unbalanced_train_segments_part{part:02d}" for part in range(PARTS)]
    for folder in folders:
        folder.mkdir(parents=True)
    n_files = 0
    with (root / "unbalanced_train_segments.csv").open("w") as file:
        file.write("# Segments csv created Sun Mar  5 10:54:31 2017\n")
        file.write(f"# num_ytids={rows}, num_segs={rows}, num_unique_labels=527, num_positive_labels=0\n")
        file.write("# YTID, start_seconds, end_seconds, positive_labels\n")
        for number, (video_id, line) in enumerate(draw_rows(rng, rows)):
            file.write(line)
            if rng.random() < FOUND:
                (folders[number * PARTS // rows] / f"Y{video_id}.wav").touch()
                n_files += 1
    return n_files


def draw_rows(rng: np.random.Generator, rows: int) -> Iterator[tuple[str, str]]:
    """Yield ids and lines; class frequencies follow Zipf's law and differ by a factor of some hundred."""
    mids = np.array(audioset().mids)[rng.permutation(len(audioset()))]
    shares = 1 / np.arange(1, len(mids) + 1)
    shares /= shares.sum()
    for first in range(0, rows, AT_ONCE):
        n = min(AT_ONCE, rows - first)
        ids = ALPHABET[rng.integers(0, len(ALPHABET), (n, 11))].view("S11").ravel().astype(str).tolist()
        starts = rng.integers(0, 60, n) * 10
        n_labels = rng.choice(np.arange(1, 11), n, p=LABELS_OF_A_ROW)
        draws = rng.choice(mids, (n, 40), p=shares)
        for video_id, start, count, drawn in zip(ids, starts.tolist(), n_labels.tolist(), draws.tolist(), strict=True):
            labels = ",".join(list(dict.fromkeys(drawn))[:count])
            yield video_id, f'{video_id}, {start}.000, {start + 10}.000, "{labels}"\n'


if __name__ == "__main__":
    main()
