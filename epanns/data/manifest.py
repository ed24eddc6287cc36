"""The manifest: which clips a data set has, where they lie and what is heard in them.

A manifest is four files: ``NAME.csv`` with the clips that were found, ``NAME.missing.csv`` with those that were not,
``NAME.labels.csv`` with the class order, and ``NAME.info.json`` with the counts. Any tool can write them; importers
for known layouts are beside this module. Reading is in `epanns.data.manifest_reader`.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from epanns import atomic
from epanns.errors import DataError, OutputError
from epanns.labels import LabelSet

COLUMNS = ["clip_id", "path", "start", "duration", "labels", "split", "fold"]
LABEL_SEPARATOR = ";"
LONGEST_CLIP_ID = 1024  # bytes of UTF-8; every row of a pack's audio_name is as long as the longest


@dataclass(frozen=True, slots=True)
class Clip:
    """One row of a manifest.

    Attributes:
        clip_id: Unique in the manifest.
        path: The audio file, absolute; text, since millions of `Path` objects would not fit in memory.
        labels: Names of the classes that are heard.
        split: Such as ``train``, ``val``, ``test`` or ``fold1``.
        start: Where the clip begins in the file, in seconds; None for the beginning.
        duration: Seconds from there; None for all that follows.
        fold: Number of the cross-validation fold, where the data set has folds.
    """

    clip_id: str
    path: str
    labels: tuple[str, ...]
    split: str
    start: float | None = None
    duration: float | None = None
    fold: int | None = None


@dataclass(frozen=True)
class Manifest:
    """A data set on disk.

    Attributes:
        dataset: Its name, as results will cite it.
        labels: All classes, in the order of a tagger's outputs.
        clips: Those whose file was found.
        missing: Those that the data set's own lists name and whose file was not found.
        ignored: Files below the data set's folder that no importer can use, counted.
    """

    dataset: str
    labels: LabelSet
    clips: tuple[Clip, ...]
    missing: tuple[Clip, ...] = ()
    ignored: int = 0

    def __post_init__(self) -> None:
        problems = _problems_of([*self.clips, *self.missing], self.labels)
        if problems:
            others = f" (and {len(problems) - 1} more such problems)" if len(problems) > 1 else ""
            raise DataError(f"{self.dataset}, {problems[0]}{others}")

    @property
    def splits(self) -> dict[str, int]:
        """Clips of each split, missing ones included."""
        return dict(sorted(Counter(clip.split for clip in (*self.clips, *self.missing)).items()))

    def summary(self) -> dict[str, Any]:
        """Return the counts that `epanns data` prints."""
        return {
            "dataset": self.dataset,
            "expected": len(self.clips) + len(self.missing),
            "found": len(self.clips),
            "missing": len(self.missing),
            "ignored": self.ignored,
            "classes": len(self.labels),
            "splits": self.splits,
        }


def _problems_of(clips: Sequence[Clip], labels: LabelSet) -> list[str]:
    """Return what is wrong with the clips as a set; ``row 1`` is the first clip."""
    known = set(labels.names) | {mid for mid in labels.mids if mid}
    first_rows: dict[str, int] = {}
    problems = []
    for row, clip in enumerate(clips, start=1):
        earlier = first_rows.setdefault(clip.clip_id, row)
        if earlier != row:
            problems.append(_repetition(clip, row, clips[earlier - 1], earlier))
        problem = _problem_of_clip(clip, known)
        if problem:
            problems.append(f"row {row}: {problem}")
    return problems


def _repetition(clip: Clip, row: int, other: Clip, earlier: int) -> str:
    if clip.split != other.split:
        return (
            f"rows {earlier} and {row}: clip_id {clip.clip_id!r} is in the splits {other.split!r} and {clip.split!r}: "
            "a leak; keep it in one"
        )
    return f"rows {earlier} and {row}: clip_id {clip.clip_id!r} stands twice; clip ids must be unique"


def _problem_of_clip(clip: Clip, known: set[str]) -> str | None:
    """Return the first thing wrong with one clip."""
    problem = _problem_of_text("clip_id", clip.clip_id) or _problem_of_text("path", clip.path)
    if problem:
        return problem
    if len(clip.clip_id.encode()) > LONGEST_CLIP_ID:
        return f"clip_id {clip.clip_id[:40]!r}... is longer than {LONGEST_CLIP_ID} bytes; shorten it"
    if not clip.split or clip.split != clip.split.strip():
        return f"split {clip.split!r} of {clip.clip_id!r} must be a name such as train, val, test or fold1"
    if not clip.labels:
        return f"clip {clip.clip_id!r} has no labels; give at least one or remove it"
    unknown = [label for label in clip.labels if label not in known]
    if unknown:
        return f"unknown label {unknown[0]!r} of clip {clip.clip_id!r}: not among the {len(known)} classes"
    if len(set(clip.labels)) != len(clip.labels):
        return f"clip {clip.clip_id!r} names a label twice: {LABEL_SEPARATOR.join(clip.labels)!r}"
    return None


def _problem_of_text(column: str, text: str) -> str | None:
    """Refuse what HDF5's fixed-length UTF-8 or a CSV line could not hold."""
    if not text or text != text.strip() or not text.isprintable():
        return f"{column} {text!r} must be printable text without blanks around it; rename the file or the clip"
    return None


def labels_path(manifest: Path) -> Path:
    """Return the file with the class order, beside the manifest."""
    return manifest.with_suffix(".labels.csv")


def missing_path(manifest: Path) -> Path:
    """Return the file with the clips that were not found, beside the manifest."""
    return manifest.with_suffix(".missing.csv")


def info_path(manifest: Path) -> Path:
    """Return the file with the counts, beside the manifest."""
    return manifest.with_suffix(".info.json")


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write the four files; files that are there already must hold the same.

    Raises:
        OutputError: If one exists with other contents; none is changed then.
        DataError: If a label holds the separator.
    """
    for label in manifest.labels.names:
        if LABEL_SEPARATOR in label:
            raise DataError(f"label {label!r} holds {LABEL_SEPARATOR!r}, which separates labels; rename it")
    texts = {
        labels_path(path): manifest.labels.to_csv(),
        missing_path(path): _csv_text(manifest.missing, path.parent),
        info_path(path): json.dumps(manifest.summary(), indent=2, ensure_ascii=False) + "\n",
        path: _csv_text(manifest.clips, path.parent),  # last: a manifest that exists is complete
    }
    for file, text in texts.items():
        if file.exists() and (not file.is_file() or file.read_bytes() != text.encode()):
            raise OutputError(f"{file} exists already and holds something else: choose another --out or delete it")
    for file, text in texts.items():
        if not file.exists():
            atomic.write_text(file, text)


def _csv_text(clips: Sequence[Clip], folder: Path) -> str:
    base = f"{folder.resolve()}/"
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for clip in clips:
        path = clip.path.removeprefix(base)
        times = ["" if seconds is None else repr(seconds) for seconds in (clip.start, clip.duration)]
        fold = "" if clip.fold is None else clip.fold
        writer.writerow([clip.clip_id, path, *times, LABEL_SEPARATOR.join(clip.labels), clip.split, fold])
    return text.getvalue()
