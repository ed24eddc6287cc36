"""The manifest: the clips of a data set, their audio files and their labels, written and read strictly.

A manifest is four files: ``NAME.csv`` with the clips whose file was found, ``NAME.missing.csv`` with the other clips,
``NAME.labels.csv`` with the class order, and ``NAME.info.json`` with the counts. Any tool can write them; readers of
published data sets are in `epanns.data.datasets`. The rules for clips are in `epanns.data.clip`.
"""

import contextlib
import csv
import functools
import io
import json
import math
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from epanns import atomic
from epanns.data.clip import LABEL_SEPARATOR, Clip, ClipCheck, clip_id_bytes
from epanns.errors import DataError, OutputError
from epanns.labels import LabelSet, composed
from epanns.safe_text import is_printable
from epanns.text_files import CsvKind, read_csv_rows, read_json, require_fields, whole_number
from epanns.workfolder import DRAWING_SECONDS, locked_file

COLUMNS = ["clip_id", "path", "start", "duration", "labels", "split", "fold"]
_MANIFEST = CsvKind("a manifest", limit=None)  # read as a stream: a manifest may have any length
_ROWS_AT_ONCE = 4096
_LABELS_SUFFIX, _MISSING_SUFFIX, _INFO_SUFFIX = ".labels.csv", ".missing.csv", ".info.json"


@dataclass(frozen=True)
class Manifest:
    """A data set on disk.

    Attributes:
        dataset: Name of the data set in results.
        labels: All classes, in the order of a tagger's outputs.
        clips: Clips whose file was found.
        missing: Clips in the data set's own lists whose file was not found.
        ignored: Number of files below the data set's folder that no reader uses.
        notes: Notes for the user, one sentence each.

    Raises:
        DataError: If a clip breaks a rule of `epanns.data.clip`.
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
        """Number of clips of each split, missing clips included."""
        return dict(sorted(Counter(clip.split for clip in chain(self.clips, self.missing)).items()))

    def summary(self) -> dict[str, Any]:
        """Return the counts that `epanns data` prints, and the notes, if any."""
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
    """Write the four files; existing files must have the same content.

    Two processes that write the same manifest write it in sequence. The number of ignored files may differ, as it does
    after packs or runs were written below the data set's folder; then the file of counts is written again.

    Raises:
        OutputError: If a file exists with other content; then no file is changed.
        DataError: If a label contains the separator or is not printable text.
    """
    for label in manifest.labels.names:
        if LABEL_SEPARATOR in label:
            raise DataError(f"label {label!r} holds {LABEL_SEPARATOR!r}, which separates labels; rename it")
        if not is_printable(label):
            raise DataError(f"label {label!r} must be printable text, on one line; rename the class")
    if len(_existing(manifest, path)) == len(list(_files_of(manifest, path))):
        return
    with locked_file(path, wait=DRAWING_SECONDS):
        existing = _existing(manifest, path)  # another process may have written files meanwhile
        for file, text in _files_of(manifest, path):
            if file not in existing:
                with atomic.replacing(file) as partial, partial.open("wb") as written:
                    written.writelines(text)


def _existing(manifest: Manifest, path: Path) -> list[Path]:
    """Return the files that exist with the same content; raise if a file has other content.

    A file of counts that differs only in the number of ignored files is left out, so that it is written again.
    """
    info, counts, existing = info_path(path), manifest.summary(), []
    for file, text in _files_of(manifest, path):
        if not file.exists():
            continue
        is_same = file.is_file()
        if is_same:
            with file.open("rb") as opened:
                is_same = all(opened.read(len(piece)) == piece for piece in text) and not opened.read(1)
        if is_same:
            existing.append(file)
            continue
        held: Any = None
        if file == info:
            with contextlib.suppress(DataError):
                held = read_json(info, error=DataError)
        if not isinstance(held, dict) or {**held, "ignored": None} != {**counts, "ignored": None}:
            raise OutputError(f"{file} exists already and holds something else: choose another --out or delete it")
    return existing


def _files_of(manifest: Manifest, path: Path) -> Iterator[tuple[Path, Iterator[bytes]]]:
    """Yield every file with its text in pieces; the CSV last, so that a manifest that exists is complete."""
    yield labels_path(path), iter([manifest.labels.to_csv().encode()])
    yield missing_path(path), _csv_text(manifest.missing, path.parent)
    yield info_path(path), iter([(json.dumps(manifest.summary(), indent=2, ensure_ascii=False) + "\n").encode()])
    yield path, _csv_text(manifest.clips, path.parent)


def without_manifests(files: Iterable[str]) -> list[str]:
    """Leave out the files of manifests: a data set's folder may hold its own manifest."""
    paths = list(files)
    known = frozenset(paths)
    named = (path.removesuffix(_INFO_SUFFIX) for path in paths if path.endswith(_INFO_SUFFIX))
    manifests = [stem for stem in named if stem + _LABELS_SUFFIX in known]
    parts = {stem + suffix for stem in manifests for suffix in (".csv", _LABELS_SUFFIX, _MISSING_SUFFIX, _INFO_SUFFIX)}
    return [path for path in paths if path not in parts]


def _csv_text(clips: Iterable[Clip], folder: Path) -> Iterator[bytes]:
    base = f"{folder.resolve()}/"

    def row_of(clip: Clip) -> list[str]:
        times = ["" if seconds is None else repr(seconds) for seconds in (clip.start, clip.duration)]
        fold = "" if clip.fold is None else str(clip.fold)
        return [clip.clip_id, clip.path.removeprefix(base), *times, LABEL_SEPARATOR.join(clip.labels), clip.split, fold]

    rows: Iterator[list[str]] = chain([COLUMNS], map(row_of, clips))
    while True:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(islice(rows, _ROWS_AT_ONCE))
        if not text.tell():
            return
        yield text.getvalue().encode()


@dataclass(frozen=True)
class SplitCounts:
    """Numbers of clips of one split.

    Attributes:
        found: Rows of the manifest.
        missing: Rows of ``NAME.missing.csv``.
        longest_clip_id: Length of the longest id of the found clips in bytes of UTF-8; 0 without clips.
    """

    found: int
    missing: int
    longest_clip_id: int


class ManifestFile:
    """A manifest on disk, of any length, whose clips are read as a stream as often as needed.

    Attributes:
        path: The CSV file.
        dataset: Name of the data set in results.
        labels: All classes, in the order of a tagger's outputs.
        ignored: Number of files below the data set's folder that no reader uses.
        notes: Notes for the user, one sentence each.
        splits: Numbers of clips of each split, by its name.
        sha256: SHA-256 of the CSV file, in hexadecimal.
    """

    def __init__(self, path: Path) -> None:
        """Read the manifest and the files beside it once, and check every rule.

        ``NAME.missing.csv`` and ``NAME.info.json`` may be absent, so that a manifest can be written by hand;
        ``NAME.labels.csv`` may not. The check needs 8 bytes of memory per row.

        Raises:
            DataError: If a file is unreadable or a row breaks a rule; the message names the file and the row.
        """
        self.path = path
        self._stamp = _stamp_of(path)
        if not labels_path(path).is_file():
            raise DataError(
                f"{labels_path(path)} is missing: write the classes in output order beside {path.name}, "
                "first line index,mid,display_name (mid may be empty)"
            )
        self.labels = LabelSet.from_csv(labels_path(path))
        self.dataset, self.ignored, self.notes = _read_info(path)
        check = ClipCheck(self.labels)
        longest: dict[str, int] = {}
        found: Counter[str] = Counter()
        for clip in check.passing(_read_clips(path, self.labels)):
            found[clip.split] += 1
            longest[clip.split] = max(longest.get(clip.split, 0), clip_id_bytes(clip))
        missing = Counter(clip.split for clip in check.passing(self.missing(), "missing row"))
        try:
            check.finish((_read_clips(path, self.labels), "row"), (self.missing(), "missing row"))
        except DataError as error:
            raise DataError(f"{path}: {self.dataset}, {error}") from error
        self.splits = {
            split: SplitCounts(found[split], missing[split], longest.get(split, 0))
            for split in sorted(found.keys() | missing.keys())
        }
        self.sha256 = atomic.sha256_of(path)
        self._refuse_change()

    def clips(self, splits: Collection[str] = ()) -> Iterator[Clip]:
        """Yield the clips whose file was found, in the manifest's order.

        Args:
            splits: Names of splits to yield; empty for all splits.

        Raises:
            DataError: If the file has changed since it was checked.
        """
        self._refuse_change()
        for clip in _read_clips(self.path, self.labels):
            if not splits or clip.split in splits:
                yield clip
        self._refuse_change()

    def missing(self) -> Iterator[Clip]:
        """Yield the clips whose file was not found."""
        if missing_path(self.path).exists():
            yield from _read_clips(missing_path(self.path), self.labels)

    def _refuse_change(self) -> None:
        if _stamp_of(self.path) != self._stamp:
            raise DataError(f"{self.path}: changed while it was in use; run the command again")


def read_manifest(path: Path) -> Manifest:
    """Read a manifest into memory; `ManifestFile` reads manifests of any length.

    Raises:
        DataError: If a file is unreadable or a row breaks a rule; the message names the file and the row.
    """
    file = ManifestFile(path)
    return Manifest(file.dataset, file.labels, tuple(file.clips()), tuple(file.missing()), file.ignored, file.notes)


def _stamp_of(path: Path) -> tuple[int, int, int]:
    """Return inode, size and time of change of a file."""
    try:
        state = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read as a manifest ({error})") from error
    return state.st_ino, state.st_size, state.st_mtime_ns


def _read_clips(path: Path, labels: LabelSet) -> Iterator[Clip]:
    names = {composed(name): name for name in labels.names} | {name: name for name in labels.names}
    base = f"{path.parent.resolve()}/"
    rows = read_csv_rows(path, _MANIFEST)
    header = next(rows, [])
    if header != COLUMNS:
        first = ",".join(header)[:80]
        raise DataError(f"{path}: first line must be {','.join(COLUMNS)}, is {first!r}; make it with `epanns data`")
    for number, row in enumerate(rows, start=1):
        require_fields(row, COLUMNS, str(path), number)
        clip_id, audio, start, duration, names_of_clip, split, fold = row
        try:
            if not audio:
                raise ValueError(f"path is empty; name the audio file of clip {clip_id!r}")
            if fold and whole_number(fold) is None:
                raise ValueError(f"fold {fold[:40]!r} must be a whole number, or empty; at most nine digits")
            clip = Clip(
                clip_id,
                audio if audio.startswith("/") else base + audio,
                tuple(names_of_clip.split(LABEL_SEPARATOR)) if names_of_clip else (),
                split,
                read_seconds(start, "start", least=0.0) if start else None,
                read_seconds(duration, "duration", least=1e-6) if duration else None,
                whole_number(fold) if fold else None,
            )
        except ValueError as error:
            raise DataError(f"{path}, row {number}: {error}") from error
        if not all(map(str.isascii, clip.labels)):  # a name may be composed in one file and decomposed in the other
            labels_of_clip = (names.get(label) or names.get(composed(label), label) for label in clip.labels)
            clip = replace(clip, labels=tuple(labels_of_clip))
        yield clip


def read_seconds(text: str, column: str, *, least: float) -> float:
    """Return a time in a table, or raise `ValueError` with the name of its column unless it is at least `least`."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not least <= seconds < math.inf:
        raise ValueError(f"{column} {text!r} must be seconds of at least {least:g}, or empty for the whole file")
    return seconds


def _read_info(path: Path) -> tuple[str, int, tuple[str, ...]]:
    """Return name, number of ignored files and notes of the data set; the file's name if there is no info file."""
    info = info_path(path)
    if not info.exists():
        return path.stem, 0, ()
    given = read_json(info, error=DataError)
    dataset = given.get("dataset") if isinstance(given, dict) else None
    if not isinstance(dataset, str) or not dataset:
        raise DataError(f'{info}: must be an object with "dataset", the name of the data set')
    ignored, notes = given.get("ignored", 0), given.get("notes", [])
    return (
        dataset,
        ignored if isinstance(ignored, int) else 0,
        tuple(map(str, notes)) if isinstance(notes, list) else (),
    )
