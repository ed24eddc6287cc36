"""Writing one HDF5 file of a pack; its schema is in `epanns.data.shard_schema`, reading in `epanns.data.shard`."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from epanns.data.new_hdf5 import new_hdf5
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


def write_shard(path: Path, rows: Iterable[ShardRow], *, most_rows: int, clip_id_bytes: int) -> int:
    """Write rows as they come.

    Args:
        path: The file, which is whole when this returns.
        rows: Clips of one length and one number of classes; a row's waveform is used before the next is asked for.
        most_rows: How many may come.
        clip_id_bytes: Length of `audio_name`.

    Returns:
        How many came; where it is none, nothing was written.
    """
    stream = iter(rows)
    first = next(stream, None)
    if first is None:
        return 0
    shape = ShardShape(most_rows, len(first.waveform), len(first.target))
    row_bytes = first.waveform.nbytes + first.target.nbytes + clip_id_bytes + _ROW_OVERHEAD
    with new_hdf5(path, most_rows * row_bytes, oldest="v110") as (file, _):
        waveforms = _create(file, "waveform", shape, DTYPES["waveform"])
        small = []  # the rows without their waveforms
        for index, row in enumerate(itertools.chain([first], stream)):
            waveforms[index] = row.waveform
            small.append(replace(row, waveform=row.waveform[:0]))
        waveforms.resize(len(small), axis=0)
        _write_columns(file, small, replace(shape, rows=len(small)), clip_id_bytes)
    return len(small)


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
