"""What an HDF5 file of a pack must be, and the refusal of everything else before any of its data are read.

Every dataset is chunked and carries fletcher32; `waveform` has one clip per chunk. Object headers are of HDF5 1.10,
which protects them by checksums too.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from epanns.data.clip import LONGEST_CLIP_ID
from epanns.data.pack_format import SMALL_CHUNK_ROWS
from epanns.data.plain_hdf5 import filters_of, pack_errors, plain_datasets, refusal

FLETCHER32_BYTES = 4  # appended to every chunk
_SUPERBLOCK, _OBJECT_HEADER = 3, 2  # versions of HDF5 1.10; both carry checksums
DTYPES: dict[str, np.dtype[Any]] = {
    "waveform": np.dtype(np.int16),
    "n_samples": np.dtype(np.int32),
    "target": np.dtype(np.bool_),
    "crc32": np.dtype(np.uint32),
}
NAMES = ("audio_name", *DTYPES)


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

    @property
    def waveform_chunk_bytes(self) -> int:
        """Size of the chunk of one clip, as it is stored."""
        return 2 * self.clip_samples + FLETCHER32_BYTES

    def chunk_of(self, name: str) -> tuple[int, ...]:
        """Return the chunk shape of a dataset."""
        rows = 1 if name == "waveform" else min(self.rows, SMALL_CHUNK_ROWS)
        return (rows, *self.of(name)[1:])


def shard_datasets(file: h5py.File, path: Path, shape: ShardShape) -> Mapping[str, h5py.Dataset]:
    """Return the schema's datasets, or raise unless the file holds exactly these, in this file, whole."""
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
    """Return whether damage to the structures of HDF5 would be noticed, which say where the data are."""
    versions = [h5py.h5o.get_info(file[name].id).hdr.version for name in file]
    return bool(file.id.get_create_plist().get_version()[0] == _SUPERBLOCK and min(versions) >= _OBJECT_HEADER)


def _problem_of(dataset: h5py.Dataset, name: str, shape: ShardShape) -> str | None:
    """Return how a dataset departs from the schema; looks at its header only."""
    if dataset.shape != shape.of(name) or dataset.chunks != shape.chunk_of(name):
        return f"has shape {dataset.shape} in chunks {dataset.chunks}, must have {shape.of(name)}"
    if not _has_dtype(dataset, name):
        return f"has type {dataset.dtype}, must have {DTYPES.get(name, 'fixed-length UTF-8')}"
    filters = filters_of(dataset)
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
