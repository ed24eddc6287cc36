"""Label sets: the names of a tagger's classes, in the order of its outputs."""

import csv
import functools
import hashlib
import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from epanns.errors import DataError, did_you_mean

_HEADER = ["index", "mid", "display_name"]


@dataclass(frozen=True)
class LabelSet:
    """Classes in output order.

    Attributes:
        names: Display name of each class.
        mids: AudioSet identifier of each class (``/m/09x0r``), or ``""`` where there is none.
    """

    names: tuple[str, ...]
    mids: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.mids):
            raise DataError(f"a label set has {len(self.names)} names and {len(self.mids)} mids: give one mid per name")
        repeated = sorted(mid for mid, count in Counter(self.mids).items() if mid and count > 1)
        if repeated:
            raise DataError(f"AudioSet identifier {repeated[0]!r} stands more than once: identifiers must differ")
        repeated = sorted(name for name, count in Counter(self.names).items() if count > 1)
        if repeated:
            raise DataError(f"label {repeated[0]!r} stands more than once: names must differ")

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def of(cls, names: Sequence[str]) -> "LabelSet":
        """Return a label set without AudioSet identifiers."""
        return cls(tuple(names), ("",) * len(names))

    @classmethod
    def numbered(cls, count: int) -> "LabelSet":
        """Return ``class_0``, ``class_1``, ...: for networks whose classes have no known names."""
        return cls.of([f"class_{index}" for index in range(count)])

    @classmethod
    def from_csv(cls, path: Path) -> "LabelSet":
        """Read ``index,mid,display_name``, AudioSet's own format.

        Raises:
            DataError: If the file cannot be read, its header differs, or the indices are not 0, 1, 2, ...
        """
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read as a label list ({error})") from error
        return cls.from_csv_text(text, str(path))

    @classmethod
    def from_csv_text(cls, text: str, source: str) -> "LabelSet":
        """Parse the text of a label list; `source` names it in messages."""
        rows = list(csv.reader(io.StringIO(text)))
        if not rows or rows[0] != _HEADER:
            raise DataError(
                f"{source}: first line must be {','.join(_HEADER)}, is {','.join(rows[0]) if rows else ''!r}"
            )
        for number, row in enumerate(rows[1:]):
            if len(row) != len(_HEADER) or row[0] != str(number):
                raise DataError(f"{source}, line {number + 2}: {','.join(row)!r} must be {number},<mid>,<display name>")
        return cls(tuple(row[2] for row in rows[1:]), tuple(row[1] for row in rows[1:]))

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
            DataError: If it is neither; the nearest name is offered.
        """
        if name not in self._indices:
            raise DataError(f"unknown label {name!r}{did_you_mean(name, self.names)}: not among {len(self)} classes")
        return self._indices[name]


def same_classes(known: LabelSet, wanted: LabelSet) -> dict[int, int]:
    """Return which classes of one label set are in another: index in `wanted` -> index in `known`.

    Two classes are the same if their AudioSet identifiers are. Where one of them has none, their names decide: equal
    ones, or else those that are read alike without regard to case and to what stands between words (``Toilet flush`` is
    ``toilet_flush``). A reading that several names of one set share tells nothing. No class is taken twice.
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


def _readings(names: Sequence[str]) -> list[str]:
    """Return the words of each name in small letters, or nothing where another name has the same."""
    readings = [" ".join(re.findall(r"[^\W_]+", name.casefold())) for name in names]
    counts = Counter(readings)
    return [reading if counts[reading] == 1 else "" for reading in readings]


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
