"""Safe use of HDF5: reading only plain datasets of untrusted files, and writing files that a full disk cannot break.

HDF5 can read a dataset's values from any other file of the machine, declare a terabyte in a few bytes, and run filters
of third parties. The checks of this module refuse all of it; they read headers only and run before any value is read.
They do not make HDF5 itself safe: a file that attacks its parser does so on opening, which is why `epanns verify` opens
packs in a child process.

The second half reads the columns of packs in foreign formats. They have no checksums, so only damage that breaks a rule
is detected.
"""

import itertools
import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from epanns.data.packs.any_pack import SparseTargets
from epanns.data.packs.open_files import close_files
from epanns.errors import PackError

DAMAGED = "the pack is damaged: copy it again or pack again"
KNOWN_FILTERS: Mapping[int, str] = {
    h5py.h5z.FILTER_DEFLATE: "gzip",
    h5py.h5z.FILTER_SHUFFLE: "shuffle",
    h5py.h5z.FILTER_FLETCHER32: "fletcher32",
    h5py.h5z.FILTER_LZF: "lzf",
}
_MOST_CHUNK_BYTES = 1 << 26
_MOST_COMPRESSION = 1100  # deflate cannot do better than 1032
# What h5py was seen to raise on damaged files.
_HDF5_ERRORS = (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError, MemoryError, OverflowError)


@contextmanager
def pack_errors(path: Path, what: str, advice: str = DAMAGED) -> Iterator[None]:
    """Turn any exception of HDF5 about a damaged or foreign file into one `PackError` that names the file."""
    if not path.is_file():
        raise PackError(f"{path}: this file of the pack is missing; copy the pack again or pack again")
    try:
        yield
    except _HDF5_ERRORS as error:
        detail = " ".join(str(error).split()) or type(error).__name__
        raise refusal(path, what, detail, advice) from error


def refusal(path: Path, what: str, detail: str, advice: str = DAMAGED) -> PackError:
    """Return the error about a file that breaks a rule."""
    return PackError(f"{path}: {what}: {detail}; {advice}")


@contextmanager
def opened(path: Path, advice: str = DAMAGED) -> Iterator[h5py.File]:
    """Open a file for reading in a block.

    A descriptor that `open_files` holds open under the same path is closed first, since the file may have been
    replaced: bytes that are read later come from the file that is checked here.
    """
    close_files([path])
    with pack_errors(path, "file", advice):
        file = h5py.File(path, "r", locking=False)
    with file:
        yield file


def plain_datasets(
    file: h5py.File,
    path: Path,
    names: Collection[str],
    *,
    attributes: Collection[str] = (),
    advice: str = DAMAGED,
) -> Mapping[str, h5py.Dataset]:
    """Return the datasets of a file that holds exactly the named ones.

    Args:
        file: An open file.
        path: Its path, for messages.
        names: The datasets that it must hold.
        attributes: Attributes that the root group may have; datasets must have none.
        advice: End of the messages: what to do.

    Raises:
        PackError: For any other object, a link, data in another file, a named type or an attribute.
    """
    with pack_errors(path, "file", advice):
        if len(file) != len(names) or set(file) != set(names) or not set(file.attrs) <= set(attributes):
            raise refusal(path, "file", f"must hold {', '.join(names)} and nothing else", advice)
        if file.userblock_size:
            raise refusal(path, "file", "begins with a user block", advice)
    found = {}
    for name in names:
        with pack_errors(path, name, advice):
            if not isinstance(file.get(name, getlink=True), h5py.HardLink):
                raise refusal(path, name, "is a link to another place", advice)
            found[name] = file[name]
            problem = _object_problem(found[name], file)
            if problem:
                raise refusal(path, name, problem, advice)
    return found


def _object_problem(dataset: h5py.Dataset, file: h5py.File) -> str | None:
    if not isinstance(dataset, h5py.Dataset):
        return "is no dataset"
    if dataset.file.filename != file.filename or dataset.external or dataset.is_virtual:
        return "keeps its data in another file"
    if dataset.id.get_type().committed():
        return "has a type that is an object of its own"
    if len(dataset.attrs):
        return "has attributes"
    return None


def filters_of(dataset: h5py.Dataset) -> list[int]:
    """Return the numbers of a dataset's filters, in the order in which writing applies them."""
    plist = dataset.id.get_create_plist()
    return [plist.get_filter(index)[0] for index in range(plist.get_nfilters())]


def storage_problem(dataset: h5py.Dataset, file_bytes: int, *, may_miss_chunks: bool = False) -> str | None:
    """Return why a dataset's values cannot all be in its file, or None.

    Args:
        dataset: Contiguous, or in chunks.
        file_bytes: Size of the file.
        may_miss_chunks: Whether chunks may be absent, which read as zeros.
    """
    if dataset.chunks is None:
        return _contiguous_problem(dataset, file_bytes)
    foreign = [number for number in filters_of(dataset) if number not in KNOWN_FILTERS]
    if foreign:
        return f"has the filter {foreign[0]}, may have {', '.join(KNOWN_FILTERS.values())}"
    chunk_bytes = math.prod(dataset.chunks) * dataset.dtype.itemsize
    if chunk_bytes > _MOST_CHUNK_BYTES:
        return f"has chunks of {chunk_bytes} bytes, may have {_MOST_CHUNK_BYTES}"
    chunks = math.prod(-(-length // chunk) for length, chunk in zip(dataset.shape, dataset.chunks, strict=True))
    found, stored = dataset.id.get_num_chunks(), dataset.id.get_storage_size()
    if found > chunks or (found < chunks and not may_miss_chunks):
        return f"has {found} of {chunks} chunks: rows were never written"
    if stored > file_bytes or found * chunk_bytes > _MOST_COMPRESSION * stored:
        return f"stores {found * chunk_bytes} bytes in {stored}, in a file of {file_bytes}: no filter does that"
    return None


def _contiguous_problem(dataset: h5py.Dataset, file_bytes: int) -> str | None:
    if dataset.id.get_create_plist().get_layout() != h5py.h5d.CONTIGUOUS:
        return "is neither contiguous nor in chunks"
    declared = math.prod(dataset.shape) * dataset.dtype.itemsize
    stored, place = dataset.id.get_storage_size(), dataset.id.get_offset()
    if stored != declared or place is None:
        return f"stores {stored} bytes, must store {declared}: rows were never written"
    if not 0 < place <= file_bytes - declared:
        return f"is outside the file of {file_bytes} bytes"
    return None


def row_chunks(dataset: h5py.Dataset, chunk_bytes: int, file_bytes: int) -> NDArray[np.int64]:
    """Return the offsets of the rows in the file, for a dataset with one chunk per row.

    Args:
        dataset: Two-dimensional.
        chunk_bytes: Stored size of every chunk.
        file_bytes: Size of the file.

    Returns:
        ``(rows,)`` int64, in bytes.

    Raises:
        ValueError: If a chunk is missing, skips filters, has another size, is outside the file or overlaps another.
    """
    chunks: list[h5py.h5d.StoreInfo] = []
    dataset.id.chunk_iter(chunks.append)
    if len(chunks) != len(dataset) or any(chunk.filter_mask or chunk.size != chunk_bytes for chunk in chunks):
        raise ValueError(f"must have {len(dataset)} chunks of {chunk_bytes} bytes as stored")
    places = np.array([(*chunk.chunk_offset, chunk.byte_offset) for chunk in chunks], np.int64)
    order = np.argsort(places[:, 0])
    if (places[order, 0] != np.arange(len(dataset))).any() or places[:, 1].any():
        raise ValueError("has chunks that are not one row each")
    offsets = np.ascontiguousarray(places[order, 2])
    if offsets.min() <= 0 or offsets.max() > file_bytes - chunk_bytes:
        raise ValueError(f"has rows outside the file of {file_bytes} bytes")
    if (np.diff(np.sort(offsets)) < chunk_bytes).any():
        raise ValueError("has rows that overlap")
    return offsets


@contextmanager
def new_hdf5(path: Path, n_bytes: int, *, oldest: str, newest: str = "v110") -> Iterator[tuple[h5py.File, int]]:
    """Open a new HDF5 file whose space on the disk is allocated in advance.

    HDF5 crashes the process on a full disk. So the space is allocated once before HDF5 begins, which needs an empty
    file, and again after; on closing, HDF5 cuts the file to its size.

    Args:
        path: The file.
        n_bytes: At least the size of the finished file.
        oldest: Version of HDF5 whose structures are used where they suffice; ``earliest`` is read by every version.
        newest: Version of HDF5 that must be able to read the file.

    Yields:
        The file and its descriptor.

    Raises:
        OSError: If there is not enough space.
    """
    with path.open("w+b") as raw:
        os.posix_fallocate(raw.fileno(), 0, n_bytes)
        raw.truncate(0)
        with h5py.File(raw, "w", libver=(oldest, newest)) as file:
            os.posix_fallocate(raw.fileno(), 0, n_bytes)
            yield file, raw.fileno()


ADVICE = "epanns reads such packs as their authors' scripts write them: copy the file again or convert it"
MOST_ROWS = 20_000_000  # ten times AudioSet: beyond this a declared size is a mistake or an attack
MOST_CLASSES = 100_000
MOST_LABELS = 1 << 28  # true ones in a file: 130 for each clip of AudioSet
_MOST_BYTES = 1 << 32  # of a column, unpacked
_BLOCK_BYTES = 1 << 24  # read at a time


def rows_of(dataset: h5py.Dataset, path: Path) -> int:
    """Return the number of rows of a file, from one of its columns."""
    shape = dataset.shape or ()
    if not shape or not 0 < shape[0] <= MOST_ROWS:
        raise refusal(path, _name(dataset), f"has shape {shape}, must have 1 to {MOST_ROWS} rows", ADVICE)
    return int(shape[0])


def read_strings(dataset: h5py.Dataset, path: Path, rows: int, *, longest: int) -> NDArray[np.bytes_]:
    """Read ``(rows,)`` strings of fixed length."""
    blocks = list(_string_blocks(dataset, path, rows, longest))
    return np.concatenate(blocks).astype(f"S{dataset.dtype.itemsize}")


def read_integers(dataset: h5py.Dataset, path: Path, rows: int) -> NDArray[np.int64]:
    """Read ``(rows,)`` whole numbers."""
    _refuse_type(dataset, path, dataset.dtype.kind in "iu", "int32")
    refuse_shape(dataset, path, rows, None)
    return np.concatenate(list(_blocks(dataset, path))).astype(np.int64)


def read_repeated_strings(
    dataset: h5py.Dataset, path: Path, rows: int, *, longest: int, most: int
) -> tuple[list[bytes], NDArray[np.int32]]:
    """Read ``(rows,)`` strings with few distinct values.

    Returns:
        The distinct values in the order of their first row, at most `most`, and ``(rows,)`` indices into them.
    """
    numbers: dict[bytes, int] = {}
    parts = []
    for block in _string_blocks(dataset, path, rows, longest):
        values, first, inverse = np.unique(block, return_index=True, return_inverse=True)
        for place in np.argsort(first):
            numbers.setdefault(bytes(values[place]), len(numbers))
        if len(numbers) > most:
            raise refusal(path, _name(dataset), f"has more than {most} different values", ADVICE)
        parts.append(np.array([numbers[bytes(value)] for value in values], np.int32)[inverse])
    return list(numbers), np.concatenate(parts)


def _string_blocks(dataset: h5py.Dataset, path: Path, rows: int, longest: int) -> Iterator[NDArray[Any]]:
    dtype = dataset.dtype
    is_string = dtype.kind == "S" and dtype.itemsize <= longest
    _refuse_type(dataset, path, is_string, f"strings of 1 to {longest} bytes")
    refuse_shape(dataset, path, rows, None)
    return _blocks(dataset, path)


def _refuse_type(dataset: h5py.Dataset, path: Path, is_right: bool, rule: str) -> None:
    if not is_right:
        raise refusal(path, _name(dataset), f"has type {dataset.dtype}, must have {rule}", ADVICE)


def read_targets(dataset: h5py.Dataset, path: Path, rows: int) -> SparseTargets:
    """Read ``(rows, classes)`` booleans, stored as such or as bytes of 0 and 1."""
    _refuse_type(dataset, path, dataset.dtype in (np.bool_, np.uint8, np.int8), "bool")
    refuse_shape(dataset, path, rows, MOST_CLASSES)

    def truths(block: NDArray[Any]) -> NDArray[np.bool_]:
        if block.view(np.uint8).max() > 1:
            raise refusal(path, _name(dataset), "holds more than true and false", ADVICE)
        return block.view(np.bool_)

    return _sparse(dataset, path, truths)


def read_packed_targets(dataset: h5py.Dataset, path: Path, rows: int, num_classes: int) -> SparseTargets:
    """Read ``(rows, ceil(classes / 8))`` bytes of eight booleans each, the first in the highest bit."""
    _refuse_type(dataset, path, dataset.dtype == np.uint8, "uint8")
    refuse_shape(dataset, path, rows, -(-num_classes // 8), exact=True)

    def truths(block: NDArray[Any]) -> NDArray[np.bool_]:
        bits = np.unpackbits(block, axis=1)
        if bits[:, num_classes:].any():
            raise refusal(path, _name(dataset), f"has bits set beyond its {num_classes} classes", ADVICE)
        return bits[:, :num_classes].view(np.bool_)

    return _sparse(dataset, path, truths)


def _sparse(dataset: h5py.Dataset, path: Path, truths: Callable[[NDArray[Any]], NDArray[np.bool_]]) -> SparseTargets:
    parts, labels = [], 0
    for block in _blocks(dataset, path):
        parts.append(SparseTargets.from_dense(truths(block)))
        labels += len(parts[-1].classes)
        if labels > MOST_LABELS:
            raise refusal(path, _name(dataset), f"has more than {MOST_LABELS} true values", ADVICE)
    return SparseTargets.concatenate(parts)


def refuse_shape(dataset: h5py.Dataset, path: Path, rows: int, width: int | None, *, exact: bool = False) -> None:
    """Raise unless a dataset has the shape ``(rows,)`` or, with a `width`, ``(rows, 1 to width)``.

    Args:
        dataset: The dataset.
        path: Its file.
        rows: Number of rows.
        width: Largest number of values of a row; None for a one-dimensional dataset.
        exact: Whether every row must have exactly `width` values.
    """
    shape: tuple[int, ...] = dataset.shape or ()
    if width is None:
        fits, rule = shape == (rows,), f"({rows},)"
    else:
        fits = len(shape) == 2 and shape[0] == rows and (shape[1] == width if exact else 0 < shape[1] <= width)
        rule = f"({rows}, {width})" if exact else f"({rows}, 1 to {width})"
    if not fits:
        raise refusal(path, _name(dataset), f"has shape {shape}, must have {rule}", ADVICE)


def _blocks(dataset: h5py.Dataset, path: Path) -> Iterator[NDArray[Any]]:
    """Check that all rows are in the file, and yield blocks of them."""
    problem = storage_problem(dataset, path.stat().st_size)
    if problem:
        raise refusal(path, _name(dataset), problem, ADVICE)
    row_bytes = dataset.dtype.itemsize * math.prod(dataset.shape[1:])
    if len(dataset) * row_bytes > _MOST_BYTES:
        raise refusal(path, _name(dataset), f"has {len(dataset) * row_bytes} bytes, may have {_MOST_BYTES}", ADVICE)
    step = max(1, _BLOCK_BYTES // row_bytes)
    for first, last in itertools.pairwise([*range(0, len(dataset), step), len(dataset)]):
        yield dataset[first:last]


def _name(dataset: h5py.Dataset) -> str:
    return str(dataset.name).lstrip("/")
