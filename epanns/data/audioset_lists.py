"""AudioSet's lists of segments: ``balanced_train_segments.csv`` and its like.

As published they begin with three lines of ``#`` and have a blank after each comma; copies with one plain header are
read as well. Source: https://research.google.com/audioset/download.html.
"""

import functools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from epanns.csv_table import CsvKind, read_csv_rows, require_fields
from epanns.errors import DataError
from epanns.labels import LabelSet
from epanns.strict import shown

COLUMNS = ["YTID", "start_seconds", "end_seconds", "positive_labels"]
_VIDEO_ID = re.compile(r"[A-Za-z0-9_-]{11}")
_PROMISED = re.compile(r"num_segs=([0-9]{1,9})\b")
_LIST = CsvKind("a list of segments", blanks_after_commas=True)
_LIST_SUFFIX = "_segments"
_LABELS_AT_HAND = 1 << 16  # texts of labels whose names are kept: most rows repeat an earlier one's


@dataclass(slots=True)
class Segment:
    """A part of a video that a list names, and the file that holds it once that is found.

    Attributes:
        start: In seconds from the video's beginning.
        end: In seconds from there too.
        labels: Display names, in the list's order.
        split: The list's name without ``_segments``.
        path: Absolute; None as long as no file is found.
        exactness: Of the file's name, as `epanns.data.audioset_names` counts it.
    """

    start: float
    end: float
    labels: tuple[str, ...]
    split: str
    path: str | None = None
    exactness: int = -1

    def says_the_same_as(self, other: "Segment") -> bool:
        """Whether both come from rows that say the same of one video."""
        return (self.start, self.end, self.labels) == (other.start, other.end, other.labels)


def find_lists(root: Path) -> list[Path]:
    """Return the ``*_segments.csv`` in a folder and in the folders directly below it, by name.

    Raises:
        DataError: If there is none.
    """
    found = [path for pattern in ("", "*/") for path in root.glob(f"{pattern}*{_LIST_SUFFIX}.csv")]
    lists = sorted((path for path in found if not path.name.startswith(".")), key=lambda path: (path.name, path))
    if not lists:
        raise DataError(
            f"{root}: no list of segments such as eval_segments.csv in it or in a folder of it; name the lists with "
            "--segments"
        )
    return lists


def read_lists(lists: Sequence[Path], labels: LabelSet) -> tuple[dict[str, Segment], tuple[str, ...]]:
    """Read lists of segments; a split is called like its list without ``_segments``.

    Returns:
        The segments by video id, in the lists' order; and what people should know, one sentence each.

    Raises:
        DataError: If a row breaks a rule, or a video is in two lists; file and row are named.
    """
    by_split: dict[str, Path] = {}
    for path in lists:
        other = by_split.setdefault(split_of(path), path)
        if other is not path:
            raise DataError(f"{other} and {path} are both lists of {split_of(path)}; name one with --segments")
    names = {mid: name for mid, name in zip(labels.mids, labels.names, strict=True) if mid}
    segments: dict[str, Segment] = {}
    notes = [note for path in lists for note in _read_list(path, by_split, names, segments)]
    return segments, tuple(notes)


def split_of(path: Path) -> str:
    """Return the name of a list's split."""
    return path.stem.removesuffix(_LIST_SUFFIX)


def _read_list(
    path: Path, by_split: Mapping[str, Path], names: Mapping[str, str], segments: dict[str, Segment]
) -> Iterator[str]:
    """Add the segments of one list; yield notes on it."""
    names_of = functools.lru_cache(_LABELS_AT_HAND)(functools.partial(_names_of, names))
    split = split_of(path)
    rows = _read_rows(path)
    promised = next(rows)[0]
    n_rows = n_repeated = n_labels_repeated = 0
    for n_rows, row in enumerate(rows, start=1):
        require_fields(row, COLUMNS, str(path), n_rows)
        try:
            segment = _segment_of(row, split, names_of)
        except ValueError as error:
            raise DataError(f"{path}, row {n_rows}: {error}") from error
        n_labels_repeated += len(segment.labels) <= row[3].count(",")
        earlier = segments.setdefault(row[0], segment)
        if earlier is not segment:
            _refuse_contradiction(row[0], earlier, segment, f"{path}, row {n_rows}", by_split)
            n_repeated += 1
    if n_repeated:
        yield f"{path.name}: {n_repeated} rows say what an earlier row says; each segment counts once"
    if n_labels_repeated:
        yield f"{path.name}: {n_labels_repeated} rows name a label twice; it counts once"
    if promised and int(promised) != n_rows:
        yield f"{path.name}: its beginning promises {promised} segments, it has {n_rows}; it may be cut off"


def _read_rows(path: Path) -> Iterator[list[str]]:
    """Yield first the number of segments that the file promises, empty where it does not, and then its rows."""
    promised = ""
    rows = read_csv_rows(path, _LIST)
    first = next(rows, [])
    while first and first[0].startswith("#"):
        match = _PROMISED.search(",".join(first))
        promised = match[1] if match else promised
        first = next(rows, [])
    yield [promised]
    if first and [field.strip() for field in first] != COLUMNS:
        yield first
    yield from rows


def _segment_of(row: list[str], split: str, names_of: Callable[[str], tuple[str, ...]]) -> Segment:
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
    return Segment(first, last, names_of(labels), split)


def _names_of(names: Mapping[str, str], text: str) -> tuple[str, ...]:
    mids = [mid.strip() for mid in text.split(",")]
    unknown = [mid for mid in mids if mid not in names]
    if unknown:
        raise ValueError(f"label {shown(unknown[0])} is not among the mids of the {len(names)} classes; see --labels")
    return tuple(dict.fromkeys(names[mid] for mid in mids))


def _refuse_contradiction(
    video_id: str, earlier: Segment, segment: Segment, where: str, by_split: Mapping[str, Path]
) -> None:
    """Refuse a video whose two rows do not say the same."""
    if earlier.split == segment.split and earlier.says_the_same_as(segment):
        return
    path = by_split[earlier.split]
    row = _row_of(video_id, _read_rows(path))
    if earlier.split != segment.split:
        splits = f"{shown(earlier.split)} and {shown(segment.split)}"
        raise DataError(f"{path}, row {row} and {where}: {video_id} is in the splits {splits}: a leak; keep it in one")
    raise DataError(f"{path}, row {row} and {where}: two different segments of {video_id}; keep one")


def _row_of(video_id: str, rows: Iterable[list[str]]) -> int:
    return next(number for number, row in enumerate(rows) if row[0] == video_id)  # row 0 is the promise
