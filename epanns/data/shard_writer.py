"""Writing one HDF5 file of a pack; its schema is in `epanns.data.shard_schema`, reading in `epanns.data.shard`."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from epanns import atomic
from epanns.data.new_hdf5 import new_hdf5
from epanns.data.pack_format import ShardInfo
from epanns.data.shard_schema import DTYPES, ShardShape

_ROW_OVERHEAD = 64  # bytes of lengths, checksums and chunk index, rounded up


@dataclass(frozen=True)
class ShardRow:
    """One clip: id, ``(clip_samples,)`` int16, real samples before padding, ``(classes,)`` bool, crc32 of the int16."""

    clip_id: str
    waveform: NDArray[np.int16]
    n_samples: int
    target: NDArray[np.bool_]
    crc32: int


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
        with new_hdf5(partial, most_rows * row_bytes, oldest="v110") as (file, _):
            waveforms = _create(file, "waveform", shape, DTYPES["waveform"])
            small = []  # the rows without their waveforms
            for index, row in enumerate(itertools.chain([first], stream)):
                waveforms[index] = row.waveform
                small.append(replace(row, waveform=row.waveform[:0]))
            waveforms.resize(len(small), axis=0)
            _write_columns(file, small, replace(shape, rows=len(small)), clip_id_bytes)
    return ShardInfo(path.name, len(small), atomic.sha256_of(path))


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
        _create(file, name, shape, DTYPES[name])[...] = np.array(values, DTYPES[name])
