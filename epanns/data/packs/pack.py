"""Read a pack of any format: `open_pack` detects the format, `Pack` is the format of epanns.

`Pack` presents a folder of shards as one list of clips, checked before and during reading. Its format is in
`epanns.data.packs.pack_format`, one HDF5 file in `epanns.data.packs.shard`, the check of a whole pack in
`epanns.data.packs.verification`.
"""

import bisect
import functools
import itertools
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from epanns import atomic
from epanns.data.packs.any_pack import AnyPack, ClipColumns, no_clips
from epanns.data.packs.mp3_pack import MP3_NAMES, Mp3Pack
from epanns.data.packs.pack_format import INDEX_FOLDER, JOURNAL_FILE, PACK_FILE, PackInfo, read_pack_info
from epanns.data.packs.panns_file import INDEX_NAMES, WAVEFORM_NAMES
from epanns.data.packs.panns_pack import (
    PannsPack,
    open_described_panns_pack,
    open_panns_files,
    open_panns_index,
)
from epanns.data.packs.safe_hdf5 import opened, pack_errors
from epanns.data.packs.shard import NAMES, Shard, ShardShape
from epanns.errors import PackError
from epanns.labels import LabelSet

HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf")
_ADVICE = "epanns reads a folder made by `epanns pack`, a waveform or index file of PANNs, an MP3 pack of PaSST"


def open_pack(
    path: Path, *, labels: LabelSet | None = None, sample_rate: int = 32_000, seconds: float = 10.0
) -> AnyPack:
    """Open a pack of epanns, PANNs, PaSST or EfficientAT.

    Args:
        path: A folder made by `epanns pack`; a waveform file of PANNs, a folder of waveform files, which are joined in
            the order of their names, or an index file; an MP3 file of PaSST or EfficientAT.
        labels: Classes of a format that does not name them; None for those of AudioSet or FSD50K, identified by their
            number.
        sample_rate: Rate to which encoded sound is resampled, in Hz; waveforms keep their own.
        seconds: Length to which encoded sound is cut or padded.

    Raises:
        PackError: If it is no pack, breaks its format, or has classes that are not known.
    """
    if path.is_dir() or not path.exists():
        return _open_folder(path, labels)
    with opened(path, _ADVICE) as file, pack_errors(path, "file", _ADVICE):
        if len(file) > len(NAMES) or not isinstance(file, h5py.File):
            raise PackError(f"{path}: holds {len(file)} objects, which is no pack; {_ADVICE}")
        names = {str(name) for name in file}
    if names == set(WAVEFORM_NAMES):
        return open_panns_files(path, [path], labels=labels)
    if names == set(INDEX_NAMES):
        return PannsPack(path, open_panns_index(path), labels=labels)
    if names == set(MP3_NAMES):
        return Mp3Pack(path, labels=labels, sample_rate=sample_rate, seconds=seconds)
    if names == set(NAMES):
        raise PackError(f"{path}: is one shard of a pack; name its folder {path.parent}")
    held = ", ".join(sorted(repr(name)[:40] for name in names)) or "nothing"
    raise PackError(f"{path}: holds {held}, which is no pack; {_ADVICE}")


def _open_folder(path: Path, labels: LabelSet | None) -> AnyPack:
    files = [file for file in sorted(path.glob("*")) if file.suffix in HDF5_SUFFIXES and file.is_file()]
    if not files and (path / INDEX_FOLDER).is_dir() and not (path / PACK_FILE).exists():
        raise PackError(f"{path}: holds PANNs' folders; name one of the index files in {path / INDEX_FOLDER}")
    if (path / PACK_FILE).exists() or (path / JOURNAL_FILE).exists() or not files:
        info = read_pack_info(path)
        return open_described_panns_pack(path, info) if info.settings.format == "panns" else Pack(path)
    return open_panns_files(path, files, labels=labels)


class Pack:
    """The clips of one pack, by row.

    Opening reads ``pack.json`` only. A pack may be passed to other processes; each opens the files for itself.

    Attributes:
        path: The pack's folder.
        info: The contents of ``pack.json``.
        digest: The sha256 of ``pack.json``, which holds the sha256 of every shard.
        dataset, labels, sample_rate, clip_samples: As in `info`.
        knows_lengths, remarks: As in `AnyPack`.
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
        """Read a clip as `AnyPack.read_into` does, and compare it with its checksum."""
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
