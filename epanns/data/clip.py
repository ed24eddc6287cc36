"""One clip of a data set, and the rules for clips, checked for millions of clips in little memory."""

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from epanns.errors import DataError
from epanns.labels import LabelSet
from epanns.safe_text import is_printable
from epanns.strict import shown

LABEL_SEPARATOR = ";"
LONGEST_CLIP_ID = 1024  # bytes of UTF-8; every row of a pack's audio_name has the length of the longest id


@dataclass(frozen=True, slots=True)
class Clip:
    """One row of a manifest.

    Attributes:
        clip_id: Unique in the manifest.
        path: Absolute path of the audio file; text, since millions of `Path` objects would not fit in memory.
        labels: Names of the clip's classes.
        split: Name such as ``train``, ``val``, ``test`` or ``fold1``.
        start: Start of the clip in the file, in seconds; None for the start of the file.
        duration: Length in seconds; None for the rest of the file.
        fold: Number of the cross-validation fold, if the data set has folds.
    """

    clip_id: str
    path: str
    labels: tuple[str, ...]
    split: str
    start: float | None = None
    duration: float | None = None
    fold: int | None = None


class ClipCheck:
    """Checks a stream of clips against the rules: first the found clips, then the missing clips.

    It keeps 8 bytes per clip, a hash of its id. Only if two hashes are equal, `finish` reads the clips again and
    compares the ids.
    """

    def __init__(self, labels: LabelSet) -> None:
        self._known = frozenset(labels.names) | frozenset(mid for mid in labels.mids if mid)
        self._num_classes = len(labels)
        self._hashes = array("q")
        self._first: tuple[int, str] | None = None  # place among all clips, text
        self._n_problems = 0

    def passing(self, clips: Iterable[Clip], row: str = "row") -> Iterator[Clip]:
        """Yield the clips and check each of them; the first is ``row 1`` in messages."""
        for number, clip in enumerate(clips, start=1):
            problem = self._problem_of(clip)
            if problem is not None:
                self._note(len(self._hashes), f"{row} {number}: {problem}")
            self._hashes.append(hash(clip.clip_id))
            yield clip

    def finish(self, *parts: tuple[Iterable[Clip], str]) -> None:
        """Raise if any clip broke a rule.

        Args:
            parts: The same clips and names of rows in the same order, to compare ids with equal hashes.

        Raises:
            DataError: With the first problem and the number of other problems.
        """
        hashes = np.frombuffer(self._hashes, np.int64) if self._hashes else np.empty(0, np.int64)
        hashes.sort()  # in place
        suspects = frozenset(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
        earlier: dict[str, tuple[str, int, str]] = {}
        rows = ((clip, row, number) for clips, row in parts for number, clip in enumerate(clips, start=1))
        for place, (clip, row, number) in enumerate(rows if suspects else ()):
            if hash(clip.clip_id) not in suspects:
                continue
            first_row, first_number, split = earlier.setdefault(clip.clip_id, (row, number, clip.split))
            if (first_row, first_number) == (row, number):
                continue
            where = f"{row}s {first_number} and" if first_row == row else f"{first_row} {first_number} and {row}"
            what = "is listed twice; clip ids must be unique"
            if split != clip.split:
                what = f"is in the splits {shown(split)} and {shown(clip.split)}: a leak; keep it in one"
            self._note(place, f"{where} {number}: clip_id {shown(clip.clip_id)} {what}")
        if self._first is not None:
            others = f" (and {self._n_problems - 1} more such problems)" if self._n_problems > 1 else ""
            raise DataError(f"{self._first[1]}{others}")

    def _note(self, place: int, problem: str) -> None:
        self._n_problems += 1
        if self._first is None or place <= self._first[0]:
            self._first = place, problem

    def _problem_of(self, clip: Clip) -> str | None:
        """Return the first problem of one clip."""
        for column, text in (("clip_id", clip.clip_id), ("path", clip.path)):
            # Fixed-length UTF-8 in HDF5 and a line of CSV cannot hold other text.
            if not text or text != text.strip() or not is_printable(text):
                rule = "must be printable text without blanks around it; rename the file or the clip"
                return f"{column} {shown(text)} {rule}"
        if clip_id_bytes(clip) > LONGEST_CLIP_ID:
            return f"clip_id {shown(clip.clip_id)} is longer than {LONGEST_CLIP_ID} bytes; shorten it"
        if not clip.split or clip.split != clip.split.strip() or not is_printable(clip.split):
            return (
                f"split {shown(clip.split)} of {shown(clip.clip_id)} must be a name such as train, val, test or fold1"
            )
        if not clip.labels:
            return f"clip {shown(clip.clip_id)} has no labels; give at least one or remove it"
        if not self._known.issuperset(clip.labels):
            unknown = next(label for label in clip.labels if label not in self._known)
            of_clip = f"unknown label {shown(unknown)} of clip {shown(clip.clip_id)}"
            return f"{of_clip}: not among the {self._num_classes} classes"
        if len(set(clip.labels)) != len(clip.labels):
            return f"clip {shown(clip.clip_id)} names a label twice: {shown(LABEL_SEPARATOR.join(clip.labels))}"
        return None


def clip_id_bytes(clip: Clip) -> int:
    """Return the length of a clip's id in UTF-8."""
    return len(clip.clip_id) if clip.clip_id.isascii() else len(clip.clip_id.encode())
