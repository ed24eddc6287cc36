"""PANNs' original packs as one list of clips: a waveform file, a folder of them, or an index file.

Rows that PANNs' packer left empty, since it did not find the sound, are no clips: they are left out and counted. PANNs
itself reads them as silence without a label.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from epanns import atomic
from epanns.data.foreign_columns import ADVICE, MOST_ROWS
from epanns.data.pack_format import PACK_FILE, PackInfo
from epanns.data.panns_file import PannsFile, PannsRows, open_panns_file
from epanns.data.panns_format import clip_id_of
from epanns.data.panns_index import PannsIndex, open_panns_index
from epanns.data.plain_hdf5 import refusal
from epanns.data.source import ClipColumns, labels_of_width, no_clips, refuse_wrong_ids, remark_on_classes
from epanns.data.targets import SparseTargets
from epanns.errors import PackError
from epanns.labels import LabelSet


class PannsPack:
    """The clips of PANNs' files, by row.

    The format has no checksums: a damaged sample is not noticed, and `columns.crc32` is None. It does not say how long
    a clip was before its padding either: every clip counts as long as its row.

    Attributes:
        path: The file or folder that was named.
        files: Its waveform files.
        n_empty: Rows that hold nothing, which are left out.
        dataset, labels, sample_rate, clip_samples, digest, columns, knows_lengths, remarks: As `ClipSource` has them.
    """

    knows_lengths = False

    def __init__(
        self, path: Path, index: PannsIndex, *, labels: LabelSet | None = None, info: PackInfo | None = None
    ) -> None:
        """Take the rows of an index; `info` is what a pack.json beside it says.

        Raises:
            PackError: If files differ, no row holds a clip, a clip stands twice, or the classes are not known.
        """
        self.path, self.files = path, index.files
        first = index.files[0]
        for other in index.files[1:]:
            _refuse_unlike(first, other)
        self.sample_rate, self.clip_samples = first.sample_rate, first.clip_samples
        self.labels = labels_of_width(first.num_classes, info.labels if info else labels, path)
        self.dataset = info.dataset if info else path.stem
        kept = np.flatnonzero(index.rows.names != b"")
        if not len(kept):
            raise refusal(path, "audio_name", "is empty in every row: no sound was packed", ADVICE)
        self.n_empty = len(index.rows.names) - len(kept)
        self._file_of, self._row_of = index.file_of[kept], index.row_of[kept]
        self.columns = ClipColumns.joined([_columns_of(index, kept, self.clip_samples, path)], path)
        self.digest = atomic.sha256_of(path / PACK_FILE) if info else self._digest()
        self.remarks = tuple(self._remarks(named=info is not None or labels is not None, described=info is not None))

    def __len__(self) -> int:
        return len(self._row_of)

    def read_into(self, index: int, out: NDArray[np.int16]) -> int:
        """Fill ``(clip_samples,)`` with a clip and return `clip_samples`.

        Raises:
            PackError: If it cannot be read; clip and file are named.
        """
        try:
            self.files[self._file_of[index]].read_into(int(self._row_of[index]), out)
        except PackError as error:
            raise PackError(f"clip {self.columns.clip_ids[index].decode()!r}: {error}") from error
        return self.clip_samples

    def close(self) -> None:
        """Close the files that this process holds open."""
        for file in self.files:
            file.close()

    def _remarks(self, *, named: bool, described: bool) -> Iterator[str]:
        if not described:
            yield f"{self.path}: has no checksums, as PANNs made it: a damaged sample cannot be told from a right one"
        if self.n_empty:
            rows = "row holds" if self.n_empty == 1 else "rows hold"
            yield f"{self.path}: {self.n_empty:,} {rows} nothing, the sound was not found when it was packed: left out"
        if not named:
            yield remark_on_classes(len(self.labels), self.path)

    def _digest(self) -> str:
        sizes = [file.stamp.size for file in self.files]
        return atomic.sha256_of_json([self.columns.digest, self.sample_rate, self.labels.digest, sizes])


def open_panns_index_pack(path: Path, *, labels: LabelSet | None = None) -> PannsPack:
    """Open an index file with the waveform files it names."""
    return PannsPack(path, open_panns_index(path), labels=labels)


def open_panns_files(path: Path, files: Sequence[Path], *, labels: LabelSet | None = None) -> PannsPack:
    """Open waveform files, in the order given, as one pack called `path`."""
    return PannsPack(path, _index_of([open_panns_file(file) for file in files]), labels=labels)


def open_described_panns_pack(path: Path, info: PackInfo) -> PannsPack:
    """Open a pack in PANNs' format that `epanns pack` made: its pack.json names classes and files."""
    if not info.shards:
        raise no_clips(path)
    found = [open_panns_file(path / shard.file) for shard in info.shards]
    for (file, _), shard in zip(found, info.shards, strict=True):
        there = (file.rows, file.clip_samples, file.sample_rate, file.num_classes)
        asked = (shard.clips, info.clip_samples, info.sample_rate, len(info.labels))
        if there != asked:
            raise refusal(file.path, "file", f"has (rows, samples, rate, classes) {there}, {PACK_FILE} says {asked}")
    return PannsPack(path, _index_of(found), info=info)


def _index_of(found: Sequence[tuple[PannsFile, PannsRows]]) -> PannsIndex:
    """Return the index of every row of some files."""
    files, rows = [file for file, _ in found], [rows for _, rows in found]
    for other in files[1:]:
        _refuse_unlike(files[0], other)
    counts = [file.rows for file in files]
    if sum(counts) > MOST_ROWS:
        raise PackError(f"{files[0].path.parent}: holds more than {MOST_ROWS} rows; name its files one by one")
    return PannsIndex(
        tuple(files),
        PannsRows(
            np.concatenate([part.names for part in rows]),
            SparseTargets.concatenate([part.targets for part in rows]),
        ),
        np.repeat(np.arange(len(files), dtype=np.int32), counts),
        np.concatenate([np.arange(count) for count in counts]),
    )


def _columns_of(index: PannsIndex, kept: NDArray[np.int64], clip_samples: int, path: Path) -> ClipColumns:
    refuse_wrong_ids(index.rows.names[kept], path)
    clip_ids = np.array([clip_id_of(name.decode()).encode() for name in index.rows.names[kept].tolist()])
    return ClipColumns(clip_ids, np.full(len(kept), clip_samples, np.int32), index.rows.targets.take(kept), None)


def _refuse_unlike(first: PannsFile, other: PannsFile) -> None:
    ours, theirs = (
        {"sample_rate": file.sample_rate, "clip_samples": file.clip_samples, "classes": file.num_classes}
        for file in (first, other)
    )
    for what, value in ours.items():
        if theirs[what] != value:
            raise PackError(f"{first.path} and {other.path} differ: {what} {value} and {theirs[what]}; open them apart")
