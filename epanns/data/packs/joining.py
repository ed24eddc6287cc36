"""Join several packs: map their classes onto one label set, and refuse repeated clips."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from epanns.data.packs.any_pack import AnyPack
from epanns.errors import PackError
from epanns.labels import LabelSet, same_classes


@dataclass(frozen=True)
class LabelMap:
    """Map of the classes of one pack to those of a data set.

    Attributes:
        path: The pack.
        places: Index in the data set's label set, for each class of the pack.
        added: Number of classes that no earlier pack has.
        num_classes: Number of classes of the data set.
        respelled: Name in the pack and name in the data set, for classes whose names differ only in spelling.
    """

    path: Path
    places: tuple[int, ...]
    added: int
    num_classes: int
    respelled: tuple[tuple[str, str], ...] = ()

    @property
    def is_identity(self) -> bool:
        """Whether the pack has the classes of the data set, in the same order."""
        return self.places == tuple(range(self.num_classes))

    def describe(self) -> str:
        """Return a description of the map for the log."""
        own, lacking = len(self.places), self.num_classes - len(self.places)
        if not lacking and not self.added:
            order = "are in the same order" if self.is_identity else "come in another order and are mapped"
            return f"{self.path}: its {own} classes {order}{self._spelling()}"
        new = f" ({own - self.added} shared with the packs before it, {self.added} new)" if self.added else ""
        others = f"; its clips count as having none of the {lacking} others" if lacking else ""
        return f"{self.path}: has {own} of the {self.num_classes} classes{new}{others}{self._spelling()}"

    def _spelling(self) -> str:
        if not self.respelled:
            return ""
        theirs, ours = self.respelled[0]
        return f"; {len(self.respelled)} in another spelling, such as {theirs!r} for {ours!r}"


def join_labels(sources: Sequence[AnyPack], labels: LabelSet | None) -> tuple[LabelSet, list[LabelMap]]:
    """Map the classes of packs onto one label set.

    Two classes are the same if their AudioSet identifiers are equal or, if one of them has none, if their names are
    equal. Names that differ in spelling only (with the same `labels.reading`) are the same class if no other name of
    the pack or the data set has this reading.

    Args:
        sources: The packs, at least one.
        labels: The label set; None for the classes of all packs in the order of their first appearance.

    Raises:
        PackError: If a pack has a class that `labels` lacks, or the mapping is ambiguous.
    """
    joined = labels or sources[0].labels
    places: list[tuple[list[int], int]] = []
    for source in sources:
        found = _places(joined, source)
        missing = [index for index, place in enumerate(found) if place is None]
        if missing and labels is not None:
            name = source.labels.names[missing[0]]
            raise PackError(
                f"{source.path}: its class {name!r} is not among the {len(labels)} given classes; "
                "use a label list that has it"
            )
        names, mids = list(joined.names), list(joined.mids)
        for place, mid in zip(found, source.labels.mids, strict=True):
            if place is not None:
                mids[place] = mids[place] or mid  # an identifier that only this pack gives matches later packs
        names += [source.labels.names[index] for index in missing]
        mids += [source.labels.mids[index] for index in missing]
        if (names, mids) != (list(joined.names), list(joined.mids)):
            joined = LabelSet(tuple(names), tuple(mids))
        order = dict(zip(missing, range(len(joined) - len(missing), len(joined)), strict=True))
        known = [order[index] if place is None else place for index, place in enumerate(found)]
        places.append((known, len(missing)))
    maps = []
    for source, (known, added) in zip(sources, places, strict=True):
        respelled = tuple(
            (name, joined.names[place])
            for name, mid, place in zip(source.labels.names, source.labels.mids, known, strict=True)
            if name != joined.names[place] and not (mid and mid == joined.mids[place])
        )
        maps.append(LabelMap(source.path, tuple(known), added, len(joined), respelled))
    return joined, maps


def _places(joined: LabelSet, source: AnyPack) -> list[int | None]:
    """Return the index of each class of a pack in the joined label set, or None."""
    if source.labels == joined:
        return list(range(len(joined)))
    by_mid = {mid: place for place, mid in enumerate(joined.mids) if mid}
    by_name = {name: place for place, name in enumerate(joined.names)}
    alike = same_classes(joined, source.labels)
    taken: dict[int, str] = {}
    found: list[int | None] = []
    for index, (name, mid) in enumerate(zip(source.labels.names, source.labels.mids, strict=True)):
        place = by_mid.get(mid)
        if place is None and (place := by_name.get(name)) is not None and mid and joined.mids[place]:
            identifiers = f"{joined.mids[place]} and {mid}"
            raise PackError(f"{source.path}: class {name!r} has two AudioSet identifiers, {identifiers}; rename one")
        place = alike.get(index) if place is None else place
        if place is not None and taken.setdefault(place, name) != name:
            raise PackError(
                f"{source.path}: its classes {taken[place]!r} and {name!r} are both {joined.names[place]!r}; rename one"
            )
        found.append(place)
    return found


def refuse_repeated(sources: Sequence[AnyPack]) -> None:
    """Raise `PackError` if a clip is repeated in one pack or in two; the message names the clip and the packs."""
    clip_ids = np.sort(
        joined_ids(sources)
    )  # a third of a second for two million, where a set of them would take a gigabyte
    repeated = clip_ids[:-1][clip_ids[1:] == clip_ids[:-1]]
    if not len(repeated):
        return
    holding = [str(source.path) for source in sources if np.any(source.columns.clip_ids == repeated[0])]
    more = f" and {len(repeated) - 1} more" if len(repeated) > 1 else ""
    clip = repeated[0].decode()
    if len(holding) == 1:
        raise PackError(f"{holding[0]}: clip {clip!r}{more} is repeated; pack again")
    raise PackError(f"{' and '.join(holding)} share clips, {clip!r}{more}; join packs of different splits")


def joined_ids(sources: Sequence[AnyPack]) -> NDArray[np.bytes_]:
    """Return the concatenated clip ids of packs; for a single pack, its own array."""
    parts = [source.columns.clip_ids for source in sources]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def refuse_unlike(sources: Sequence[AnyPack], *, cropped: bool) -> None:
    """Raise `PackError` unless packs have the same sample rate and, unless rows are cropped, the same length."""
    first = sources[0]
    for other in sources[1:]:
        remedy = "pack both with the same"
        pairs = {"sample_rate": (first.sample_rate, other.sample_rate)}
        if not cropped:
            pairs["clip_samples"] = (first.clip_samples, other.clip_samples)
        for what, (one, another) in pairs.items():
            if one != another:
                remedy += ", or crop" if what == "clip_samples" else ""
                detail = f"{what} {one!r} and {another!r}"
                raise PackError(f"{first.path} and {other.path} cannot be joined: {detail}; {remedy}")
