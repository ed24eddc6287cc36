"""One HDF5 file of a pack: its schema, how it is written, and how it is read.

Every dataset is chunked and carries fletcher32; `waveform` has one clip per chunk. Object headers are of HDF5 1.10,
which protects them by checksums too.
"""

import itertools
import math
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from epanns.data.clip import LONGEST_CLIP_ID
from epanns.data.packs.any_pack import ClipColumns, SparseTargets, refuse_wrong_ids
from epanns.data.packs.open_files import close_files, read_at
from epanns.data.packs.pack_format import SMALL_CHUNK_ROWS
from epanns.data.packs.safe_hdf5 import filters_of, new_hdf5, opened, pack_errors, plain_datasets, refusal, row_chunks

FLETCHER32_BYTES = 4  # appended to every chunk
DTYPES: dict[str, np.dtype[Any]] = {
    "waveform": np.dtype(np.int16),
    "n_samples": np.dtype(np.int32),
    "target": np.dtype(np.bool_),
    "crc32": np.dtype(np.uint32),
}
NAMES = ("audio_name", *DTYPES)
_SUPERBLOCK, _OBJECT_HEADER = 3, 2  # versions of HDF5 1.10; both carry checksums
_ROW_OVERHEAD = 64  # bytes of lengths, checksums and chunk index, rounded up


@dataclass(frozen=True)
class ShardShape:
    """Sizes of a shard: rows, samples of a row, classes."""

    rows: int
    clip_samples: int
    num_classes: int

    def of(self, name: str) -> tuple[int, ...]:
        """Return the shape of a dataset."""
        widths = {"waveform": self.clip_samples, "target": self.num_classes}
        return (self.rows, widths[name]) if name in widths else (self.rows,)

    def chunk_of(self, name: str) -> tuple[int, ...]:
        """Return the chunk shape of a dataset."""
        rows = 1 if name == "waveform" else min(self.rows, SMALL_CHUNK_ROWS)
        return (rows, *self.of(name)[1:])


@dataclass(frozen=True)
class ShardRow:
    """One clip: id, ``(clip_samples,)`` int16, samples before the padding, ``(classes,)`` bool, crc32 of the int16."""

    clip_id: str
    waveform: NDArray[np.int16]
    n_samples: int
    target: NDArray[np.bool_]
    crc32: int


class Shard:
    """A shard for reading; it is opened and checked when it is first used.

    HDF5 is opened once, for the columns and the offsets of the waveforms, and closed again. Waveforms are then read as
    bytes at an offset of the file: fast, without an open handle that a fork could harm, and without a parser between
    the disk and the checksum. A shard may be passed to other processes, by fork or by pickling. Every failure is a
    `PackError` that names the file.
    """

    def __init__(self, path: Path, shape: ShardShape) -> None:
        """Set the file and the sizes that it must have; nothing is opened yet."""
        self.path = path
        self.shape = shape
        self._offsets: NDArray[np.int64] | None = None

    def read_columns(self) -> ClipColumns:
        """Read all but the waveforms."""
        with opened(self.path) as file:
            datasets = shard_datasets(file, self.path, self.shape)
            self._offsets = self._offsets_in(datasets["waveform"])
            with pack_errors(self.path, "audio_name"):
                clip_ids = datasets["audio_name"][...].astype(f"S{datasets['audio_name'].dtype.itemsize}")
            refuse_wrong_ids(clip_ids, self.path)
            values = {}
            for name in ("n_samples", "target", "crc32"):
                with pack_errors(self.path, name):
                    values[name] = datasets[name][...]
        n_samples = values["n_samples"]
        if n_samples.min() < 1 or n_samples.max() > self.shape.clip_samples:
            raise refusal(self.path, "n_samples", f"must be in 1..{self.shape.clip_samples}")
        if values["target"].view(np.uint8).max() > 1:
            raise refusal(self.path, "target", "holds more than true and false")
        return ClipColumns(clip_ids, n_samples, SparseTargets.from_dense(values["target"]), values["crc32"])

    def read_into(self, row: int, crc32: int, out: NDArray[np.int16]) -> None:
        """Fill ``(clip_samples,)`` with a row and compare it with its checksum."""
        if self._offsets is None:
            with opened(self.path) as file:
                self._offsets = self._offsets_in(shard_datasets(file, self.path, self.shape)["waveform"])
        read_at(self.path, int(self._offsets[row]), out)
        if zlib.crc32(out.data) != crc32:
            raise refusal(self.path, f"waveform row {row}", "does not match its crc32")

    def close(self) -> None:
        """Close the file, if it is open in this process; the next reading opens it again."""
        close_files([self.path])

    def _offsets_in(self, waveform: h5py.Dataset) -> NDArray[np.int64]:
        with pack_errors(self.path, "waveform"):
            chunk_bytes = 2 * self.shape.clip_samples + FLETCHER32_BYTES
            return row_chunks(waveform, chunk_bytes, self.path.stat().st_size)


def shard_datasets(file: h5py.File, path: Path, shape: ShardShape) -> Mapping[str, h5py.Dataset]:
    """Return the datasets of a shard, or raise unless the file holds exactly the schema, completely written."""
    datasets = plain_datasets(file, path, NAMES)
    with pack_errors(path, "file"):
        if not headers_have_checksums(file):
            raise refusal(path, "file", "has structures older than HDF5 1.10, which have no checksums")
    for name, dataset in datasets.items():
        with pack_errors(path, name):
            problem = _problem_of(dataset, name, shape)
        if problem:
            raise refusal(path, name, problem)
    return datasets


def headers_have_checksums(file: h5py.File) -> bool:
    """Return whether the structures of an HDF5 file have checksums, so that damage to them is noticed."""
    versions = [h5py.h5o.get_info(file[name].id).hdr.version for name in file]
    return bool(file.id.get_create_plist().get_version()[0] == _SUPERBLOCK and min(versions) >= _OBJECT_HEADER)


def _problem_of(dataset: h5py.Dataset, name: str, shape: ShardShape) -> str | None:
    """Return how a dataset breaks the schema, or None; reads its header only."""
    if dataset.shape != shape.of(name) or dataset.chunks != shape.chunk_of(name):
        return f"has shape {dataset.shape} in chunks {dataset.chunks}, must have {shape.of(name)}"
    text = h5py.check_string_dtype(dataset.dtype)
    if name == "audio_name":
        has_dtype = text is not None and text.encoding == "utf-8" and 0 < (text.length or 0) <= LONGEST_CLIP_ID
    else:
        has_dtype = bool(dataset.dtype == DTYPES[name])
    if not has_dtype:
        return f"has type {dataset.dtype}, must have {DTYPES.get(name, 'fixed-length UTF-8')}"
    filters = filters_of(dataset)
    if filters != [h5py.h5z.FILTER_FLETCHER32]:
        return f"has the filters {filters}, must have fletcher32 alone"
    chunk = shape.chunk_of(name)
    n_chunks = -(-shape.rows // chunk[0])
    expected = n_chunks * (math.prod(chunk) * dataset.dtype.itemsize + FLETCHER32_BYTES)
    stored = dataset.id.get_storage_size()
    if stored != expected:
        return f"stores {stored} bytes, must store {expected}: rows were never written"
    return None


def write_shard(path: Path, rows: Iterable[ShardRow], *, most_rows: int, clip_id_bytes: int) -> int:
    """Write the rows of an iterator to a new shard.

    Args:
        path: The file, which is complete when this returns.
        rows: Clips of one length and one number of classes; a row's waveform is used before the next row is requested.
        most_rows: Largest number of rows.
        clip_id_bytes: Length of `audio_name`.

    Returns:
        The number of rows; if it is 0, no file is written.
    """
    stream = iter(rows)
    first = next(stream, None)
    if first is None:
        return 0
    shape = ShardShape(most_rows, len(first.waveform), len(first.target))
    row_bytes = first.waveform.nbytes + first.target.nbytes + clip_id_bytes + _ROW_OVERHEAD
    with new_hdf5(path, most_rows * row_bytes, oldest="v110") as (file, _):
        waveforms = _create(file, "waveform", shape, DTYPES["waveform"])
        memory, place = (h5py.h5s.create_simple(size) for size in ((1, shape.clip_samples), shape.of("waveform")))
        columns: dict[str, list[Any]] = {"audio_name": [], "n_samples": [], "target": [], "crc32": []}
        for index, row in enumerate(itertools.chain([first], stream)):
            # As `waveforms[index] = row.waveform`, whose indexing takes as long as decoding half a second of sound.
            place.select_hyperslab((index, 0), memory.shape)
            waveforms.id.write(memory, place, row.waveform)
            for name, value in zip(columns, (row.clip_id.encode(), row.n_samples, row.target, row.crc32), strict=True):
                columns[name].append(value)
        n_rows = len(columns["crc32"])
        waveforms.resize(n_rows, axis=0)
        dtypes = {**DTYPES, "audio_name": h5py.string_dtype("utf-8", clip_id_bytes)}
        for name, values in columns.items():
            _create(file, name, replace(shape, rows=n_rows), dtypes[name])[...] = np.array(values, dtypes[name])
    return n_rows


def _create(file: h5py.File, name: str, shape: ShardShape, dtype: np.dtype[Any]) -> h5py.Dataset:
    return file.create_dataset(
        name,
        shape=shape.of(name),
        maxshape=shape.of(name),
        chunks=shape.chunk_of(name),
        dtype=dtype,
        fletcher32=True,
        track_times=False,  # equal clips give equal bytes
    )
