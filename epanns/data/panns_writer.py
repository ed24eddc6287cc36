"""Writing PANNs' original files; what is in them is in `epanns.data.panns_format`.

There are no rows without a clip, as PANNs' own scripts leave them for every sound that is missing.
"""

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from epanns import atomic
from epanns.data.new_hdf5 import new_hdf5
from epanns.data.panns_format import (
    DTYPES,
    INDEX_NAMES,
    PATH_BYTES,
    SAMPLE_RATE_ATTRIBUTE,
    name_bytes,
    panns_name,
)
from epanns.data.shard_writer import ShardRow

_HEADER_BYTES = 1 << 16  # more than all that HDF5 adds to the data of such a file
_INDEX_ROWS = 4096  # read and written at a time


def write_waveform_file(
    path: Path, rows: Iterable[ShardRow], *, most_rows: int, clip_id_bytes: int, sample_rate: int
) -> int:
    """Write rows as they come.

    Args:
        path: The file, which is whole when this returns.
        rows: Clips of one length and one number of classes; a row's waveform is used before the next is asked for.
        most_rows: How many may come.
        clip_id_bytes: Of the longest clip id.
        sample_rate: In Hz.

    Returns:
        How many came; where it is none, nothing was written.
    """
    stream = iter(rows)
    first = next(stream, None)
    if first is None:
        return 0
    width = name_bytes(clip_id_bytes)
    n_bytes = most_rows * (first.waveform.nbytes + first.target.nbytes + width) + _HEADER_BYTES
    with new_hdf5(path, n_bytes, oldest="earliest") as (file, descriptor):
        small = _write_waveforms(file, descriptor, itertools.chain([first], stream), most_rows)
        names = [panns_name(clip_id).encode() for clip_id, _ in small]
        _create(file, "audio_name", (len(small),), np.dtype(f"S{width}"))[...] = np.array(names)
        targets = np.array([target for _, target in small])
        _create(file, "target", targets.shape, DTYPES["target"])[...] = targets
        file.attrs.create(SAMPLE_RATE_ATTRIBUTE, sample_rate, dtype=DTYPES[SAMPLE_RATE_ATTRIBUTE])
    return len(small)


def _write_waveforms(
    file: h5py.File, descriptor: int, rows: Iterator[ShardRow], most_rows: int
) -> list[tuple[str, NDArray[np.bool_]]]:
    """Write `waveform` past HDF5, into the place that it gives; return clip ids and targets.

    A contiguous data set cannot be cut to the rows that came. It is made again instead, and lies where it lay.
    """
    first = next(rows)
    place = _reserve(file, most_rows, len(first.waveform))
    small = []
    for index, row in enumerate(itertools.chain([first], rows)):
        _write_at(descriptor, row.waveform, place + index * row.waveform.nbytes)
        small.append((row.clip_id, row.target))
    if len(small) < most_rows:
        del file["waveform"]
        if _reserve(file, len(small), len(first.waveform)) != place:
            raise RuntimeError("HDF5 moved a data set; please report this with the versions of h5py and HDF5")
    return small


def _reserve(file: h5py.File, n_rows: int, clip_samples: int) -> int:
    """Create `waveform` without writing to it; return its place in the file."""
    dataset = _create(file, "waveform", (n_rows, clip_samples), DTYPES["waveform"])
    return int(dataset.id.get_offset())


def _create(file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> h5py.Dataset:
    """Create a contiguous data set whose room in the file is taken at once."""
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_layout(h5py.h5d.CONTIGUOUS)
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    layout.set_obj_track_times(False)  # equal clips give equal bytes
    space = h5py.h5s.create_simple(shape)
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(dtype, logical=True), space, layout)
    return file[name]


def _write_at(descriptor: int, values: NDArray[np.int16], place: int) -> None:
    rest = values.data.cast("B")
    while len(rest):
        written = os.pwrite(descriptor, rest, place)
        rest, place = rest[written:], place + written


def write_index(path: Path, waveform_files: Sequence[Path]) -> None:
    """Write the index of waveform files, in their order: every row of each.

    It names them by their absolute paths, which is what PANNs' own data set opens; move the files and it must be
    written again.

    Args:
        path: The index; ``NAME.partial`` beside it while it is written.
        waveform_files: Files of one number of classes, at least one.
    """
    places = [os.fsencode(file.resolve()) for file in waveform_files]
    with h5py.File(waveform_files[0], "r") as first:
        classes: int = first["target"].shape[1]
        name_type = first["audio_name"].dtype
    n_rows = sum(_rows_of(file) for file in waveform_files)
    types = {
        "audio_name": name_type,
        "target": DTYPES["target"],
        "hdf5_path": np.dtype(f"S{max(PATH_BYTES, *map(len, places))}"),
        "index_in_hdf5": DTYPES["index_in_hdf5"],
    }
    n_bytes = n_rows * (sum(dtype.itemsize for dtype in types.values()) + classes) + _HEADER_BYTES
    with atomic.replacing(path) as partial, new_hdf5(partial, n_bytes, oldest="earliest") as (index, _):
        for name in INDEX_NAMES:
            _create(index, name, (n_rows, classes) if name == "target" else (n_rows,), types[name])
        for rows, columns in _index_blocks(waveform_files, places):
            for name, values in columns.items():
                index[name][rows] = values


def is_index_of(path: Path, waveform_files: Sequence[Path]) -> bool:
    """Whether an index is there and names every row of waveform files where they lie now."""
    places = [os.fsencode(file.resolve()) for file in waveform_files]
    n_rows = sum(_rows_of(file) for file in waveform_files)
    try:
        with h5py.File(path, "r") as index:
            return all(len(index[name]) == n_rows for name in INDEX_NAMES) and all(
                np.array_equal(index[name][rows], values)
                for rows, columns in _index_blocks(waveform_files, places)
                for name, values in columns.items()
            )
    except Exception:  # whatever HDF5 makes of a damaged file, it is not this index
        return False


def _rows_of(path: Path) -> int:
    with h5py.File(path, "r") as file:
        return len(file["audio_name"])


def _index_blocks(
    waveform_files: Sequence[Path], places: Sequence[bytes]
) -> Iterator[tuple[slice, dict[str, NDArray[np.generic]]]]:
    """Yield rows of an index and what its columns hold there, a few thousand at a time."""
    begin = 0
    for path, place in zip(waveform_files, places, strict=True):
        with h5py.File(path, "r") as file:
            n_rows = len(file["audio_name"])
            for first in range(0, n_rows, _INDEX_ROWS):
                last = min(first + _INDEX_ROWS, n_rows)
                yield (
                    slice(begin + first, begin + last),
                    {
                        "audio_name": file["audio_name"][first:last],
                        "target": file["target"][first:last],
                        "hdf5_path": np.full(last - first, place),
                        "index_in_hdf5": np.arange(first, last, dtype=np.int32),
                    },
                )
        begin += n_rows
