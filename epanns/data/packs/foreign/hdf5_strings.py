"""Variable-length byte strings of an HDF5 file, read without HDF5 from the file's global heap.

A dataset of such strings holds 16 bytes for each: its length, and its position in the global heap, which consists of
collections of objects. The layout is that of the HDF5 File Format Specification 3.0, sections III.E (global heap) and
IV.A.2.d (variable-length types). So a string takes a few reads at known offsets, no handle is open that a fork could
harm, and the lengths of an untrusted file are checked here instead of by a parser in C.
"""

from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from epanns.data.packs.open_files import Stamp, read_at
from epanns.data.packs.safe_hdf5 import refusal

REFERENCE = np.dtype([("length", "<u4"), ("collection", "<u8"), ("object", "<u4")])
_COLLECTION = np.dtype([("signature", "S4"), ("version", "u1"), ("reserved", "V3"), ("size", "<u8")])
_OBJECT = np.dtype([("number", "<u2"), ("references", "<u2"), ("reserved", "V4"), ("size", "<u8")])
_ALIGNMENT = 8
_MOST_OBJECTS = 1 << 16  # of a collection: their numbers have 16 bits


def read_references(dataset: h5py.Dataset, path: Path) -> NDArray[np.void]:
    """Return ``(rows,)`` of `REFERENCE`, all within the bounds of the file.

    Args:
        dataset: Contiguous, of byte strings of variable length.
        path: Its file.

    Raises:
        ValueError: If the dataset has another type or layout, or a row was never written or is outside the file.
        PackError: If the file cannot be read.
    """
    sizes = dataset.file.id.get_create_plist().get_sizes()
    if sizes != (8, 8) or h5py.check_vlen_dtype(dataset.dtype) != np.uint8 or len(dataset.shape) != 1:
        raise ValueError(f"must hold byte strings (uint8) of variable length, has type {dataset.dtype}")
    place, stored, n_bytes = dataset.id.get_offset(), dataset.id.get_storage_size(), path.stat().st_size
    if dataset.chunks is not None or place is None or stored != len(dataset) * REFERENCE.itemsize:
        raise ValueError(f"must be contiguous and written, has chunks {dataset.chunks} and {stored} bytes")
    references = np.empty(len(dataset), REFERENCE)
    read_at(path, place, references)
    lengths, collections = references["length"].astype(np.int64), references["collection"]
    wrong = (lengths == 0) | (lengths > n_bytes) | (collections == 0) | (collections > n_bytes)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(f"row {row} was never written or is outside the file: {lengths[row]} bytes")
    return references


def read_string(path: Path, reference: np.void, stamp: Stamp) -> bytes:
    """Return the bytes that a reference points to.

    Raises:
        PackError: If the heap does not hold them, or the file has changed.
    """
    begin, length, number = int(reference["collection"]), int(reference["length"]), int(reference["object"])
    collection = np.empty(1, _COLLECTION)
    read_at(path, begin, collection, stamp=stamp)
    end = begin + int(collection["size"][0])
    if collection["signature"][0] != b"GCOL" or collection["version"][0] != 1 or end > stamp.size:
        raise refusal(path, f"heap at byte {begin}", "is no collection of HDF5 within the file")
    place = begin + _COLLECTION.itemsize
    header = np.empty(1, _OBJECT)
    for _ in range(_MOST_OBJECTS):
        if place + _OBJECT.itemsize > end:
            break
        read_at(path, place, header, stamp=stamp)
        found, size = int(header["number"][0]), int(header["size"][0])
        place += _OBJECT.itemsize
        if found == number and found:
            if size != length or size > end - place:
                raise refusal(path, f"heap object at byte {place}", f"has {size} bytes, its row has length {length}")
            content = np.empty(length, np.uint8)
            read_at(path, place, content, stamp=stamp)
            return content.tobytes()
        if not found or size > end - place:  # number 0 is the free space, the last object of a collection
            break
        place += -(-size // _ALIGNMENT) * _ALIGNMENT
    raise refusal(path, f"heap at byte {begin}", f"has no object {number}")
