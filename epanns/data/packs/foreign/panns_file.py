"""One waveform file of PANNs: `audio_name`, `waveform` and `target`, as their script writes it.

The format has no checksums: a flipped bit gives another sample and no error. Reading checks that all rows are in the
file, that they have names, and that the file has not changed since it was opened.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from epanns.data.manifests.clip import LONGEST_CLIP_ID
from epanns.data.packs.foreign.foreign_columns import ADVICE, read_strings, read_targets, refuse_shape, rows_of
from epanns.data.packs.foreign.panns_format import DTYPES, SAMPLE_RATE_ATTRIBUTE, WAVEFORM_NAMES
from epanns.data.packs.open_files import Stamp, close_files, read_at
from epanns.data.packs.pack_format import LONGEST_CLIP_SAMPLES
from epanns.data.packs.safe_hdf5 import opened, pack_errors, plain_datasets, refusal, storage_problem
from epanns.data.packs.targets import SparseTargets

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
