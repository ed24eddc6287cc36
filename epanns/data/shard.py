"""One HDF5 file of a pack, for reading; what it must be is in `epanns.data.shard_schema`.

HDF5 is asked once for the columns and for the places of the waveforms, and closed again. From then on a clip is bytes
at a place of a file: quick, nothing open that a fork could harm, and no parser between the disk and the checksum.
"""

import zlib
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from epanns.data.open_files import close_files, read_at
from epanns.data.plain_hdf5 import opened, pack_errors, refusal, row_chunks
from epanns.data.shard_schema import ShardShape, shard_datasets
from epanns.data.source import ClipColumns, refuse_wrong_ids
from epanns.data.targets import SparseTargets


class Shard:
    """A shard, opened and checked when it is first used.

    It may be passed to other processes, by fork or by pickling; what it knows of the file goes along. Every failure is
    a `PackError` that names the file.
    """

    def __init__(self, path: Path, shape: ShardShape) -> None:
        """Name a file and the sizes it must have; nothing is opened yet."""
        self.path = path
        self.shape = shape
        self._offsets: NDArray[np.int64] | None = None

    def read_columns(self) -> ClipColumns:
        """Read all but the waveforms."""
        with opened(self.path) as file:
            datasets = shard_datasets(file, self.path, self.shape)
            self._offsets = self._places(datasets["waveform"])
            with pack_errors(self.path, "audio_name"):
                clip_ids = datasets["audio_name"][...].astype(f"S{datasets['audio_name'].dtype.itemsize}")
            refuse_wrong_ids(clip_ids, self.path)
            values = {}
            for name in ("n_samples", "target", "crc32"):
                with pack_errors(self.path, name):
                    values[name] = datasets[name][...]
        n_samples = values["n_samples"]
        if n_samples.min() < 1 or n_samples.max() > self.shape.clip_samples:
            raise refusal(self.path, "n_samples", f"must lie in 1..{self.shape.clip_samples}")
        if values["target"].view(np.uint8).max() > 1:
            raise refusal(self.path, "target", "holds more than true and false")
        return ClipColumns(clip_ids, n_samples, SparseTargets.from_dense(values["target"]), values["crc32"])

    def read_into(self, row: int, crc32: int, out: NDArray[np.int16]) -> None:
        """Fill ``(clip_samples,)`` with a row and compare it with its checksum."""
        if self._offsets is None:
            with opened(self.path) as file:
                self._offsets = self._places(shard_datasets(file, self.path, self.shape)["waveform"])
        read_at(self.path, int(self._offsets[row]), out)
        if zlib.crc32(out.data) != crc32:
            raise refusal(self.path, f"waveform row {row}", "does not match its crc32")

    def close(self) -> None:
        """Close the file, if it is open in this process; the next reading opens it again."""
        close_files([self.path])

    def _places(self, waveform: h5py.Dataset) -> NDArray[np.int64]:
        with pack_errors(self.path, "waveform"):
            return row_chunks(waveform, self.shape.waveform_chunk_bytes, self.path.stat().st_size)
