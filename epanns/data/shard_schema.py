"""What an HDF5 file of a pack must be, and the refusal of everything else before any of its data are read.

Every dataset is chunked and carries fletcher32; `waveform` has one clip per chunk. Object headers are of HDF5 1.10,
which protects them by checksums too.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from epanns.data.manifest import LONGEST_CLIP_ID
from epanns.data.pack_format import SMALL_CHUNK_ROWS
from epanns.errors import PackError

FLETCHER32_BYTES = 4  # appended to every chunk
DTYPES: dict[str, np.dtype[Any]] = {
    "waveform": np.dtype(np.int16),
    "n_samples": np.dtype(np.int32),
    "target": np.dtype(np.bool_),
    "crc32": np.dtype(np.uint32),
}
NAMES = ("audio_name", *DTYPES)
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


def refuse_foreign(file: h5py.File, path: Path, shape: ShardShape) -> None:
    """Raise unless the file holds exactly the schema's datasets, in this file, whole."""
    if len(file) != len(NAMES) or set(file) != set(NAMES) or len(file.attrs):
        raise PackError(damaged(path, "file", f"must hold {', '.join(NAMES)} and nothing else"))
    for name in NAMES:
        if not isinstance(file.get(name, getlink=True), h5py.HardLink):
            raise PackError(damaged(path, name, "is a link to another place"))
        dataset = file[name]
        if not isinstance(dataset, h5py.Dataset):
            raise PackError(damaged(path, name, "is no dataset"))
        problem = _problem_of(dataset, name, file, shape)
        if problem:
            raise PackError(damaged(path, name, problem))


def _problem_of(dataset: h5py.Dataset, name: str, file: h5py.File, shape: ShardShape) -> str | None:
    """Return how a dataset departs from the schema; looks at its header only."""
    if dataset.file.filename != file.filename or dataset.external or dataset.is_virtual:
        return "keeps its data in another file"
    if dataset.shape != shape.of(name) or dataset.chunks != shape.chunk_of(name):
        return f"has shape {dataset.shape} in chunks {dataset.chunks}, must have {shape.of(name)}"
    if not _has_dtype(dataset, name):
        return f"has type {dataset.dtype}, must have {DTYPES.get(name, 'fixed-length UTF-8')}"
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
        return bool(dataset.dtype == DTYPES[name])
    text = h5py.check_string_dtype(dataset.dtype)
    return text is not None and text.encoding == "utf-8" and 0 < (text.length or 0) <= LONGEST_CLIP_ID


def _stored_bytes(dataset: h5py.Dataset, name: str, shape: ShardShape) -> int:
    chunk = shape.chunk_of(name)
    n_chunks = -(-shape.rows // chunk[0])
    item_bytes: int = dataset.dtype.itemsize
    return n_chunks * (math.prod(chunk) * item_bytes + FLETCHER32_BYTES)


@contextmanager
def pack_errors(path: Path, what: str) -> Iterator[None]:
    """Turn whatever HDF5 makes of a damaged or foreign file into one error that names it."""
    if not path.is_file():
        raise PackError(f"{path}: this shard of the pack is missing; copy the pack again or pack again")
    try:
        yield
    except _HDF5_ERRORS as error:
        raise PackError(damaged(path, what, " ".join(str(error).split()) or type(error).__name__)) from error


def damaged(path: Path, what: str, detail: str) -> str:
    """Return the message for a file that is not what it should be."""
    return f"{path}: {what}: {detail}; the pack is damaged: copy it again or pack again"
