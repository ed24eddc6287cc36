"""PANNs' original files: their format, how they are written, and how one waveform file is read.

A waveform file holds `audio_name`, `waveform` and `target`, contiguous and without checksums; the sample rate is an
attribute of the file. An index file gives, for each of its rows, a waveform file and the row in it. Unlike PANNs' own
scripts, which leave an empty row for every missing sound, `epanns pack` writes rows for clips only.

Without checksums a flipped bit gives another sample and no error. Reading checks that all rows are in the file, that
they have names, and that the file has not changed since it was opened. `panns_pack` reads an index or several files.
"""

import hashlib
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from epanns import atomic
from epanns.data.clip import LONGEST_CLIP_ID
from epanns.data.packs.any_pack import SparseTargets
from epanns.data.packs.open_files import Stamp, close_files, read_at
from epanns.data.packs.pack_format import INDEX_FOLDER, LONGEST_CLIP_SAMPLES
from epanns.data.packs.safe_hdf5 import (
    ADVICE,
    new_hdf5,
    opened,
    pack_errors,
    plain_datasets,
    read_strings,
    read_targets,
    refusal,
    refuse_shape,
    rows_of,
    storage_problem,
)
from epanns.data.packs.shard import ShardRow

WAVEFORM_NAMES = ("audio_name", "waveform", "target")
INDEX_NAMES = ("audio_name", "target", "hdf5_path", "index_in_hdf5")
SAMPLE_RATE_ATTRIBUTE = "sample_rate"  # of a waveform file, int32, in Hz
DTYPES: dict[str, np.dtype[Any]] = {
    "waveform": np.dtype(np.int16),
    "target": np.dtype(np.bool_),
    "index_in_hdf5": np.dtype(np.int32),
    SAMPLE_RATE_ATTRIBUTE: np.dtype(np.int32),
}
# Bytes of the fixed-length strings as PANNs' scripts write them; longer names and paths get longer strings.
NAME_BYTES, PATH_BYTES = 20, 200

_LONGEST_INDEX_NAME = 200  # bytes; file systems take 255, with the suffix of a partial file
_YOUTUBE_ID = re.compile(r"[A-Za-z0-9_-]{11}")
_HEADER_BYTES = 1 << 16  # more than HDF5 adds to the data of such a file
_INDEX_ROWS = 4096  # read and written at a time


def panns_name(clip_id: str) -> str:
    """Return a clip's `audio_name`: ``Y<id>.wav`` of a YouTube id, as PANNs calls AudioSet's; other ids as they are."""
    return f"Y{clip_id}.wav" if _YOUTUBE_ID.fullmatch(clip_id) else clip_id


def clip_id_of(name: str) -> str:
    """Return the id behind an `audio_name`, the inverse of `panns_name`."""
    inner = name[1:-4]
    return inner if name == f"Y{inner}.wav" and _YOUTUBE_ID.fullmatch(inner) else name


def index_file(splits: Sequence[str]) -> str:
    """Return the path of the index in the folder of a pack of some splits, empty for all.

    Characters of the names that have a meaning in a path are replaced, and long names are shortened.
    """
    name = "+".join(re.sub(r"[^\w-]", "_", split) for split in splits) or "all"
    if len(name.encode()) > _LONGEST_INDEX_NAME:
        name = f"{name[:40]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return f"{INDEX_FOLDER}/{name}.h5"


def write_waveform_file(
    path: Path, rows: Iterable[ShardRow], *, most_rows: int, clip_id_bytes: int, sample_rate: int
) -> int:
    """Write the rows of an iterator to a new waveform file.

    Args:
        path: The file, which is complete when this returns.
        rows: Clips of one length and one number of classes; a row's waveform is used before the next row is requested.
        most_rows: Largest number of rows.
        clip_id_bytes: Of the longest clip id.
        sample_rate: In Hz.

    Returns:
        The number of rows; if it is 0, no file is written.
    """
    stream = iter(rows)
    first = next(stream, None)
    if first is None:
        return 0
    width = max(NAME_BYTES, clip_id_bytes)
    n_bytes = most_rows * (first.waveform.nbytes + first.target.nbytes + width) + _HEADER_BYTES
    with new_hdf5(path, n_bytes, oldest="earliest") as (file, descriptor):
        place = _reserve(file, most_rows, len(first.waveform))
        small = []
        for index, row in enumerate(itertools.chain([first], stream)):  # written without HDF5
            rest, offset = row.waveform.data.cast("B"), place + index * row.waveform.nbytes
            while len(rest):
                written = os.pwrite(descriptor, rest, offset)
                rest, offset = rest[written:], offset + written
            small.append((row.clip_id, row.target))
        if len(small) < most_rows:
            # A contiguous dataset cannot be shortened. Deleted and created again, it has the same offset.
            del file["waveform"]
            if _reserve(file, len(small), len(first.waveform)) != place:
                raise RuntimeError("HDF5 moved a dataset; please report this with the versions of h5py and HDF5")
        names = [panns_name(clip_id).encode() for clip_id, _ in small]
        _create(file, "audio_name", (len(small),), np.dtype(f"S{width}"))[...] = np.array(names)
        targets = np.array([target for _, target in small])
        _create(file, "target", targets.shape, DTYPES["target"])[...] = targets
        file.attrs.create(SAMPLE_RATE_ATTRIBUTE, sample_rate, dtype=DTYPES[SAMPLE_RATE_ATTRIBUTE])
    return len(small)


def _reserve(file: h5py.File, n_rows: int, clip_samples: int) -> int:
    """Create `waveform` without writing to it; return its offset in the file."""
    dataset = _create(file, "waveform", (n_rows, clip_samples), DTYPES["waveform"])
    return int(dataset.id.get_offset())


def _create(file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> h5py.Dataset:
    """Create a contiguous dataset whose space in the file is allocated at once."""
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_layout(h5py.h5d.CONTIGUOUS)
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    layout.set_obj_track_times(False)  # equal clips give equal bytes
    space = h5py.h5s.create_simple(shape)
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(dtype, logical=True), space, layout)
    return file[name]


def write_index(path: Path, waveform_files: Sequence[Path]) -> None:
    """Write the index of all rows of waveform files, in their order.

    It names the files by their absolute paths, as PANNs' data set requires; after a move it must be written again.

    Args:
        path: The index.
        waveform_files: At least one file; all have the same number of classes.
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
    """Whether a file is the index of all rows of waveform files at their present paths."""
    places = [os.fsencode(file.resolve()) for file in waveform_files]
    n_rows = sum(_rows_of(file) for file in waveform_files)
    try:
        with h5py.File(path, "r") as index:
            return all(len(index[name]) == n_rows for name in INDEX_NAMES) and all(
                np.array_equal(index[name][rows], values)
                for rows, columns in _index_blocks(waveform_files, places)
                for name, values in columns.items()
            )
    except Exception:  # of HDF5, about a damaged file
        return False


def _rows_of(path: Path) -> int:
    with h5py.File(path, "r") as file:
        return len(file["audio_name"])


def _index_blocks(
    waveform_files: Sequence[Path], places: Sequence[bytes]
) -> Iterator[tuple[slice, dict[str, NDArray[np.generic]]]]:
    """Yield slices of the rows of an index and the values of its columns there, a few thousand rows at a time."""
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


DEFAULT_SAMPLE_RATE = 32_000  # of a file without the attribute
_SMALLEST_CHUNK = 4  # bytes; HDF5's fletcher32 subtracts the size of its checksum and fails on shorter chunks


class ChunkedRows:
    """Rows of a chunked dataset, compressed or not, which HDF5 reads.

    An HDF5 handle must not cross into another process: it is opened on first use, and again in every process to which
    this object is passed, by fork or by pickling.
    """

    def __init__(self, path: Path, name: str, stamp: Stamp) -> None:
        """Set the dataset; the file must have been checked."""
        self._path, self._name, self._stamp = path, name, stamp
        self._file: h5py.File | None = None
        self._pid: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None, "_pid": None}

    def read_into(self, row: int, out: NDArray[np.int16]) -> None:
        """Fill ``(samples,)`` with a row; raise `PackError` if the file has changed."""
        with pack_errors(self._path, f"{self._name} row {row}", ADVICE):
            if self._file is None or self._pid != os.getpid():
                self._file = None  # a parent's handle is dropped before the file is opened
                self._stamp.require(self._path, self._path.stat())
                self._file, self._pid = h5py.File(self._path, "r", locking=False), os.getpid()
            self._file[self._name].read_direct(out, np.s_[row])
            self._stamp.require(self._path, self._path.stat())

    def close(self) -> None:
        """Close the file, if it is open in this process."""
        file, self._file = self._file, None
        if file is not None and self._pid == os.getpid():
            file.close()


@dataclass(frozen=True)
class PannsFile:
    """A checked waveform file; it may be passed to other processes.

    Attributes:
        path: The file.
        sample_rate: In Hz.
        rows: Number of rows.
        clip_samples: Length of each row.
        num_classes: Width of the targets.
        stamp: Of the file when it was checked.
        offset: Of the first row in the file, in bytes; None if `waveform` is chunked.
        chunked: Reader of a chunked `waveform`.
    """

    path: Path
    sample_rate: int
    rows: int
    clip_samples: int
    num_classes: int
    stamp: Stamp
    offset: int | None
    chunked: ChunkedRows

    def read_into(self, row: int, out: NDArray[np.int16]) -> None:
        """Fill ``(clip_samples,)`` with a row.

        Raises:
            PackError: If the file cannot be read or has changed.
        """
        if self.offset is None:
            self.chunked.read_into(row, out)
        else:
            read_at(self.path, self.offset + row * 2 * self.clip_samples, out, stamp=self.stamp)

    def close(self) -> None:
        """Close the file, if it is open in this process."""
        close_files([self.path])
        self.chunked.close()


@dataclass(frozen=True, eq=False)
class PannsRows:
    """Names and classes of rows.

    Attributes:
        names: ``(rows,)`` dtype ``S``, as stored; empty where PANNs' packer did not find the sound.
        targets: Classes of each row.
    """

    names: NDArray[np.bytes_]
    targets: SparseTargets


def open_panns_file(path: Path) -> tuple[PannsFile, PannsRows]:
    """Check a waveform file and read all but its waveforms.

    Raises:
        PackError: If it is not as PANNs' script writes it.
    """
    with opened(path, ADVICE) as file:
        stamp = Stamp.of(path.stat())
        datasets = plain_datasets(file, path, WAVEFORM_NAMES, attributes=(SAMPLE_RATE_ATTRIBUTE,), advice=ADVICE)
        with pack_errors(path, "file", ADVICE):
            rows = rows_of(datasets["audio_name"], path)
            names = read_strings(datasets["audio_name"], path, rows, longest=LONGEST_CLIP_ID)
            targets = read_targets(datasets["target"], path, rows)
            sample_rate = DEFAULT_SAMPLE_RATE
            if SAMPLE_RATE_ATTRIBUTE in file.attrs:
                attribute = file.attrs.get_id(SAMPLE_RATE_ATTRIBUTE)
                if attribute.shape not in ((), (1,)) or attribute.dtype.kind not in "iu":
                    raise refusal(path, SAMPLE_RATE_ATTRIBUTE, "must be one whole number", ADVICE)
                sample_rate = int(np.asarray(file.attrs[SAMPLE_RATE_ATTRIBUTE]).item())
            if not 1000 <= sample_rate <= 384_000:
                rule = "must be between 1000 and 384000 Hz"
                raise refusal(path, SAMPLE_RATE_ATTRIBUTE, f"is {sample_rate}, {rule}", ADVICE)
        with pack_errors(path, "waveform", ADVICE):
            waveform = datasets["waveform"]
            if waveform.dtype != DTYPES["waveform"]:
                raise refusal(path, "waveform", f"has type {waveform.dtype}, must have int16", ADVICE)
            refuse_shape(waveform, path, rows, LONGEST_CLIP_SAMPLES)
            problem = _storage_problem(waveform, stamp.size, names != b"")
            if problem:
                raise refusal(path, "waveform", problem, ADVICE)
            offset = None if waveform.chunks else int(waveform.id.get_offset())
            clip_samples = int(waveform.shape[1])
    labelled = np.flatnonzero((names == b"") & (np.diff(targets.offsets) > 0))
    if len(labelled):
        raise refusal(path, "audio_name", f"row {labelled[0]} has labels and no name", ADVICE)
    chunked = ChunkedRows(path, "waveform", stamp)
    checked = PannsFile(path, sample_rate, rows, clip_samples, targets.num_classes, stamp, offset, chunked)
    return checked, PannsRows(names, targets)


def _storage_problem(dataset: h5py.Dataset, file_bytes: int, needed: NDArray[np.bool_]) -> str | None:
    """Return why rows of a dataset, contiguous or in chunks, cannot be read, or None.

    Args:
        dataset: Two-dimensional.
        file_bytes: Size of the file.
        needed: ``(rows,)``, whether a row must have been written.
    """
    problem = storage_problem(dataset, file_bytes, may_miss_chunks=True)
    if problem or dataset.chunks is None:
        return problem
    height, width = dataset.chunks
    found: list[h5py.h5d.StoreInfo] = []
    dataset.id.chunk_iter(found.append)
    most = 2 * height * width * dataset.dtype.itemsize
    if not all(_SMALLEST_CHUNK < chunk.size <= most for chunk in found):
        return "has a chunk that is no compressed row"
    whole = np.bincount([chunk.chunk_offset[0] // height for chunk in found], minlength=-(-len(needed) // height))
    missing = needed & (whole < -(-dataset.shape[1] // width)).repeat(height)[: len(needed)]
    return f"row {int(np.argmax(missing))} was never written" if missing.any() else None
