"""Label sets, the names of a tagger's classes in output order; and tasks, the ways to score classes."""

import csv
import functools
import hashlib
import io
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from importlib import resources
from pathlib import Path

from epanns.errors import DataError, did_you_mean
from epanns.text_files import CsvKind, csv_rows_of, read_csv_rows, require_fields

_LABEL_LIST = CsvKind("a label list", limit=1 << 24, need="100,000 classes of 160 bytes")
_HEADER = ["index", "mid", "display_name"]

_DASHES = "\\-\u2010-\u2015"  # hyphens and dashes of Unicode, without the minus sign U+2212
_SEPARATORS = re.compile(r"[\s_,]+")
_JOINING_DASHES = re.compile(
    rf"(?<=[^\s_,{_DASHES}])[{_DASHES}]+(?=[^\s_,{_DASHES}])|(?<=[\s_,])[{_DASHES}]+(?=[\s_,])"
)
_NOT_TEXT = re.compile("[\0\ud800-\udfff]")  # UTF-8 files cannot hold it
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")


# Task -> activation that makes scores of logits: a sigmoid per class, or a softmax over the classes.
TASKS = {"multi-label": "sigmoid", "single-label": "softmax"}

# Task -> the validation score by which the best weights are chosen.
DECISIVE_SCORES = {"multi-label": "mAP", "single-label": "accuracy"}


@dataclass(frozen=True)
class LabelSet:
    """Classes in output order.

    Attributes:
        names: Display name of each class.
        mids: AudioSet identifier of each class (``/m/09x0r``), or ``""`` if it has none.
    """

    names: tuple[str, ...]
    mids: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.mids):
            raise DataError(f"a label set has {len(self.names)} names and {len(self.mids)} mids: give one mid per name")
        for name in self.names + self.mids:
            if _NOT_TEXT.search(name):
                raise DataError(f"label {name!r} holds a NUL character or half a character; rename the class")
        if repeated := sorted(mid for mid, count in Counter(self.mids).items() if mid and count > 1):
            raise DataError(f"AudioSet identifier {repeated[0]!r} appears twice: identifiers must differ")
        if repeated := sorted(name for name, count in Counter(self.names).items() if count > 1):
            raise DataError(f"label {repeated[0]!r} appears twice: names must differ")

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def of(cls, names: Sequence[str]) -> "LabelSet":
        """Return a label set without AudioSet identifiers."""
        return cls(tuple(names), ("",) * len(names))

    @classmethod
    def numbered(cls, count: int) -> "LabelSet":
        """Return ``class_0``, ``class_1``, ..., for classes without known names."""
        return cls.of([f"class_{index}" for index in range(count)])

    @classmethod
    def from_csv(cls, path: Path) -> "LabelSet":
        """Read ``index,mid,display_name``, AudioSet's own format.

        Raises:
            DataError: If the file cannot be read, is longer than 16 MiB, its header differs, or the indices are not
                0, 1, 2, ...
        """
        return cls._of_rows(read_csv_rows(path, _LABEL_LIST), str(path))

    @classmethod
    def from_csv_text(cls, text: str, source: str) -> "LabelSet":
        """Parse the text of a label list; `source` names it in messages."""
        return cls._of_rows(csv_rows_of(text, source, _LABEL_LIST), source)

    @classmethod
    def _of_rows(cls, rows: Iterator[list[str]], source: str) -> "LabelSet":
        first = next(rows, [])
        if first != _HEADER:
            raise DataError(f"{source}: first line must be {','.join(_HEADER)}, is {','.join(first)[:80]!r}")
        names: list[str] = []
        mids: list[str] = []
        for number, row in enumerate(rows):
            require_fields(row, _HEADER, source, number + 1)
            if row[0] != str(number):
                shown = ",".join(row)[:80]
                raise DataError(f"{source}, line {number + 2}: {shown!r} must be {number},<mid>,<display name>")
            names.append(row[2])
            mids.append(row[1])
        try:
            return cls(tuple(names), tuple(mids))
        except DataError as error:
            raise DataError(f"{source}: {error}") from error

    def to_csv(self) -> str:
        """Return the label list in AudioSet's format."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_HEADER)
        writer.writerows(
            [index, mid, name] for index, (mid, name) in enumerate(zip(self.mids, self.names, strict=True))
        )
        return text.getvalue()

    @functools.cached_property
    def digest(self) -> str:
        """The sha256 of `to_csv`: equal label sets have equal digests."""
        return hashlib.sha256(self.to_csv().encode()).hexdigest()

    @functools.cached_property
    def _indices(self) -> dict[str, int]:
        by_mid = {mid: index for index, mid in enumerate(self.mids) if mid}
        return by_mid | {name: index for index, name in enumerate(self.names)}

    def index(self, name: str) -> int:
        """Return the class index of a display name or an AudioSet identifier.

        Raises:
            DataError: If it is neither.
        """
        if name not in self._indices:
            raise DataError(f"unknown label {name!r}{did_you_mean(name, self.names)}: not among {len(self)} classes")
        return self._indices[name]


def same_classes(known: LabelSet, wanted: LabelSet) -> dict[int, int]:
    """Match the classes of two label sets: index in `wanted` -> index in `known`.

    Two classes are the same if their AudioSet identifiers are equal. If one class has no identifier, names are
    compared: equal names, or else names with the same `reading` (``Toilet flush`` is ``toilet_flush``), unless several
    names of one set share the reading. No class is matched twice.
    """
    keys = ((known.mids, wanted.mids), (known.names, wanted.names), (_readings(known.names), _readings(wanted.names)))
    places: dict[int, int] = {}
    for known_keys, wanted_keys in keys:
        place_of = {key: place for place, key in enumerate(known_keys) if key and place not in places.values()}
        for index, key in enumerate(wanted_keys):
            place = place_of.get(key)
            if place is None or index in places:
                continue
            mids = {known.mids[place], wanted.mids[index]} - {""}
            if len(mids) < 2:  # equal names of two identifiers are two classes
                places[index] = place
    return dict(sorted(places.items()))


def composed(name: str) -> str:
    """Return a name in composed Unicode (NFC); names of folders written by macOS are decomposed."""
    return unicodedata.normalize("NFC", name)


def reading(name: str) -> str:
    """Normalise the spelling of a class name: two names with the same reading name one class.

    1. Case is folded, and composed and decomposed letters are equal, as Unicode defines it (canonical caseless
       matching): "Caf\u00e9" is "CAFE\u0301". Combining marks are part of their letters.
    2. Runs of blanks, underscores and commas are equal; at the ends of a name they are removed.
    3. Hyphens and dashes are equal to a blank where they join two words ("hip-hop") or stand between blanks,
       underscores or commas ("rock - live"). Elsewhere they are kept: "A-" is not "A", "-1" is not "1".
    4. All other signs are kept: "C", "C#" and "(C)" are three classes.
    """
    folded = composed(unicodedata.normalize("NFD", name).casefold())
    return _SEPARATORS.sub(" ", _JOINING_DASHES.sub(" ", folded)).strip()


def names_read_alike(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the groups of several names with the same `reading`, each group in the given order."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[reading(name)].append(name)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def in_label_order(names: Iterable[str]) -> list[str]:
    """Sort names of classes without a given order: by value if all are whole or decimal numbers, else as text."""
    distinct = set(names)
    if all(map(_NUMBER.fullmatch, distinct)):
        return sorted(distinct, key=lambda name: (Decimal(name), name))
    return sorted(distinct)


def _readings(names: Sequence[str]) -> list[str]:
    """Return the reading of each name; empty if another name has the same."""
    readings = [reading(name) for name in names]
    counts = Counter(readings)
    return [text if counts[text] == 1 else "" for text in readings]


@functools.cache
def audioset() -> LabelSet:
    """Return AudioSet's 527 classes (Gemmeke et al. 2017, CC BY 4.0)."""
    return _shipped("audioset.csv")


# AudioSet's classes that YAMNet leaves out: male and female speech, male and female singing, battle cry, funny music.
_NOT_YAMNETS = ("/m/05zppz", "/m/02zsn", "/m/04gy_2", "/t/dd00003", "/t/dd00004", "/t/dd00032")


@functools.cache
def yamnet() -> LabelSet:
    """Return YAMNet's 521 classes: AudioSet's without six, in AudioSet's order."""
    kept = [pair for pair in zip(audioset().names, audioset().mids, strict=True) if pair[1] not in _NOT_YAMNETS]
    return LabelSet(tuple(name for name, _ in kept), tuple(mid for _, mid in kept))


@functools.cache
def fsd50k() -> LabelSet:
    """Return FSD50K's 200 classes in the order of its vocabulary (Fonseca et al. 2020, CC BY 4.0)."""
    return _shipped("fsd50k.csv")


def _shipped(name: str) -> LabelSet:
    resource = resources.files("epanns") / "label_sets" / name
    return LabelSet.from_csv_text(resource.read_text(encoding="utf-8"), name)
