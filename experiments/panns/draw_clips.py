"""Draw calibration clips of a split, and write a manifest of them: ``python draw_clips.py MANIFEST --split S --out M``.

The splits of the written manifest are ``calibration``, ``validation`` and ``training``, the clips that are left.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from epanns.data.manifest import read_manifest, write_manifest
from epanns.errors import DataError
from epanns.seeding import numpy_generator


def main() -> None:
    """Read the manifest, draw, and write the new manifest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--split", required=True)
    parser.add_argument("--calibration", type=int, required=True)
    parser.add_argument("--validation", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    try:
        draw(asked.manifest, asked.split, asked.calibration, asked.validation, asked.out)
    except DataError as error:
        raise SystemExit(f"error: {error}") from None


def draw(manifest: Path, split: str, n_calibration: int, n_validation: int, out: Path) -> None:
    """Write a manifest of the clips of a split, drawn at random into its new splits.

    Raises:
        DataError: If the split has fewer clips than are drawn, or none for training where validation clips are drawn.
    """
    given = read_manifest(manifest)
    clips = [clip for clip in given.clips if clip.split == split]
    asked = n_calibration + n_validation + bool(n_validation)
    if len(clips) < asked:
        raise DataError(
            f"{manifest}: {len(clips)} clips of the split {split} have a file; must be at least {asked}; add clips, or "
            "draw fewer with --calibration-clips"
        )
    names = ["calibration"] * n_calibration + ["validation"] * n_validation
    names += ["training"] * (len(clips) - len(names))
    order = numpy_generator("draw clips", 0).permutation(len(clips)).tolist()
    drawn = tuple(replace(clips[place], split=name) for place, name in sorted(zip(order, names, strict=True)))
    write_manifest(replace(given, clips=drawn, missing=(), ignored=0, notes=()), out)


if __name__ == "__main__":
    main()
