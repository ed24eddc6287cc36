"""The interface of packs of every format: clips by row, with their ids, lengths and classes.

The formats are in `pack`, `panns_pack` and `mp3_pack`. Classes are stored sparsely: two million clips of AudioSet take
30 MB instead of 1 GB.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from epanns.data.clip import LONGEST_CLIP_ID
from epanns.errors import PackError
from epanns.labels import LabelSet, audioset, fsd50k


@dataclass(frozen=True, eq=False)
class SparseTargets:
    """A table of ``(clips, classes)`` bool, stored as the positions of its true values.

    The classes of clip i are ``classes[offsets[i]:offsets[i + 1]]``.

    Attributes:
        offsets: ``(clips + 1,)``, from 0 to the number of labels.
        classes: ``(labels,)``, ascending within a clip.
        num_classes: Number of columns.
    """

    offsets: NDArray[np.int64]
    classes: NDArray[np.int32]
    num_classes: int

    @classmethod
    def from_dense(cls, target: NDArray[np.bool_]) -> "SparseTargets":
        """Convert a ``(clips, classes)`` table."""
        # Flat first: on two axes numpy takes ten times as long.
        rows, classes = np.divmod(np.flatnonzero(target), target.shape[1])
        offsets = np.searchsorted(rows, np.arange(len(target) + 1))
        return cls(offsets.astype(np.int64), classes.astype(np.int32), target.shape[1])

    @classmethod
    def concatenate(cls, parts: Sequence["SparseTargets"]) -> "SparseTargets":
        """Stack tables with the same number of classes."""
        lengths = np.concatenate([np.diff(part.offsets) for part in parts])
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        return cls(offsets, np.concatenate([part.classes for part in parts]), parts[0].num_classes)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def dense(self, clips: ArrayLike | None = None) -> NDArray[np.bool_]:
        """Return the rows of some clips, or of all, as ``(clips, classes)`` bool."""
        chosen = self if clips is None else self.take(clips)
        target = np.zeros((len(chosen), self.num_classes), bool)
        target[chosen._clips(), chosen.classes] = True
        return target

    def _clips(self) -> NDArray[np.int64]:
        """Return ``(labels,)``: the clip of each entry of `classes`."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def of(self, clip: int) -> NDArray[np.int32]:
        """Return the classes of one clip."""
        return self.classes[self.offsets[clip] : self.offsets[clip + 1]]

    def counts_by_clip(self) -> NDArray[np.int64]:
        """Return ``(clips,)``: the number of classes of each clip."""
        return np.diff(self.offsets)

    def take(self, clips: ArrayLike) -> "SparseTargets":
        """Return the rows of some clips, in the order given."""
        chosen = np.asarray(clips, np.int64)
        lengths = self.offsets[chosen + 1] - self.offsets[chosen]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        places = np.arange(offsets[-1]) + np.repeat(self.offsets[chosen] - offsets[:-1], lengths)
        return SparseTargets(offsets, self.classes[places], self.num_classes)

    def equals(self, other: "SparseTargets") -> bool:
        """Return whether another table has the same content."""
        return (
            self.num_classes == other.num_classes
            and np.array_equal(self.offsets, other.offsets)
            and np.array_equal(self.classes, other.classes)
        )

    def counts(self) -> NDArray[np.int64]:
        """Return ``(classes,)``: the number of clips of each class."""
        return np.bincount(self.classes, minlength=self.num_classes).astype(np.int64)

    def clips_by_class(self) -> list[NDArray[np.int64]]:
        """Return the clips of each class, ascending."""
        order = np.argsort(self.classes, kind="stable")
        return np.split(self._clips()[order], np.cumsum(self.counts())[:-1])

    def relabelled(self, new_classes: Iterable[int], num_classes: int) -> "SparseTargets":
        """Return the same clips with class i renumbered to ``new_classes[i]``, of `num_classes` classes."""
        new = np.fromiter(new_classes, np.int32)[self.classes]
        order = np.lexsort((new, self._clips()))
        return SparseTargets(self.offsets, new[order], num_classes)


@dataclass(frozen=True, eq=False)
class ClipColumns:
    """Ids, lengths, targets and checksums of a pack's clips.

    Attributes:
        clip_ids: ``(clips,)`` UTF-8 bytes of fixed length (dtype ``S``): compact, and fast to pass to other processes.
        n_samples: ``(clips,)`` int32, samples of each clip before its padding; the row's length in a format that does
            not store it.
        targets: Classes of each clip.
        crc32: ``(clips,)`` uint32 of each row's int16 bytes; None in a format without checksums.
    """

    clip_ids: NDArray[np.bytes_]
    n_samples: NDArray[np.int32]
    targets: SparseTargets
    crc32: NDArray[np.uint32] | None

    @classmethod
    def joined(cls, parts: Sequence["ClipColumns"], path: Path) -> "ClipColumns":
        """Concatenate the parts of a pack, all of which have checksums or none.

        Raises:
            PackError: If a clip id is repeated.
        """
        clip_ids = np.concatenate([part.clip_ids for part in parts])
        ordered = np.sort(clip_ids)
        twice = ordered[1:][ordered[1:] == ordered[:-1]]
        if len(twice):
            raise PackError(f"{path}: clip {twice[0].decode()!r} is repeated; pack again")
        checksums = [part.crc32 for part in parts if part.crc32 is not None]
        return cls(
            clip_ids,
            np.concatenate([part.n_samples for part in parts]),
            SparseTargets.concatenate([part.targets for part in parts]),
            np.concatenate(checksums) if len(checksums) == len(parts) else None,
        )

    @property
    def digest(self) -> str:
        """The sha256 of all columns."""
        content = hashlib.sha256(f"{len(self.clip_ids)} {self.targets.num_classes}\n".encode())
        content.update(b"\0".join(self.clip_ids.tolist()))
        for values in (self.n_samples, self.targets.offsets, self.targets.classes, self.crc32):
            if values is not None:
                content.update(np.ascontiguousarray(values).data)
        return content.hexdigest()


class AnyPack(Protocol):
    """A pack of any format.

    It may be passed to other processes, by fork or by pickling; each process opens the files for itself.

    Attributes:
        path: The folder or file that was opened.
        dataset: Name of the data set in results.
        labels: Classes in the order of the targets.
        sample_rate: In Hz.
        clip_samples: Length of every row.
        digest: Hexadecimal sha256 of the pack's content, as far as the format allows without reading every clip.
        knows_lengths: Whether `read_into` returns the length of a clip without its padding.
        remarks: Notes for the user: limits of the format, rows that are left out, classes that are assumed.
    """

    path: Path
    dataset: str
    labels: LabelSet
    sample_rate: int
    clip_samples: int
    digest: str
    knows_lengths: bool
    remarks: tuple[str, ...]

    def __len__(self) -> int: ...

    @property
    def columns(self) -> ClipColumns:
        """Ids, lengths, targets and checksums of all clips; read once."""
        ...

    def read_into(self, index: int, out: NDArray[np.int16]) -> int:
        """Fill ``(clip_samples,)`` with a clip and zeros after it, and return the clip's number of samples.

        Raises:
            PackError: If it cannot be read or does not match its checksum; the message names clip and file.
        """
        ...

    def close(self) -> None:
        """Close the files that this process holds open."""
        ...


def refuse_wrong_ids(clip_ids: NDArray[np.bytes_], path: Path) -> None:
    """Raise `PackError` unless every id is UTF-8, not empty and not too long."""
    if clip_ids.dtype.itemsize > LONGEST_CLIP_ID:
        raise PackError(f"{path}: audio_name: has {clip_ids.dtype.itemsize} bytes, must have {LONGEST_CLIP_ID} at most")
    names = clip_ids.tolist()
    if not all(names):
        raise PackError(f"{path}: audio_name: row {names.index(b'')} has none; pack again")
    try:
        b"\0".join(names).decode()
    except UnicodeDecodeError as error:
        damaged = "the pack is damaged: copy it again or pack again"
        raise PackError(f"{path}: audio_name: is not UTF-8; {damaged}") from error


_KNOWN_CLASSES = {527: ("AudioSet's", audioset), 200: ("FSD50K's", fsd50k)}


def labels_of_width(num_classes: int, labels: LabelSet | None, path: Path) -> LabelSet:
    """Return the classes of a pack whose format does not name them; without `labels`, AudioSet's 527 or FSD50K's 200.

    Raises:
        PackError: If `labels` has another number of classes, or is None and no known data set has this number.
    """
    if labels is None and num_classes in _KNOWN_CLASSES:
        return _KNOWN_CLASSES[num_classes][1]()
    if labels is None:
        raise PackError(f"{path}: has {num_classes} classes and does not name them; give --labels FILE.csv")
    if len(labels) != num_classes:
        raise PackError(f"{path}: has {num_classes} classes, the labels given are {len(labels)}; give its own")
    return labels


def remark_on_classes(num_classes: int, path: Path) -> str:
    """Return the remark on classes that are assumed from their number."""
    assumed = _KNOWN_CLASSES[num_classes][0]
    return f"{path}: its {num_classes} classes are assumed to be {assumed}; --labels names others"


def no_clips(path: Path) -> PackError:
    """Return the error about a pack of epanns without clips."""
    return PackError(f"{path}: holds no clips; every one was rejected or missing, see its rejects.csv")
