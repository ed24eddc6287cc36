"""Reading a pack: a folder of shards as one list of clips, checked before and while it is read.

The format is in `epanns.data.pack_format`, HDF5 in `epanns.data.shard`, the check of a whole pack in
`epanns.data.verification`.
"""

import bisect
import functools
import itertools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from epanns import atomic
from epanns.data.pack_format import PACK_FILE, PackInfo, read_pack_info
from epanns.data.shard import Shard
from epanns.data.shard_schema import ShardShape
from epanns.data.source import ClipColumns, no_clips
from epanns.errors import PackError


class Pack:
    """The clips of one pack, by row.

    Opening reads ``pack.json`` only. It may be passed to other processes; each opens the files for itself.

    Attributes:
        path: The pack's folder.
        info: The contents of ``pack.json``.
        digest: sha256 of ``pack.json``, which holds that of every shard.
        dataset, labels, sample_rate, clip_samples: As in `info`.
        knows_lengths, remarks: As `ClipSource` has them.
    """

    knows_lengths = True
    remarks: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        """Open a finished pack.

        Raises:
            PackError: If it is none, or breaks the format.
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
        """Fill ``(clip_samples,)`` with a clip, zeros after its own samples, and return how many those are.

        Raises:
            PackError: If it cannot be read or does not match its checksum; clip and shard are named.
        """
        number = bisect.bisect_right(self._ends, index)
        row = index - (self._ends[number - 1] if number else 0)
        columns = self.columns
        assert columns.crc32 is not None  # noqa: S101 - our own shards always have them
        try:
            self.shards[number].read_into(row, int(columns.crc32[index]), out)
        except PackError as error:
            raise PackError(f"clip {columns.clip_ids[index].decode()!r}: {error}") from error
        return int(columns.n_samples[index])

    def read_waveform(self, index: int) -> NDArray[np.int16]:
        """Return `read_into` of a new ``(clip_samples,)`` array."""
        out = np.empty(self.clip_samples, np.int16)
        self.read_into(index, out)
        return out

    def close(self) -> None:
        """Close the files that this process holds open."""
        for shard in self.shards:
            shard.close()
