"""The classes of each clip, stored sparsely: two million clips of AudioSet take 30 MB instead of 1 GB."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


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
