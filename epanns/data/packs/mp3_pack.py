"""Packs of encoded sound, as PaSST and EfficientAT make them: one HDF5 file of MP3 files, decoded when they are read.

`audio_name` is a name, `mp3` the bytes of a file, `target` holds eight classes in a byte. There are no checksums, and a
damaged MP3 file usually decodes to something: damage is noticed only if the decoder fails.

A dataset of variable-length strings such as `mp3` holds 16 bytes for each: its length, and its position in the global
heap, which consists of collections of objects. The strings are read there without HDF5: a string takes a few reads at
known offsets, no handle is open that a fork could harm, and the lengths of an untrusted file are checked here.
"""

import re
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from epanns import atomic
from epanns.audio.resampling import to_int16
from epanns.audio.waveform import load_encoded
from epanns.data.clip import LONGEST_CLIP_ID
from epanns.data.packs.any_pack import ClipColumns, labels_of_width, refuse_wrong_ids, remark_on_classes
from epanns.data.packs.open_files import Stamp, close_files, read_at
from epanns.data.packs.pack_format import PackSettings
from epanns.data.packs.safe_hdf5 import (
    ADVICE,
    opened,
    pack_errors,
    plain_datasets,
    read_packed_targets,
    read_strings,
    refusal,
    refuse_shape,
    rows_of,
)
from epanns.errors import DataError, PackError
from epanns.labels import LabelSet

MP3_NAMES = ("audio_name", "mp3", "target")
_KNOWN_WIDTHS = {66: 527, 25: 200}  # bytes of a target -> classes, of AudioSet and FSD50K
# AudioSet's names may have the folder of their split, and lack the Y.
_YOUTUBE_NAME = re.compile(r"(?:.*/)?Y?([A-Za-z0-9_-]{11})\.mp3")
# Layout of the HDF5 File Format Specification 3.0, III.E (global heap) and IV.A.2.d (variable-length types).
REFERENCE = np.dtype([("length", "<u4"), ("collection", "<u8"), ("object", "<u4")])
_COLLECTION = np.dtype([("signature", "S4"), ("version", "u1"), ("reserved", "V3"), ("size", "<u8")])
_OBJECT = np.dtype([("number", "<u2"), ("references", "<u2"), ("reserved", "V4"), ("size", "<u8")])
_ALIGNMENT = 8
_MOST_OBJECTS = 1 << 16  # of a collection: their numbers have 16 bits


class Mp3Pack:
    """The clips of one MP3 pack, by row.

    The length of a clip is known after decoding, so `columns.n_samples` is the row's; `columns.crc32` is None.

    Attributes:
        path: The file.
        dataset, labels, sample_rate, clip_samples, digest, columns, knows_lengths, remarks: As in `AnyPack`.
    """

    knows_lengths = True

    def __init__(
        self, path: Path, *, labels: LabelSet | None = None, sample_rate: int = 32_000, seconds: float = 10.0
    ) -> None:
        """Check a file and read all columns but the sound.

        Args:
            path: The file.
            labels: Its classes; None for those of AudioSet or FSD50K, identified by the number of bytes of a target,
                which fits up to eight numbers of classes, and by a clip that has the last class.
            sample_rate: Rate to which clips are resampled, in Hz.
            seconds: Length to which clips are cut or padded.

        Raises:
            PackError: If it is not as PaSST's script writes it, or its classes are not known.
        """
        settings = PackSettings(sample_rate=sample_rate, seconds=seconds)
        self.path, self.dataset = path, path.stem
        self.sample_rate, self.clip_samples = settings.sample_rate, settings.clip_samples
        with opened(path, ADVICE) as file:
            self._stamp = Stamp.of(path.stat())
            datasets = plain_datasets(file, path, MP3_NAMES, advice=ADVICE)
            with pack_errors(path, "file", ADVICE):
                rows = rows_of(datasets["audio_name"], path)
                names = read_strings(datasets["audio_name"], path, rows, longest=LONGEST_CLIP_ID)
                width = (datasets["target"].shape or (0,))[-1]
                self.labels = _labels_of(width, labels, path)
                targets = read_packed_targets(datasets["target"], path, rows, len(self.labels))
                if labels is None and not targets.counts()[-1]:
                    raise _unnamed(width, path, f" (no clip has the last of {len(self.labels)})")
            with pack_errors(path, "mp3", ADVICE):
                refuse_shape(datasets["mp3"], path, rows, None)
                self._references = read_references(datasets["mp3"], path)
        refuse_wrong_ids(names, path)
        matches = [(name, _YOUTUBE_NAME.fullmatch(name.decode())) for name in names.tolist()]
        clip_ids = np.array([matched[1].encode() if matched else name for name, matched in matches])
        n_samples = np.full(rows, self.clip_samples, np.int32)
        self.columns = ClipColumns.joined([ClipColumns(clip_ids, n_samples, targets, None)], path)
        content = [self.columns.digest, self.sample_rate, self.labels.digest, self._stamp.size]
        self.digest = atomic.sha256_of_json(content)
        checksums = f"{path}: has no checksums: a damaged MP3 is noticed only if it does not decode"
        guess = () if labels is not None else (remark_on_classes(len(self.labels), path),)
        self.remarks: tuple[str, ...] = (checksums, *guess)

    def __len__(self) -> int:
        return len(self._references)

    def read_into(self, index: int, out: NDArray[np.int16]) -> int:
        """Read and decode a clip as `AnyPack.read_into` does."""
        clip = f"clip {self.columns.clip_ids[index].decode()!r}"
        limit = self.clip_samples / self.sample_rate
        try:
            content = read_string(self.path, self._references[index], self._stamp)
            loaded = load_encoded(content, "its mp3", sample_rate=self.sample_rate, limit=limit)
        except DataError as error:
            raise PackError(f"{clip}: {refusal(self.path, f'row {index}', str(error), ADVICE)}") from error
        except PackError as error:
            raise PackError(f"{clip}: {error}") from error
        samples = to_int16(loaded.samples)
        out[: len(samples)], out[len(samples) :] = samples, 0
        return len(samples)

    def close(self) -> None:
        """Close the file, if it is open in this process."""
        close_files([self.path])


def _labels_of(width: int, labels: LabelSet | None, path: Path) -> LabelSet:
    """Return the classes of targets of `width` bytes: `labels`, or those of the known data set of this width."""
    if labels is None:
        if width not in _KNOWN_WIDTHS:
            raise _unnamed(width, path)
        return labels_of_width(_KNOWN_WIDTHS[width], None, path)
    if -(-len(labels) // 8) != width:
        numbers = f"{max(1, 8 * width - 7)} to {8 * width}"
        raise PackError(f"{path}: has {numbers} classes, the labels given are {len(labels)}; give its own")
    return labels


def _unnamed(width: int, path: Path, detail: str = "") -> PackError:
    numbers = f"{max(1, 8 * width - 7)} to {8 * width}"
    return PackError(f"{path}: has {numbers} classes{detail} and does not name them; give --labels FILE.csv")


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
