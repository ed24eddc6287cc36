"""Read a pack of epanns: a folder of shards as one list of clips, checked before and during reading.

The format is in `epanns.data.pack_format`, one HDF5 file in `epanns.data.shard`, the check of a whole pack in
`epanns.data.verification`.
"""

import bisect
import functools
import itertools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from epanns import atomic
from epanns.data.clip_source import ClipColumns, no_clips
from epanns.data.pack_format import PACK_FILE, PackInfo, read_pack_info
from epanns.data.shard import Shard, ShardShape
from epanns.errors import PackError


class Pack:
    """The clips of one pack, by row.

    Opening reads ``pack.json`` only. A pack may be passed to other processes; each opens the files for itself.

    Attributes:
        path: The pack's folder.
        info: The contents of ``pack.json``.
        digest: The sha256 of ``pack.json``, which holds the sha256 of every shard.
        dataset, labels, sample_rate, clip_samples: As in `info`.
        knows_lengths, remarks: As in `ClipSource`.
    """

    knows_lengths = True
    remarks: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        """Open a finished pack.

        Raises:
            PackError: If it is no finished pack, or breaks the format.
        """
        self.path = path
        self.info: PackInfo = read_pack_info(path)
        if self.info.settings.format != "epanns":
            raise PackError(f"{path}: its shards are in the format of {self.info.settings.format}; use open_pack")
        self.dataset, self.labels = self.info.dataset, self.info.labels
        self.sample_rate, self.clip_samples = self.info.sample_rate, self.info.clip_samples
        self.digest = atomic.sha256_of(path / PACK_FILE)
        self.shards = tuple(
            Shard(path / shard.file, ShardShape(shard.clips, self.info.clip_samples, len(self.info.labels)))
            for shard in self.info.shards
        )
        self._ends = list(itertools.accumulate(shard.clips for shard in self.info.shards))

    def __len__(self) -> int:
        return self.info.counts.clips

    @functools.cached_property
    def columns(self) -> ClipColumns:
        """Ids, lengths, targets and checksums of all clips; read once."""
        parts = [shard.read_columns() for shard in self.shards]
        if not parts:
            raise no_clips(self.path)
        return ClipColumns.joined(parts, self.path)

    def read_into(self, index: int, out: NDArray[np.int16]) -> int:
        """Fill ``(clip_samples,)`` with a clip and zeros after it, and return the clip's number of samples.

        Raises:
            PackError: If it cannot be read or does not match its checksum; the message names clip and shard.
        """
        number = bisect.bisect_right(self._ends, index)
        row = index - (self._ends[number - 1] if number else 0)
        columns = self.columns
        assert columns.crc32 is not None  # noqa: S101 - shards of epanns always have them
        try:
            self.shards[number].read_into(row, int(columns.crc32[index]), out)
        except PackError as error:
            raise PackError(f"clip {columns.clip_ids[index].decode()!r}: {error}") from error
        return int(columns.n_samples[index])

    def read_waveform(self, index: int) -> NDArray[np.int16]:
        """Return a clip as a new ``(clip_samples,)`` array."""
        out = np.empty(self.clip_samples, np.int16)
        self.read_into(index, out)
        return out

    def close(self) -> None:
        """Close the files that this process holds open."""
        for shard in self.shards:
            shard.close()
