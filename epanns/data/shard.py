"""One HDF5 file of a pack: its schema, written and read. No other module imports h5py.

Every dataset is chunked and carries fletcher32; `waveform` has one clip per chunk. Object headers are of HDF5 1.10,
which protects them by checksums too. A file that departs from the schema is refused before any of its data are read.
"""

import itertools
import math
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from epanns import atomic
from epanns.data.manifest import LONGEST_CLIP_ID
from epanns.data.pack_format import SMALL_CHUNK_ROWS, ShardInfo
from epanns.errors import PackError

_FLETCHER32_BYTES = 4  # appended to every chunk
_ROW_OVERHEAD = 64  # bytes of lengths, checksums and chunk index, rounded up
_DTYPES: dict[str, np.dtype[Any]] = {
    "waveform": np.dtype(np.int16),
    "n_samples": np.dtype(np.int32),
    "target": np.dtype(np.bool_),
    "crc32": np.dtype(np.uint32),
}
_NAMES = ("audio_name", *_DTYPES)
# What h5py was seen to raise on damaged files.
_HDF5_ERRORS = (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError, MemoryError)


@dataclass(frozen=True)
class ShardShape:
    """Sizes a shard must have: rows, samples of a row, classes."""

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
    """One clip: id, ``(clip_samples,)`` int16, real samples before padding, ``(classes,)`` bool, crc32 of the int16."""

    clip_id: str
    waveform: NDArray[np.int16]
    n_samples: int
    target: NDArray[np.bool_]
    crc32: int


@dataclass(frozen=True)
class ShardColumns:
    """All of a shard but its waveforms, row by row."""

    clip_ids: tuple[str, ...]
    n_samples: NDArray[np.int32]
    target: NDArray[np.bool_]
    crc32: NDArray[np.uint32]


def write_shard(path: Path, rows: Iterable[ShardRow], *, most_rows: int, clip_id_bytes: int) -> ShardInfo | None:
    """Write rows as they come, and put the file in place when the last is written.

    Args:
        path: The shard; ``NAME.partial`` beside it while it is written.
        rows: Clips of one length and one number of classes.
        most_rows: How many may come.
        clip_id_bytes: Length of `audio_name`.

    Returns:
        The shard, or None where `rows` is empty and nothing was written.
    """
    stream = iter(rows)
    first = next(stream, None)
    if first is None:
        return None
    shape = ShardShape(most_rows, len(first.waveform), len(first.target))
    with atomic.replacing(path) as partial:
        row_bytes = first.waveform.nbytes + first.target.nbytes + clip_id_bytes + _ROW_OVERHEAD
        with _new_file(partial, most_rows * row_bytes) as file:
            waveforms = _create(file, "waveform", shape, _DTYPES["waveform"])
            small = []  # the rows without their waveforms
            for index, row in enumerate(itertools.chain([first], stream)):
                waveforms[index] = row.waveform
                small.append(replace(row, waveform=row.waveform[:0]))
            waveforms.resize(len(small), axis=0)
            _write_columns(file, small, replace(shape, rows=len(small)), clip_id_bytes)
    return ShardInfo(path.name, len(small), atomic.sha256_of(path))


@contextmanager
def _new_file(path: Path, n_bytes: int) -> Iterator[h5py.File]:
    """Open an HDF5 file whose room on the disk is taken until it is closed, or raise `OSError`.

    A process in which HDF5 meets a full disk crashes. So the room is tried before HDF5 begins, which it must do in an
    empty file, and taken when it has; at the end HDF5 cuts what is left over.
    """
    with path.open("w+b") as raw:
        os.posix_fallocate(raw.fileno(), 0, n_bytes)
        raw.truncate(0)
        with h5py.File(raw, "w", libver=("v110", "v110")) as file:
            os.posix_fallocate(raw.fileno(), 0, n_bytes)
            yield file


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


def _write_columns(file: h5py.File, rows: Sequence[ShardRow], shape: ShardShape, clip_id_bytes: int) -> None:
    columns = {
        "n_samples": [row.n_samples for row in rows],
        "target": [row.target for row in rows],
        "crc32": [row.crc32 for row in rows],
    }
    text = h5py.string_dtype("utf-8", clip_id_bytes)
    _create(file, "audio_name", shape, text)[...] = np.array([row.clip_id.encode() for row in rows], text)
    for name, values in columns.items():
        _create(file, name, shape, _DTYPES[name])[...] = np.array(values, _DTYPES[name])


class Shard:
    """A shard that is open for reading.

    It opens its file on first use and again in every process it is passed to, by fork or by pickling: an HDF5 handle
    must not cross that border. Every failure is a `PackError` that names the file.
    """

    def __init__(self, path: Path, shape: ShardShape) -> None:
        """Name a file and the sizes it must have; nothing is opened yet."""
        self.path = path
        self.shape = shape
        self._file: h5py.File | None = None
        self._pid: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None, "_pid": None}

    def read_columns(self) -> ShardColumns:
        """Read all but the waveforms."""
        file = self._open()
        with _pack_errors(self.path, "audio_name"):
            clip_ids = tuple(name.decode() for name in file["audio_name"][...])
        values = {}
        for name in ("n_samples", "target", "crc32"):
            with _pack_errors(self.path, name):
                values[name] = file[name][...]
        n_samples = values["n_samples"]
        if n_samples.min() < 1 or n_samples.max() > self.shape.clip_samples:
            raise PackError(_damaged(self.path, "n_samples", f"must lie in 1..{self.shape.clip_samples}"))
        if values["target"].view(np.uint8).max() > 1:
            raise PackError(_damaged(self.path, "target", "holds more than true and false"))
        return ShardColumns(clip_ids, n_samples, values["target"], values["crc32"])

    def read_waveform(self, row: int, crc32: int) -> NDArray[np.int16]:
        """Read ``(clip_samples,)`` int16 and compare them with their checksum."""
        file = self._open()
        with _pack_errors(self.path, f"waveform row {row}"):
            # The raw chunk: its crc32 is checked here, so fletcher32 need not be computed as well.
            mask, chunk = file["waveform"].id.read_direct_chunk((row, 0))
        samples = chunk[:-_FLETCHER32_BYTES]
        if mask != 0 or len(samples) != 2 * self.shape.clip_samples or zlib.crc32(samples) != crc32:
            raise PackError(_damaged(self.path, f"waveform row {row}", "does not match its crc32"))
        return np.frombuffer(samples, np.int16)

    def close(self) -> None:
        """Close the file, if it is open in this process; the next reading opens it again."""
        file, self._file = self._file, None
        if file is not None and self._pid == os.getpid():
            file.close()

    def _open(self) -> h5py.File:
        if self._file is None or self._pid != os.getpid():
            self._file = None  # a parent's handle goes before the file is opened anew
            with _pack_errors(self.path, "file"):
                file = h5py.File(self.path, "r", locking=False)
                _refuse_foreign(file, self.path, self.shape)
            self._file, self._pid = file, os.getpid()
        return self._file


def _refuse_foreign(file: h5py.File, path: Path, shape: ShardShape) -> None:
    """Raise unless the file holds exactly the schema's datasets, in this file, whole."""
    if len(file) != len(_NAMES) or set(file) != set(_NAMES) or len(file.attrs):
        raise PackError(_damaged(path, "file", f"must hold {', '.join(_NAMES)} and nothing else"))
    for name in _NAMES:
        if not isinstance(file.get(name, getlink=True), h5py.HardLink):
            raise PackError(_damaged(path, name, "is a link to another place"))
        dataset = file[name]
        if not isinstance(dataset, h5py.Dataset):
            raise PackError(_damaged(path, name, "is no dataset"))
        problem = _problem_of(dataset, name, file, shape)
        if problem:
            raise PackError(_damaged(path, name, problem))


def _problem_of(dataset: h5py.Dataset, name: str, file: h5py.File, shape: ShardShape) -> str | None:
    """Return how a dataset departs from the schema; looks at its header only."""
    if dataset.file.filename != file.filename or dataset.external or dataset.is_virtual:
        return "keeps its data in another file"
    if dataset.shape != shape.of(name) or dataset.chunks != shape.chunk_of(name):
        return f"has shape {dataset.shape} in chunks {dataset.chunks}, must have {shape.of(name)}"
    if not _has_dtype(dataset, name):
        return f"has type {dataset.dtype}, must have {_DTYPES.get(name, 'fixed-length UTF-8')}"
    plist = dataset.id.get_create_plist()
    filters = [plist.get_filter(index)[0] for index in range(plist.get_nfilters())]
    if filters != [h5py.h5z.FILTER_FLETCHER32]:
        return f"has the filters {filters}, must have fletcher32 alone"
    stored, expected = dataset.id.get_storage_size(), _stored_bytes(dataset, name, shape)
    if stored != expected:
        return f"stores {stored} bytes, must store {expected}: rows were never written"
    return None


def _has_dtype(dataset: h5py.Dataset, name: str) -> bool:
    if name != "audio_name":
        return bool(dataset.dtype == _DTYPES[name])
    text = h5py.check_string_dtype(dataset.dtype)
    return text is not None and text.encoding == "utf-8" and 0 < (text.length or 0) <= LONGEST_CLIP_ID


def _stored_bytes(dataset: h5py.Dataset, name: str, shape: ShardShape) -> int:
    chunk = shape.chunk_of(name)
    n_chunks = -(-shape.rows // chunk[0])
    item_bytes: int = dataset.dtype.itemsize
    return n_chunks * (math.prod(chunk) * item_bytes + _FLETCHER32_BYTES)


@contextmanager
def _pack_errors(path: Path, what: str) -> Iterator[None]:
    """Turn whatever HDF5 makes of a damaged or foreign file into one error that names it."""
    if not path.is_file():
        raise PackError(f"{path}: this shard of the pack is missing; copy the pack again or pack again")
    try:
        yield
    except _HDF5_ERRORS as error:
        raise PackError(_damaged(path, what, " ".join(str(error).split()) or type(error).__name__)) from error


def _damaged(path: Path, what: str, detail: str) -> str:
    return f"{path}: {what}: {detail}; the pack is damaged: copy it again or pack again"
