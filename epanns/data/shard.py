"""One HDF5 file of a pack, open for reading; what it must be is in `epanns.data.shard_schema`."""

import os
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from epanns.data.shard_schema import FLETCHER32_BYTES, ShardShape, damaged, pack_errors, refuse_foreign
from epanns.data.source import ClipColumns
from epanns.data.targets import SparseTargets
from epanns.errors import PackError


class Shard:
    """A shard that is open for reading.

    It opens its file on first use and again in every process it is passed to, by fork or by pickling: an HDF5 handle
    must not cross that border. Every failure is a `PackError` that names the file.
    """

    def __init__(self, path: Path, shape: ShardShape) -> None:
        """Name a file and the sizes it must have; nothing is opened yet."""
        self.path = path
        self.shape = shape
        self._file: h5py.File | None = None
        self._pid: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None, "_pid": None}

    def read_columns(self) -> ClipColumns:
        """Read all but the waveforms."""
        file = self._open()
        with pack_errors(self.path, "audio_name"):
            clip_ids = file["audio_name"][...].astype(f"S{file['audio_name'].dtype.itemsize}")
        values = {}
        for name in ("n_samples", "target", "crc32"):
            with pack_errors(self.path, name):
                values[name] = file[name][...]
        n_samples = values["n_samples"]
        if n_samples.min() < 1 or n_samples.max() > self.shape.clip_samples:
            raise PackError(damaged(self.path, "n_samples", f"must lie in 1..{self.shape.clip_samples}"))
        if values["target"].view(np.uint8).max() > 1:
            raise PackError(damaged(self.path, "target", "holds more than true and false"))
        return ClipColumns(clip_ids, n_samples, SparseTargets.from_dense(values["target"]), values["crc32"])

    def read_waveform(self, row: int, crc32: int) -> NDArray[np.int16]:
        """Read ``(clip_samples,)`` int16 and compare them with their checksum."""
        file = self._open()
        with pack_errors(self.path, f"waveform row {row}"):
            # The raw chunk: its crc32 is checked here, so fletcher32 need not be computed as well.
            mask, chunk = file["waveform"].id.read_direct_chunk((row, 0))
        samples = chunk[:-FLETCHER32_BYTES]
        if mask != 0 or len(samples) != 2 * self.shape.clip_samples or zlib.crc32(samples) != crc32:
            raise PackError(damaged(self.path, f"waveform row {row}", "does not match its crc32"))
        return np.frombuffer(samples, np.int16)

    def close(self) -> None:
        """Close the file, if it is open in this process; the next reading opens it again."""
        file, self._file = self._file, None
        if file is not None and self._pid == os.getpid():
            file.close()

    def _open(self) -> h5py.File:
        if self._file is None or self._pid != os.getpid():
            self._file = None  # a parent's handle goes before the file is opened anew
            with pack_errors(self.path, "file"):
                file = h5py.File(self.path, "r", locking=False)
                refuse_foreign(file, self.path, self.shape)
            self._file, self._pid = file, os.getpid()
        return self._file
