"""Strict reading of manifests; the format and writing are in `epanns.data.manifest`."""

import csv
import json
import math
from pathlib import Path

from epanns.data.manifest import (
    COLUMNS,
    LABEL_SEPARATOR,
    Clip,
    Manifest,
    info_path,
    labels_path,
    missing_path,
)
from epanns.errors import DataError
from epanns.labels import LabelSet


def read_manifest(path: Path) -> Manifest:
    """Read a manifest and the files beside it.

    ``NAME.missing.csv`` and ``NAME.info.json`` may be absent, so that a manifest can be written by hand;
    the class order in ``NAME.labels.csv`` may not.

    Raises:
        DataError: If a file is unreadable or a row breaks a rule; file, row and remedy are named.
    """
    clips = _read_clips(path)
    if not labels_path(path).is_file():
        raise DataError(
            f"{labels_path(path)} is missing: write the classes in output order beside {path.name}, "
            "first line index,mid,display_name (mid may be empty)"
        )
    labels = LabelSet.from_csv(labels_path(path))
    missing = _read_clips(missing_path(path)) if missing_path(path).exists() else ()
    dataset, ignored = _read_info(path)
    try:
        return Manifest(dataset, labels, clips, missing, ignored)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _read_clips(path: Path) -> tuple[Clip, ...]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a manifest ({error})") from error
    if not rows or rows[0] != COLUMNS:
        first = ",".join(rows[0])[:80] if rows else ""
        raise DataError(f"{path}: first line must be {','.join(COLUMNS)}, is {first!r}; make it with `epanns data`")
    base = path.parent.resolve()
    return tuple(_clip_of(row, base, f"{path}, row {number}") for number, row in enumerate(rows[1:], start=1))


def _clip_of(row: list[str], base: Path, where: str) -> Clip:
    if len(row) != len(COLUMNS):
        raise DataError(f"{where}: has {len(row)} fields, must have {len(COLUMNS)}: {','.join(COLUMNS)}")
    clip_id, path, start, duration, labels, split, fold = row
    if not path:
        raise DataError(f"{where}: path is empty; name the audio file of clip {clip_id!r}")
    return Clip(
        clip_id=clip_id,
        path=path if path.startswith("/") else f"{base}/{path}",
        labels=tuple(labels.split(LABEL_SEPARATOR)) if labels else (),
        split=split,
        start=_seconds(start, "start", where, least=0.0),
        duration=_seconds(duration, "duration", where, least=1e-6),
        fold=_fold(fold, where),
    )


def _seconds(text: str, column: str, where: str, *, least: float) -> float | None:
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not least <= seconds < math.inf:
        raise DataError(
            f"{where}: {column} {text!r} must be seconds of at least {least:g}, or empty for the whole file"
        )
    return seconds


def _fold(text: str, where: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit()):
        raise DataError(f"{where}: fold {text!r} must be a whole number, or empty")
    return int(text)


def _read_info(path: Path) -> tuple[str, int]:
    """Return the data set's name and its count of ignored files; the manifest's own name where there is no info."""
    info = info_path(path)
    if not info.exists():
        return path.stem, 0
    try:
        given = json.loads(info.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{info}: cannot be read as JSON ({error})") from error
    dataset = given.get("dataset") if isinstance(given, dict) else None
    if not isinstance(dataset, str) or not dataset:
        raise DataError(f'{info}: must be an object with "dataset", the name of the data set')
    ignored = given.get("ignored", 0)
    return dataset, ignored if isinstance(ignored, int) else 0
