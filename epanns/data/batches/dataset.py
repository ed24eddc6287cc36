"""Packs as a torch data set that returns batches of clips, int16 until they are on the device.

`data.batches.sampler` chooses the clips of a batch, `data.batches.loader` reads batches in several processes.
"""

import bisect
import copy
import functools
import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from epanns.audio.resampling import INT16_MAX
from epanns.data.batches.crop import Crop
from epanns.data.batches.sampler import Draw
from epanns.data.packs.any_pack import AnyPack, SparseTargets
from epanns.data.packs.joining import join_labels, joined_ids, refuse_repeated, refuse_unlike
from epanns.data.packs.pack import open_pack
from epanns.errors import PackError
from epanns.labels import LabelSet

_DIGEST_ROWS = 1 << 16  # rows of targets in memory at once


@dataclass(frozen=True)
class ClipBatch:
    """A batch of clips with their classes.

    Attributes:
        clip_ids: ``(batch,)``.
        waveform: ``(batch, samples)`` int16.
        n_samples: ``(batch,)`` int32, number of samples of each clip without its padding.
        target: ``(batch, classes)`` bool.
    """

    clip_ids: tuple[str, ...]
    waveform: Tensor
    n_samples: Tensor
    target: Tensor

    def __len__(self) -> int:
        return len(self.clip_ids)

    def part(self, first: int, end: int) -> "ClipBatch":
        """Return clips `first` to `end - 1`, without copying."""
        here = slice(first, end)
        return ClipBatch(self.clip_ids[here], self.waveform[here], self.n_samples[here], self.target[here])

    def to(self, device: torch.device | str) -> "ClipBatch":
        """Copy the batch to a device, still as int16: half the bytes.

        The copy is synchronous: the memory of this batch may be used for the next batch as soon as this returns.
        """
        moved = (tensor.to(device) for tensor in (self.waveform, self.n_samples, self.target))
        return ClipBatch(self.clip_ids, *moved)

    def float_waveform(self) -> Tensor:
        """Return ``(batch, samples)`` float32 in [-1, 1], on the batch's device."""
        return self.waveform.float().div_(INT16_MAX)  # in place: half the time if memory bandwidth is the limit

    def float_target(self) -> Tensor:
        """Return ``(batch, classes)`` float32, 0 or 1."""
        return self.target.float()


class PackDataset(Dataset[ClipBatch]):
    """One or several packs of any format as one list of clips with one list of classes.

    It may be passed to other processes by fork, spawn or forkserver: files are opened in the process that reads.
    `clip_ids`, `n_samples` and `targets` of several packs are concatenated at each access.

    Attributes:
        sources: The packs.
        labels: Classes, in the order of `targets`' columns.
        label_maps: Maps from each pack's classes to `labels`.
        sample_rate: In Hz.
        clip_samples: Number of samples of every waveform.
        crop: How clips are cropped; None for whole rows.
        dataset_name: Names of the packs' data sets.
        digest: SHA-256 over the packs' own digests.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        labels: LabelSet | None = None,
        crop: Crop | None = None,
        unnamed: LabelSet | None = None,
        sample_rate: int = 32_000,
        seconds: float = 10.0,
    ) -> None:
        """Join packs.

        Args:
            paths: Packs, see `epanns.data.packs.pack.open_pack`.
            labels: Classes of the data set, in this order; a pack may have some of them. None for the classes of all
                packs in the order of their first appearance.
            crop: How to crop each clip. With a length, packs with rows of different lengths can be joined.
            unnamed: Classes of packs whose format does not name them.
            sample_rate: Sample rate in Hz at which packs of MP3s are decoded; other packs have their own.
            seconds: Length of the rows of packs of MP3s.

        Raises:
            PackError: If a pack cannot be read, or two packs differ in sample rate or length, share a clip, or have
                classes that cannot be joined.
        """
        if not paths:
            raise PackError("no pack was given; name at least one folder made by `epanns pack`")
        self.sources: tuple[AnyPack, ...] = tuple(
            open_pack(Path(path), labels=unnamed, sample_rate=sample_rate, seconds=seconds) for path in paths
        )
        self._ends = list(itertools.accumulate(len(source) for source in self.sources))
        self.sample_rate = self.sources[0].sample_rate
        self._set_crop(crop)
        self._set_labels(labels)
        refuse_repeated(self.sources)
        self.dataset_name = "+".join(dict.fromkeys(source.dataset for source in self.sources))
        self.digest = hashlib.sha256("".join(source.digest for source in self.sources).encode()).hexdigest()

    def _set_crop(self, crop: Crop | None) -> None:
        window = None if crop is None else crop.samples(self.sample_rate)
        refuse_unlike(self.sources, cropped=window is not None)
        self.crop = crop
        self.clip_samples = self.sources[0].clip_samples if window is None else window

    def _set_labels(self, labels: LabelSet | None) -> None:
        self.labels, self.label_maps = join_labels(self.sources, labels)
        self._targets = [
            source.columns.targets
            if label_map.is_identity
            else source.columns.targets.relabelled(label_map.places, label_map.num_classes)
            for source, label_map in zip(self.sources, self.label_maps, strict=True)
        ]
        self.__dict__.pop("content_digest", None)

    def with_crop(self, crop: Crop | None) -> "PackDataset":
        """Return the same clips with another crop.

        Raises:
            PackError: If the packs have rows of different lengths and the crop has no length.
        """
        other = copy.copy(self)
        other._set_crop(crop)
        return other

    def with_labels(self, labels: LabelSet) -> "PackDataset":
        """Return the same clips with these classes, in their order.

        Raises:
            PackError: If a pack has a class that is not in `labels`.
        """
        other = copy.copy(self)
        other._set_labels(labels)
        return other

    @property
    def clip_ids(self) -> NDArray[np.bytes_]:
        """``(clips,)``, UTF-8 of fixed length."""
        return joined_ids(self.sources)

    @property
    def n_samples(self) -> NDArray[np.int32]:
        """``(clips,)``, number of samples of each clip in its pack without the padding."""
        return np.concatenate([source.columns.n_samples for source in self.sources])

    @property
    def targets(self) -> SparseTargets:
        """Classes of each clip."""
        return self._targets[0] if len(self._targets) == 1 else SparseTargets.concatenate(self._targets)

    @functools.cached_property
    def content_digest(self) -> str:
        """SHA-256 of ids, samples, targets and labels, independent of when and where the packs were made.

        The crop is not part of it: it is a setting of the training.
        """
        rows = "+".join(str(length) for length in dict.fromkeys(source.clip_samples for source in self.sources))
        content = hashlib.sha256(f"{self.labels.digest} {self.sample_rate} {rows}".encode())
        separator = b""
        for source in self.sources:
            for first in range(0, len(source), _DIGEST_ROWS):
                content.update(separator + b"\0".join(source.columns.clip_ids[first : first + _DIGEST_ROWS].tolist()))
                separator = b"\0"
        for source in self.sources:  # without checksums, the pack's own digest identifies its samples
            crc32 = source.columns.crc32
            content.update(source.digest.encode() if crc32 is None else np.ascontiguousarray(crc32).tobytes())
        for source in self.sources:
            content.update(np.ascontiguousarray(source.columns.n_samples).tobytes())
        for targets in self._targets:
            for first in range(0, len(targets), _DIGEST_ROWS):
                dense = targets.dense(range(first, min(first + _DIGEST_ROWS, len(targets))))
                content.update(np.packbits(dense, axis=1).tobytes())
        return content.hexdigest()

    def identity(self) -> dict[str, object]:
        """Return the record of the data for a run: name, number of clips, digest of their content."""
        return {"name": self.dataset_name, "clips": len(self), "sha256": self.content_digest}

    @property
    def clip_seconds(self) -> float:
        """Length of every waveform in seconds."""
        return self.clip_samples / self.sample_rate

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> ClipBatch:
        """Return a batch of one clip."""
        return self.__getitems__([index])

    def __getitems__(self, draws: Sequence[int | Draw]) -> ClipBatch:
        """Return a batch; for arguments and errors see `read_into`."""
        waveform = torch.empty(len(draws), self.clip_samples, dtype=torch.int16)
        clip_ids, n_samples, target = self.read_into(draws, waveform.numpy())
        return ClipBatch(clip_ids, waveform, torch.from_numpy(n_samples), torch.from_numpy(target))

    def read_into(
        self, draws: Sequence[int | Draw], out: NDArray[np.int16]
    ) -> tuple[tuple[str, ...], NDArray[np.int32], NDArray[np.bool_]]:
        """Read the waveforms of a batch into an array.

        Args:
            draws: Indices of clips, or draws; the position of a random crop depends on the number of the draw, or else
                on the index.
            out: ``(batch, clip_samples)``, filled completely.

        Returns:
            The other fields of a `ClipBatch`: clip ids, numbers of samples, targets.

        Raises:
            IndexError: If an index is out of range.
            PackError: If a clip does not match its checksum; the message names clip and file.
        """
        n_samples = np.empty(len(draws), np.int32)
        target = np.zeros((len(draws), len(self.labels)), bool)
        clip_ids = []
        # A crop is cut from the whole row, because the checksum is that of the row.
        whole = None if self.crop is None else np.empty(max(pack.clip_samples for pack in self.sources), np.int16)
        for row, draw in enumerate(draws):
            index, number = draw if isinstance(draw, Draw) else (draw, draw)
            place = bisect.bisect_right(self._ends, index)
            if index < 0 or place == len(self._ends):
                raise IndexError(f"clip {index} of {len(self)}")
            source, clip = self.sources[place], index - (self._ends[place - 1] if place else 0)
            if self.crop is None or whole is None:
                n_samples[row] = source.read_into(clip, out[row])
            else:
                own = source.read_into(clip, whole[: source.clip_samples])
                n_samples[row] = self.crop.fill(out[row], whole[:own], number)
            clip_ids.append(source.columns.clip_ids[clip].decode())
            target[row, self._targets[place].of(clip)] = True
        return tuple(clip_ids), n_samples, target
