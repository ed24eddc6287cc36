"""The manifest: which clips a data set has, where they lie and what is heard in them.

A manifest is four files: ``NAME.csv`` with the clips that were found, ``NAME.missing.csv`` with those that were not,
``NAME.labels.csv`` with the class order, and ``NAME.info.json`` with the counts. Any tool can write them; importers
for known layouts are beside this module. The rules for clips are in `epanns.data.clip`, reading is in
`epanns.data.manifest_reader`.
"""

import csv
import functools
import io
import json
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from epanns import atomic
from epanns.data.clip import LABEL_SEPARATOR, Clip, ClipCheck
from epanns.errors import DataError, OutputError
from epanns.labels import LabelSet
from epanns.safe_text import is_printable
from epanns.text_files import read_json
from epanns.workfolder import DRAWING_SECONDS, locked_file

COLUMNS = ["clip_id", "path", "start", "duration", "labels", "split", "fold"]
_ROWS_AT_ONCE = 4096
_LABELS_SUFFIX, _MISSING_SUFFIX, _INFO_SUFFIX = ".labels.csv", ".missing.csv", ".info.json"


@dataclass(frozen=True)
class Manifest:
    """A data set on disk.

    Attributes:
        dataset: Its name, as results will cite it.
        labels: All classes, in the order of a tagger's outputs.
        clips: Those whose file was found.
        missing: Those that the data set's own lists name and whose file was not found.
        ignored: Files below the data set's folder that no importer can use, counted.
        notes: What people should know of it, one sentence each.
    """

    dataset: str
    labels: LabelSet
    clips: tuple[Clip, ...]
    missing: tuple[Clip, ...] = ()
    ignored: int = 0
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check = ClipCheck(self.labels)
        parts = (self.clips, "row"), (self.missing, "missing row")
        for clips, row in parts:
            deque(check.passing(clips, row), maxlen=0)
        try:
            check.finish(*parts)
        except DataError as error:
            raise DataError(f"{self.dataset}, {error}") from error

    @functools.cached_property
    def splits(self) -> dict[str, int]:
        """Clips of each split, missing ones included."""
        return dict(sorted(Counter(clip.split for clip in chain(self.clips, self.missing)).items()))

    def summary(self) -> dict[str, Any]:
        """Return the counts that `epanns data` prints, and the notes if there are any."""
        counts = {
            "dataset": self.dataset,
            "expected": len(self.clips) + len(self.missing),
            "found": len(self.clips),
            "missing": len(self.missing),
            "ignored": self.ignored,
            "classes": len(self.labels),
            "splits": self.splits,
        }
        return {**counts, "notes": list(self.notes)} if self.notes else counts


def labels_path(manifest: Path) -> Path:
    """Return the file with the class order, beside the manifest."""
    return manifest.with_suffix(_LABELS_SUFFIX)


def missing_path(manifest: Path) -> Path:
    """Return the file with the clips that were not found, beside the manifest."""
    return manifest.with_suffix(_MISSING_SUFFIX)


def info_path(manifest: Path) -> Path:
    """Return the file with the counts, beside the manifest."""
    return manifest.with_suffix(_INFO_SUFFIX)


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write the four files; files that are there already must hold the same.

    Two processes that write the same manifest write it one after the other. The count of ignored files may differ, as
    it does when packs or runs were written below the data set's folder: the file of counts is then written again.

    Raises:
        OutputError: If one exists with other contents; none is changed then.
        DataError: If a label holds the separator or is no printable text.
    """
    for label in manifest.labels.names:
        if LABEL_SEPARATOR in label:
            raise DataError(f"label {label!r} holds {LABEL_SEPARATOR!r}, which separates labels; rename it")
        if not is_printable(label):
            raise DataError(f"label {label!r} must be printable text, on one line; rename the class")
    if len(_existing(manifest, path)) == len(list(_files_of(manifest, path))):
        return
    with locked_file(path, wait=DRAWING_SECONDS):
        existing = _existing(manifest, path)  # another process may have written some meanwhile
        for file, text in _files_of(manifest, path):
            if file not in existing:
                with atomic.replacing(file) as partial, partial.open("wb") as written:
                    written.writelines(text)


def _existing(manifest: Manifest, path: Path) -> list[Path]:
    """Return the files that are there and hold the same; refuse those that hold something else."""
    info = info_path(path)
    return [
        file
        for file, text in _files_of(manifest, path)
        if not (file == info and _differs_in_ignored(info, manifest.summary())) and _exists_with(file, text)
    ]


def _files_of(manifest: Manifest, path: Path) -> Iterator[tuple[Path, Iterator[bytes]]]:
    """Yield every file with its text, piece by piece; the CSV last: a manifest that exists is complete."""
    yield labels_path(path), iter([manifest.labels.to_csv().encode()])
    yield missing_path(path), _csv_text(manifest.missing, path.parent)
    yield info_path(path), iter([(json.dumps(manifest.summary(), indent=2, ensure_ascii=False) + "\n").encode()])
    yield path, _csv_text(manifest.clips, path.parent)


def _differs_in_ignored(info: Path, counts: dict[str, Any]) -> bool:
    """Whether a file of counts is there and holds the same but for another count of ignored files."""
    if not info.is_file():
        return False
    try:
        held = read_json(info, error=DataError)
    except DataError:
        return False
    return isinstance(held, dict) and held != counts and {**held, "ignored": counts["ignored"]} == counts


def without_manifests(files: Iterable[str]) -> list[str]:
    """Return the paths of files that are not part of a manifest: a data set's folder may hold its own manifest."""
    paths = list(files)
    known = frozenset(paths)
    named = (path.removesuffix(_INFO_SUFFIX) for path in paths if path.endswith(_INFO_SUFFIX))
    manifests = [stem for stem in named if stem + _LABELS_SUFFIX in known]
    parts = {stem + suffix for stem in manifests for suffix in (".csv", _LABELS_SUFFIX, _MISSING_SUFFIX, _INFO_SUFFIX)}
    return [path for path in paths if path not in parts]


def _exists_with(file: Path, text: Iterable[bytes]) -> bool:
    """Whether the file is there; refuse one that holds something else."""
    if not file.exists():
        return False
    same = file.is_file()
    if same:
        with file.open("rb") as held:
            same = all(held.read(len(piece)) == piece for piece in text) and not held.read(1)
    if not same:
        raise OutputError(f"{file} exists already and holds something else: choose another --out or delete it")
    return True


def _csv_text(clips: Iterable[Clip], folder: Path) -> Iterator[bytes]:
    base = f"{folder.resolve()}/"
    rows: Iterator[list[str]] = chain([COLUMNS], (_row_of(clip, base) for clip in clips))
    while True:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(islice(rows, _ROWS_AT_ONCE))
        if not text.tell():
            return
        yield text.getvalue().encode()


def _row_of(clip: Clip, base: str) -> list[str]:
    times = ["" if seconds is None else repr(seconds) for seconds in (clip.start, clip.duration)]
    fold = "" if clip.fold is None else str(clip.fold)
    path = clip.path.removeprefix(base)
    return [clip.clip_id, path, *times, LABEL_SEPARATOR.join(clip.labels), clip.split, fold]
