"""Read AudioSet into a manifest: its lists of segments, and the audio files of them below a folder.

Lists as published begin with three lines of ``#`` and have a blank after each comma; copies with one plain header line
are read too. Files are named ``Y<id>.wav`` (PANNs), ``<id>.wav``, ``<id>_<start>.wav``, ``<id>_<start>_<end>.flac`` or
``<id>_<start>-<end>.wav``, times in seconds or in milliseconds. A YouTube id is any 11 letters, digits, ``-`` and
``_``, so a name cannot be split at these; its beginning is looked up in the ids of the lists.

Source: Gemmeke et al., "Audio Set: An ontology and human-labeled dataset for audio events", 2017;
https://research.google.com/audioset/download.html.
"""

import functools
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from epanns.data.clip import Clip
from epanns.data.datasets.sound_files import sounds_below, stem_of
from epanns.data.manifest import Manifest
from epanns.errors import DataError
from epanns.feedback import Progress
from epanns.labels import LabelSet, audioset
from epanns.strict import shown
from epanns.text_files import CsvKind, read_csv_rows, require_fields

OTHER_SEGMENT = -1
"""Exactness of a file name with other times than the list's: another segment of that video."""

LIST_COLUMNS = ["YTID", "start_seconds", "end_seconds", "positive_labels"]
_VIDEO_ID = re.compile(r"[A-Za-z0-9_-]{11}")
_ID_LENGTH = 11
_TIMES = re.compile(r"_(\d+(?:\.\d+)?)(?:[_-](\d+(?:\.\d+)?))?", re.ASCII)
_STATED_COUNT = re.compile(r"num_segs=([0-9]{1,9})\b")
_LIST = CsvKind("a list of segments", blanks_after_commas=True)
_LIST_SUFFIX = "_segments"
_CACHED_LABELS = 1 << 16  # label texts whose names are cached: most rows repeat an earlier one's
_FILES_BETWEEN_REPORTS = 4096


@dataclass(slots=True)
class Segment:
    """A part of a video in a list, and its audio file if one is found.

    Attributes:
        start: Start in the video, in seconds.
        end: End in the video, in seconds.
        labels: Display names, in the list's order.
        split: The list's name without ``_segments``.
        path: Absolute path of the file; None until one is found.
        exactness: Exactness of the file's name, see `segment_of_name`.
    """

    start: float
    end: float
    labels: tuple[str, ...]
    split: str
    path: str | None = None
    exactness: int = -1


def read_audioset(
    root: Path,
    *,
    name: str | None = None,
    segments: Sequence[Path] = (),
    labels: LabelSet | None = None,
    whole_videos: bool = False,
    progress: Progress | None = None,
) -> Manifest:
    """Read AudioSet or a part of it.

    Args:
        root: Folder with the audio, at any depth.
        name: Name of the data set in results; default: AudioSet.
        segments: The lists; default: the ``*_segments.csv`` in `root` and in its direct subfolders.
        labels: Classes with their mids; default: AudioSet's 527.
        whole_videos: Whether the files hold whole videos, of which a clip is the listed part. Otherwise each file holds
            one segment.
        progress: Called with the number of files seen.

    Raises:
        DataError: If there is no list, a row is invalid, or a video is in two lists.
    """
    root = root.resolve()
    labels = labels or audioset()
    lists = [path.resolve() for path in segments]
    if not lists:
        found_lists = [path for pattern in ("", "*/") for path in root.glob(f"{pattern}*{_LIST_SUFFIX}.csv")]
        visible = (path for path in found_lists if not path.name.startswith("."))
        lists = sorted(visible, key=lambda path: (path.name, path))
    if not lists:
        raise DataError(
            f"{root}: no list of segments such as eval_segments.csv in it or in a folder of it; name the lists with "
            "--segments"
        )
    listed, notes = read_lists(lists, labels)
    n_ignored, notes_on_files = _find_files(root, listed, whole_videos, progress)
    found: list[Clip] = []
    missing: list[Clip] = []
    for video_id, segment in listed.items():
        start = duration = None
        if whole_videos:
            start, duration = segment.start, round(segment.end - segment.start, 6)
        path = segment.path or f"{root}/{video_id}.wav"
        clip = Clip(video_id, path, segment.labels, segment.split, start, duration)
        (missing if segment.path is None else found).append(clip)
    notes = (*notes, *notes_on_files)
    return Manifest(name or "AudioSet", labels, tuple(found), tuple(missing), n_ignored, notes)


def _find_files(
    root: Path, segments: Mapping[str, Segment], whole_videos: bool, progress: Progress | None
) -> tuple[int, list[str]]:
    """Set the path of every segment with a file; return the number of other audio files, and notes on them."""
    reasons = {
        "unknown": "audio files have a name that is no segment of the lists",
        "other": "files are, by the times in their names, of other segments than the lists'",
        "second": "files are of segments that have another file; the file with the most exact name is used, "
        "or else the first",
    }
    if whole_videos:
        reasons["other"] = "files have times in their names, so they are no whole videos"
    counts: Counter[str] = Counter()
    for number, path in enumerate(sounds_below(root), start=1):
        if progress is not None and number % _FILES_BETWEEN_REPORTS == 0:
            progress(number, None)
        found = segment_of_name(stem_of(path), segments)
        if found is None:
            counts["unknown"] += 1
            continue
        segment, exactness = found
        if exactness == OTHER_SEGMENT or (whole_videos and exactness):
            counts["other"] += 1
            continue
        counts["second"] += segment.path is not None
        if exactness > segment.exactness:
            segment.path, segment.exactness = f"{root}/{path}", exactness
    return counts.total(), [f"{counts[reason]} {text}" for reason, text in reasons.items() if counts[reason]]


def segment_of_name(stem: str, segments: Mapping[str, Segment]) -> tuple[Segment, int] | None:
    """Return the segment of a listed video that a file name denotes.

    Args:
        stem: File name without its suffix.
        segments: Segments by video id.

    Returns:
        The segment and the exactness of the name: 0 with the id alone, 1 with its start, 2 with its end too,
        `OTHER_SEGMENT` with other times. None if the name holds no listed id.
    """
    other = None
    for first in (0, 1) if stem.startswith("Y") else (0,):
        segment = segments.get(stem[first : first + _ID_LENGTH])
        if segment is None:
            continue
        times = stem[first + _ID_LENGTH :]
        if not times:
            return segment, 0
        match = _TIMES.fullmatch(times)
        if match is None:
            continue
        bounds = segment.start, segment.end
        given = [(text, value) for text, value in zip(match.groups(), bounds, strict=True) if text]
        in_seconds = all(_agrees(text, value) for text, value in given)
        in_milliseconds = all("." not in text and _agrees(text, 1000 * value) for text, value in given)
        if in_seconds or in_milliseconds:
            return segment, len(given)
        other = segment, OTHER_SEGMENT
    return other


def _agrees(text: str, value: float) -> bool:
    """Whether a number as written is the value, rounded or truncated to its digits."""
    unit = 10.0 ** -len(text.partition(".")[2])
    return abs(float(text) - value) < unit * (1 - 1e-6)


def read_lists(lists: Sequence[Path], labels: LabelSet) -> tuple[dict[str, Segment], tuple[str, ...]]:
    """Read lists of segments; the split of a list is its name without ``_segments``.

    Returns:
        The segments by video id, in the lists' order; and notes for the user.

    Raises:
        DataError: If a row is invalid, or a video is in two lists; file and row are named.
    """
    by_split: dict[str, Path] = {}
    for path in lists:
        split = path.stem.removesuffix(_LIST_SUFFIX)
        other = by_split.setdefault(split, path)
        if other is not path:
            raise DataError(f"{other} and {path} are both lists of {split}; name one with --segments")
    reading = _ListReader(by_split, labels)
    notes = tuple(note for split in by_split for note in reading.add(split))
    return reading.segments, notes


class _ListReader:
    """Reads lists of segments, and compares rows of the same video.

    Attributes:
        segments: The segments by video id, in the lists' order.
    """

    def __init__(self, by_split: Mapping[str, Path], labels: LabelSet) -> None:
        self.segments: dict[str, Segment] = {}
        self._by_split = by_split
        self._name_of = {mid: name for mid, name in zip(labels.mids, labels.names, strict=True) if mid}
        self._names_of = functools.lru_cache(_CACHED_LABELS)(self.names_of)

    def add(self, split: str) -> Iterator[str]:
        """Add the segments of one list; yield notes on it."""
        path = self._by_split[split]
        stated, rows = _open_list(path)
        n_rows = n_repeated = n_labels_repeated = 0
        for n_rows, row in enumerate(rows, start=1):
            where = f"{path}, row {n_rows}"
            require_fields(row, LIST_COLUMNS, str(path), n_rows)
            try:
                segment = self.segment_of(row, split)
            except ValueError as error:
                raise DataError(f"{where}: {error}") from error
            n_labels_repeated += len(segment.labels) <= row[3].count(",")
            earlier = self.segments.setdefault(row[0], segment)
            if earlier is not segment:
                self.refuse_contradiction(row[0], segment, where)
                n_repeated += 1
        if n_repeated:
            yield f"{path.name}: {n_repeated} rows repeat an earlier row; each segment counts once"
        if n_labels_repeated:
            yield f"{path.name}: {n_labels_repeated} rows name a label twice; it counts once"
        if stated and int(stated) != n_rows:
            yield f"{path.name}: its beginning promises {stated} segments, it has {n_rows}; it may be cut off"

    def segment_of(self, row: list[str], split: str) -> Segment:
        """Return the segment of a row; raise `ValueError` if the row is invalid."""
        video_id, start, end, labels = row
        if not _VIDEO_ID.fullmatch(video_id):
            raise ValueError(f"{shown(video_id)} is no id of YouTube: those are 11 letters, digits, - or _")
        try:
            first, last = float(start), float(end)
        except ValueError:
            first = last = math.nan
        if not 0 <= first < last < math.inf:
            raise ValueError(
                f"start {shown(start)} and end {shown(end)} of {video_id} must be seconds, the end after the start"
            )
        return Segment(first, last, self._names_of(labels), split)

    def names_of(self, text: str) -> tuple[str, ...]:
        """Return the names of the classes of a row's mids; raise `ValueError` if one is unknown."""
        mids = [mid.strip() for mid in text.split(",")]
        unknown = [mid for mid in mids if mid not in self._name_of]
        if unknown:
            n_classes = len(self._name_of)
            raise ValueError(
                f"label {shown(unknown[0])} is not among the mids of the {n_classes} classes; see --labels"
            )
        return tuple(dict.fromkeys(self._name_of[mid] for mid in mids))

    def refuse_contradiction(self, video_id: str, segment: Segment, where: str) -> None:
        """Raise `DataError` if a row and an earlier row of the same video are in two splits or differ."""
        earlier = self.segments[video_id]
        same_split = earlier.split == segment.split
        if same_split and (earlier.start, earlier.end, earlier.labels) == (segment.start, segment.end, segment.labels):
            return
        path = self._by_split[earlier.split]
        number = next(number for number, row in enumerate(_open_list(path)[1], start=1) if row[0] == video_id)
        splits = f"{shown(earlier.split)} and {shown(segment.split)}"
        problem = f"{video_id} is in the splits {splits}: a leak; keep it in one"
        if same_split:
            problem = f"two different segments of {video_id}; keep one"
        raise DataError(f"{path}, row {number} and {where}: {problem}")


def _open_list(path: Path) -> tuple[str, Iterator[list[str]]]:
    """Return the number of segments that the file's beginning states, empty if it does not, and its rows."""
    stated = ""
    rows = read_csv_rows(path, _LIST)
    first = next(rows, [])
    while first and first[0].startswith("#"):
        match = _STATED_COUNT.search(",".join(first))
        stated = match[1] if match else stated
        first = next(rows, [])
    has_header = not first or [field.strip() for field in first] == LIST_COLUMNS
    return stated, rows if has_header else itertools.chain([first], rows)
