"""Columns of packs in foreign formats. They have no checksums, so only damage that breaks a rule is detected."""

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from epanns.data.packs.safe_hdf5 import refusal, storage_problem
from epanns.data.packs.targets import SparseTargets

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
    _refuse_string_type(dataset, path, longest)
    refuse_shape(dataset, path, rows, None)
    return np.concatenate(list(_blocks(dataset, path))).astype(f"S{dataset.dtype.itemsize}")


def read_integers(dataset: h5py.Dataset, path: Path, rows: int) -> NDArray[np.int64]:
    """Read ``(rows,)`` whole numbers."""
    if dataset.dtype.kind not in "iu":
        raise refusal(path, _name(dataset), f"has type {dataset.dtype}, must have int32", ADVICE)
    refuse_shape(dataset, path, rows, None)
    return np.concatenate(list(_blocks(dataset, path))).astype(np.int64)


def read_repeated_strings(
    dataset: h5py.Dataset, path: Path, rows: int, *, longest: int, most: int
) -> tuple[list[bytes], NDArray[np.int32]]:
    """Read ``(rows,)`` strings with few distinct values.

    Returns:
        The distinct values in the order of their first row, at most `most`, and ``(rows,)`` indices into them.
    """
    _refuse_string_type(dataset, path, longest)
    refuse_shape(dataset, path, rows, None)
    numbers: dict[bytes, int] = {}
    parts = []
    for block in _blocks(dataset, path):
        values, first, inverse = np.unique(block, return_index=True, return_inverse=True)
        for place in np.argsort(first):
            numbers.setdefault(bytes(values[place]), len(numbers))
        if len(numbers) > most:
            raise refusal(path, _name(dataset), f"has more than {most} different values", ADVICE)
        parts.append(np.array([numbers[bytes(value)] for value in values], np.int32)[inverse])
    return list(numbers), np.concatenate(parts)


def _refuse_string_type(dataset: h5py.Dataset, path: Path, longest: int) -> None:
    dtype = dataset.dtype
    if dtype.kind != "S" or dtype.itemsize > longest:
        raise refusal(path, _name(dataset), f"has type {dtype}, must have strings of 1 to {longest} bytes", ADVICE)


def read_targets(dataset: h5py.Dataset, path: Path, rows: int) -> SparseTargets:
    """Read ``(rows, classes)`` booleans, stored as such or as bytes of 0 and 1."""
    if dataset.dtype not in (np.dtype(np.bool_), np.dtype(np.uint8), np.dtype(np.int8)):
        raise refusal(path, _name(dataset), f"has type {dataset.dtype}, must have bool", ADVICE)
    refuse_shape(dataset, path, rows, MOST_CLASSES)

    def truths(block: NDArray[Any]) -> NDArray[np.bool_]:
        if block.view(np.uint8).max() > 1:
            raise refusal(path, _name(dataset), "holds more than true and false", ADVICE)
        return block.view(np.bool_)

    return _sparse(dataset, path, truths)


def read_packed_targets(dataset: h5py.Dataset, path: Path, rows: int, num_classes: int) -> SparseTargets:
    """Read ``(rows, ceil(classes / 8))`` bytes of eight booleans each, the first in the highest bit."""
    if dataset.dtype != np.uint8:
        raise refusal(path, _name(dataset), f"has type {dataset.dtype}, must have uint8", ADVICE)
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
