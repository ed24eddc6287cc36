"""A pack in memory, with every option of the formats and without a file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from epanns.data.packs.any_pack import ClipColumns, SparseTargets
from epanns.labels import LabelSet


class MemoryPack:
    """A `AnyPack` whose clip i is ``i + 1, i + 2, ...``, followed by zeros."""

    knows_lengths = True
    remarks: tuple[str, ...] = ()

    def __init__(
        self,
        name: str,
        labels: LabelSet | Sequence[str],
        target: Sequence[Sequence[int]],
        *,
        rows: int = 8,
        lengths: Sequence[int] | None = None,
        clip_ids: Sequence[str] | None = None,
        checksums: bool = True,
    ) -> None:
        self.path, self.dataset, self.digest = Path(name), name, name * 8
        self.labels = labels if isinstance(labels, LabelSet) else LabelSet.of(labels)
        self.sample_rate, self.clip_samples = 100, rows
        count = len(target)
        n_samples = np.full(count, rows, np.int32) if lengths is None else np.asarray(lengths, np.int32)
        ids = [f"{name}{index}" for index in range(count)] if clip_ids is None else clip_ids
        dense = np.asarray(target, bool).reshape(count, len(self.labels))
        self.columns = ClipColumns(
            np.asarray([text.encode() for text in ids]),
            n_samples,
            SparseTargets.from_dense(dense),
            np.arange(count, dtype=np.uint32) if checksums else None,
        )

    def __len__(self) -> int:
        return len(self.columns.clip_ids)

    def read_into(self, index: int, out: np.ndarray) -> int:
        length = int(self.columns.n_samples[index])
        out[:length] = np.arange(index + 1, index + 1 + length)
        out[length:] = 0
        return length

    def close(self) -> None:
        pass
