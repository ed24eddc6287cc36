"""Strict reading of manifests of any length; the format and writing are in `epanns.data.manifest`."""

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from epanns import atomic
from epanns.csv_table import CsvKind, read_csv_rows, require_fields, whole_number
from epanns.data.clip import LABEL_SEPARATOR, Clip, ClipCheck, clip_id_bytes
from epanns.data.manifest import COLUMNS, Manifest, info_path, labels_path, missing_path
from epanns.errors import DataError
from epanns.labels import LabelSet, composed
from epanns.text_files import read_json

_MANIFEST = CsvKind("a manifest", limit=None)  # read as a stream: a manifest may have any length


@dataclass(frozen=True)
class SplitCounts:
    """Clips of one split.

    Attributes:
        found: Rows of the manifest.
        missing: Rows of ``NAME.missing.csv``.
        longest_clip_id: Bytes of UTF-8, over the found clips; 0 where there is none.
    """

    found: int
    missing: int
    longest_clip_id: int


class ManifestFile:
    """A manifest on disk whose clips are read as a stream, as often as needed.

    Attributes:
        path: The CSV file.
        dataset: Name of the data set, as results will cite it.
        labels: All classes, in the order of a tagger's outputs.
        ignored: Files below the data set's folder that the importer could not use, counted.
        notes: What people should know of it, one sentence each.
        splits: What each split has, by name.
        sha256: Of the CSV file's bytes, in hexadecimal.
    """

    path: Path
    dataset: str
    labels: LabelSet
    ignored: int
    notes: tuple[str, ...]
    splits: dict[str, SplitCounts]
    sha256: str

    def __init__(self, path: Path) -> None:
        """Read the manifest and the files beside it once from end to end, and check every rule.

        ``NAME.missing.csv`` and ``NAME.info.json`` may be absent, so that a manifest can be written by hand;
        the class order in ``NAME.labels.csv`` may not. Memory: 8 bytes a row, until the check is done.

        Raises:
            DataError: If a file is unreadable or a row breaks a rule; file, row and remedy are named.
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
        self.splits = self._check()
        self.sha256 = atomic.sha256_of(path)
        self._refuse_change()

    def clips(self, splits: Collection[str] = ()) -> Iterator[Clip]:
        """Yield the clips that were found, in the file's order.

        Args:
            splits: Only clips of these; all where empty.

        Raises:
            DataError: If the file is no longer the one that was checked.
        """
        self._refuse_change()
        for clip in _read_clips(self.path, self.labels):
            if not splits or clip.split in splits:
                yield clip
        self._refuse_change()

    def missing(self) -> Iterator[Clip]:
        """Yield the clips that were not found."""
        if missing_path(self.path).exists():
            yield from _read_clips(missing_path(self.path), self.labels)

    def _check(self) -> dict[str, SplitCounts]:
        check = ClipCheck(self.labels)
        longest: dict[str, int] = {}
        found: Counter[str] = Counter()
        for clip in check.passing(_read_clips(self.path, self.labels)):
            found[clip.split] += 1
            longest[clip.split] = max(longest.get(clip.split, 0), clip_id_bytes(clip))
        missing = Counter(clip.split for clip in check.passing(self.missing(), "missing row"))
        try:
            check.finish((_read_clips(self.path, self.labels), "row"), (self.missing(), "missing row"))
        except DataError as error:
            raise DataError(f"{self.path}: {self.dataset}, {error}") from error
        return {
            split: SplitCounts(found[split], missing[split], longest.get(split, 0))
            for split in sorted(found.keys() | missing.keys())
        }

    def _refuse_change(self) -> None:
        if _stamp_of(self.path) != self._stamp:
            raise DataError(f"{self.path}: changed while it was in use; run the command again")


def read_manifest(path: Path) -> Manifest:
    """Read a manifest whole; `ManifestFile` is for those of any length.

    Raises:
        DataError: If a file is unreadable or a row breaks a rule; file, row and remedy are named.
    """
    file = ManifestFile(path)
    return Manifest(file.dataset, file.labels, tuple(file.clips()), tuple(file.missing()), file.ignored, file.notes)


def _stamp_of(path: Path) -> tuple[int, int, int]:
    """Return what changes when a file does: its number, length and time of change."""
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
        clip = _clip_of(row, base, path, number)
        # A name may be composed in one of the two files and decomposed in the other.
        is_plain = all(map(str.isascii, clip.labels))
        yield clip if is_plain else replace(clip, labels=tuple(_known_name(label, names) for label in clip.labels))


def _known_name(label: str, names: Mapping[str, str]) -> str:
    return names.get(label) or names.get(composed(label), label)


def _clip_of(row: list[str], base: str, file: Path, number: int) -> Clip:
    require_fields(row, COLUMNS, str(file), number)
    clip_id, path, start, duration, labels, split, fold = row
    try:
        if not path:
            raise ValueError(f"path is empty; name the audio file of clip {clip_id!r}")
        return Clip(
            clip_id,
            path if path.startswith("/") else base + path,
            tuple(labels.split(LABEL_SEPARATOR)) if labels else (),
            split,
            _seconds(start, "start", least=0.0) if start else None,
            _seconds(duration, "duration", least=1e-6) if duration else None,
            _fold(fold) if fold else None,
        )
    except ValueError as error:
        raise DataError(f"{file}, row {number}: {error}") from error


def _seconds(text: str, column: str, *, least: float) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not least <= seconds < math.inf:
        raise ValueError(f"{column} {text!r} must be seconds of at least {least:g}, or empty for the whole file")
    return seconds


def _fold(text: str) -> int:
    number = whole_number(text)
    if number is None:
        raise ValueError(f"fold {text[:40]!r} must be a whole number, or empty; at most nine digits")
    return number


def _read_info(path: Path) -> tuple[str, int, tuple[str, ...]]:
    """Return the data set's name, its count of ignored files and its notes; the file's own name without an info."""
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
