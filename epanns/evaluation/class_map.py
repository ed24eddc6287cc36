"""Class maps: which classes of a network mean the classes of another data set, read from CSV."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from epanns.atomic import sha256_of_json
from epanns.errors import DataError, did_you_mean
from epanns.labels import LabelSet, audioset, names_read_alike, same_classes
from epanns.text_files import CsvKind, read_csv_table

COLUMNS = ("category", "mid", "display_name")
_KIND = CsvKind("a class map", limit=1 << 24, need="100,000 rows of 160 bytes", remedy="give a class map")
_LISTED = 5


@dataclass(frozen=True)
class ClassMap:
    """Pairs of a class of a data set and a class of a network.

    A class of the data set with several rows has the highest score of their classes.

    Attributes:
        rows: Category of the data set, AudioSet identifier and name of the network's class; one of the two may be
            empty.
        source: Name of the file, for messages.
    """

    rows: tuple[tuple[str, str, str], ...]
    source: str = "class map"

    @classmethod
    def from_csv(cls, path: Path) -> "ClassMap":
        """Read ``category,mid,display_name``, the columns in any order.

        Raises:
            DataError: If the file cannot be read, its columns differ, it has no row, a row is repeated or lacks the
                category or both names of the network's class.
        """
        columns, table = read_csv_table(path, _KIND)
        if sorted(columns) != sorted(COLUMNS):
            raise DataError(
                f"{path}: its columns are {','.join(columns)[:80]!r}; must be {','.join(COLUMNS)}; give a class map"
            )
        rows = [(row["category"], row["mid"], row["display_name"]) for row in table]
        if not rows:
            raise DataError(f"{path}: has no row below its first line; must have one for each class; give a class map")
        for number, (category, mid, name) in enumerate(rows, start=1):
            if not category or not (mid or name):
                raise DataError(
                    f"{path}, row {number}: {category},{mid},{name} must have a category, and a mid or a display_name; "
                    "complete or remove the row"
                )
        if repeated := [row for row, count in Counter(rows).items() if count > 1]:
            raise DataError(f"{path}: the row {','.join(repeated[0])} appears twice; must differ; remove one")
        return cls(tuple(rows), str(path))

    @property
    def digest(self) -> str:
        """The sha256 of the rows: equal maps have equal digests."""
        return sha256_of_json([list(row) for row in self.rows])

    def between(self, network: LabelSet, data: LabelSet) -> "MappedClasses":
        """Find the classes of the map in those of a network and of a data set, as `epanns.labels.same_classes` does.

        Args:
            network: Classes of the network.
            data: Classes of the data set.

        Raises:
            DataError: If the map contradicts itself or the network's classes, a class is neither the network's nor one
                of AudioSet's, or no class of the data set is mapped.
        """
        targets = self._label_set(dict.fromkeys((mid, name or mid) for _, mid, name in self.rows))
        places = same_classes(network, targets)
        in_audioset = same_classes(audioset(), targets)
        for index, (mid, name) in enumerate(zip(targets.mids, targets.names, strict=True)):
            if index not in places and index not in in_audioset:
                raise DataError(
                    f"{self.source}: {name!r}{f' ({mid})' if mid else ''} is no class of the network and none of "
                    f"AudioSet{did_you_mean(name, network.names)}; correct or remove its rows"
                )
            if index in places and name in network.names and network.names.index(name) != places[index]:
                raise DataError(
                    f"{self.source}: {mid} is {network.names[places[index]]!r} in the network, and {name!r} is another "
                    "class of it; must be one class; correct the row"
                )
        categories = self._label_set(("", category) for category in dict.fromkeys(row[0] for row in self.rows))
        in_data = same_classes(data, categories)
        columns: dict[int, list[int]] = {}
        for category, mid, name in self.rows:
            index, place = categories.index(category), targets.names.index(name or mid)
            if index in in_data and place in places:
                columns.setdefault(in_data[index], []).append(places[place])
        if not columns:
            raise DataError(
                f"{self.source}: maps none of the {len(data)} classes of the data ({_some(data.names)}) to a class of "
                "the network; give the class map of this data set"
            )
        return MappedClasses(
            columns={index: tuple(columns[index]) for index in sorted(columns)},
            data=data,
            unmapped=tuple(name for index, name in enumerate(data.names) if index not in columns),
            not_in_data=tuple(name for index, name in enumerate(categories.names) if index not in in_data),
            not_in_network=tuple(name for index, name in enumerate(targets.names) if index not in places),
            digest=self.digest,
        )

    def _label_set(self, classes: Iterable[tuple[str, str]]) -> LabelSet:
        """Return a label set of identifiers and names, whose spellings must differ."""
        mids, names = zip(*classes, strict=True)
        try:
            found = LabelSet(names, mids)
        except DataError as error:
            raise DataError(f"{self.source}: {error}; give each class one identifier and one name") from error
        if alike := names_read_alike(names):
            raise DataError(f"{self.source}: {_some(alike[0])} are spellings of one class; must be equal; choose one")
        return found


@dataclass(frozen=True)
class MappedClasses:
    """The classes of a data set that a network scores through a class map, and all classes left out.

    Attributes:
        columns: Index of a class of the data set -> indices of the network's classes whose highest score is its score.
        data: All classes of the data set.
        unmapped: Classes of the data set without a class of the network.
        not_in_data: Categories of the map that are no classes of the data set.
        not_in_network: AudioSet's classes in the map that the network lacks.
        digest: That of the map.
    """

    columns: Mapping[int, tuple[int, ...]]
    data: LabelSet
    unmapped: tuple[str, ...]
    not_in_data: tuple[str, ...]
    not_in_network: tuple[str, ...]
    digest: str

    @property
    def labels(self) -> LabelSet:
        """The mapped classes of the data set, in its order."""
        return LabelSet(
            tuple(self.data.names[index] for index in self.columns),
            tuple(self.data.mids[index] for index in self.columns),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values: the digest of the map, the number of mapped classes, and all classes left out."""
        return {
            "sha256": self.digest,
            "n_mapped": len(self.columns),
            "unmapped": list(self.unmapped),
            "not_in_data": list(self.not_in_data),
            "not_in_network": list(self.not_in_network),
        }

    def remarks(self) -> list[str]:
        """Return one line for each kind of class that is left out."""
        kinds = {
            f"of {len(self.data)} classes of the data have no class of the network": self.unmapped,
            "categories of the class map are no classes of the data": self.not_in_data,
            "of AudioSet's classes in the class map are none of the network's": self.not_in_network,
        }
        return [f"{len(names)} {text}: {_some(names)}" for text, names in kinds.items() if names]


def _some(names: Sequence[str]) -> str:
    """Return the first names, and the number of the others."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(map(repr, names[:_LISTED])) + more
