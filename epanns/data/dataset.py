"""Packs as batches of clips: int16 until they are on the device.

Which clips make a batch is decided in `epanns.data.sampler`.
"""

import bisect
import functools
import hashlib
import itertools
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from epanns.audio.waveform import INT16_MAX
from epanns.data.pack import Pack
from epanns.data.targets import SparseTargets
from epanns.errors import PackError
from epanns.labels import LabelSet


@dataclass(frozen=True)
class ClipBatch:
    """Clips and what is heard in them.

    Attributes:
        clip_ids: ``(batch,)``.
        waveform: ``(batch, samples)`` int16.
        n_samples: ``(batch,)`` int32, samples of each clip before its padding.
        target: ``(batch, classes)`` bool.
    """

    clip_ids: tuple[str, ...]
    waveform: Tensor
    n_samples: Tensor
    target: Tensor

    def __len__(self) -> int:
        return len(self.clip_ids)

    def to(self, device: torch.device | str) -> "ClipBatch":
        """Return the batch on a device, still as int16: half the bytes to move."""
        moved = (tensor.to(device, non_blocking=True) for tensor in (self.waveform, self.n_samples, self.target))
        return ClipBatch(self.clip_ids, *moved)

    def float_waveform(self) -> Tensor:
        """Return ``(batch, samples)`` float32 in [-1, 1], on the batch's device."""
        return self.waveform.float() / INT16_MAX

    def float_target(self) -> Tensor:
        """Return ``(batch, classes)`` float32, 0 or 1."""
        return self.target.float()


class PackDataset(Dataset[ClipBatch]):
    """One or several packs as one list of clips.

    It is safe under fork, spawn and forkserver: no file is open when it crosses into another process.

    Attributes:
        labels: Classes, in the order of `targets`' columns.
        sample_rate: In Hz.
        clip_samples: Samples of every waveform.
        dataset_name: Names of the packs' data sets.
        digest: sha256 over the packs' ``pack.json`` files.
        crc32: ``(clips,)`` uint32, checksum of each clip's samples.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        """Join packs.

        Raises:
            PackError: If one cannot be read, or two differ in labels, sample rate or length, or share a clip.
        """
        if not paths:
            raise PackError("no pack was given; name at least one folder made by `epanns pack`")
        self._packs = [Pack(Path(path)) for path in paths]
        first = self._packs[0]
        for other in self._packs[1:]:
            _refuse_unlike(first, other)
        self.labels: LabelSet = first.info.labels
        self.sample_rate = first.info.sample_rate
        self.clip_samples = first.info.clip_samples
        self.dataset_name = "+".join(dict.fromkeys(pack.info.dataset for pack in self._packs))
        self.digest = hashlib.sha256("".join(pack.digest for pack in self._packs).encode()).hexdigest()
        columns = [pack.columns for pack in self._packs]
        self.clip_ids: NDArray[np.bytes_] = np.concatenate([part.clip_ids for part in columns])
        if len(np.unique(self.clip_ids)) != len(self.clip_ids):
            joined = ", ".join(str(pack.path) for pack in self._packs)
            raise PackError(f"{joined}: share clips; join packs of different splits")
        self.targets = SparseTargets.concatenate([part.targets for part in columns])
        self.crc32: NDArray[np.uint32] = np.concatenate([part.crc32 for part in columns if part.crc32 is not None])
        self._n_samples = np.concatenate([part.n_samples for part in columns])
        self._ends = list(itertools.accumulate(len(pack) for pack in self._packs))

    @functools.cached_property
    def content_digest(self) -> str:
        """The sha256 of ids, samples, targets and labels: the same wherever and whenever the packs were made."""
        content = hashlib.sha256(f"{self.labels.digest} {self.sample_rate} {self.clip_samples}".encode())
        content.update(b"\0".join(self.clip_ids.tolist()))
        for column in (self.crc32, self._n_samples, np.packbits(self.targets.dense(), axis=1)):
            content.update(np.ascontiguousarray(column).tobytes())
        return content.hexdigest()

    def identity(self) -> dict[str, object]:
        """Return what a run must say of its data: name, number of clips, digest of their content."""
        return {"name": self.dataset_name, "clips": len(self), "sha256": self.content_digest}

    @property
    def clip_seconds(self) -> float:
        """Length of every waveform in seconds."""
        return self.clip_samples / self.sample_rate

    def __len__(self) -> int:
        return len(self.clip_ids)

    def __getitem__(self, index: int) -> ClipBatch:
        """Return a batch of one clip."""
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> ClipBatch:
        """Return a batch; torch's loader calls this with the indices of a whole batch.

        Raises:
            PackError: If a clip does not match its checksum; clip and shard are named.
        """
        waveform = torch.empty(len(indices), self.clip_samples, dtype=torch.int16)
        rows = waveform.numpy()
        for row, index in enumerate(indices):
            number = bisect.bisect_right(self._ends, index)
            pack = self._packs[number]
            pack.read_into(index - self._ends[number] + len(pack), rows[row])
        chosen = np.asarray(indices, dtype=np.int64)
        return ClipBatch(
            tuple(clip_id.decode() for clip_id in self.clip_ids[chosen].tolist()),
            waveform,
            torch.from_numpy(self._n_samples[chosen]),
            torch.from_numpy(self.targets.dense(chosen)),
        )


def _refuse_unlike(first: Pack, other: Pack) -> None:
    """Raise unless two packs have the same classes, rate and length."""
    ours, theirs = first.info, other.info
    classes = enumerate(zip(ours.labels.names, theirs.labels.names, strict=False))
    pairs: dict[str, tuple[object, object]] = {
        "sample_rate": (ours.sample_rate, theirs.sample_rate),
        "clip_samples": (ours.clip_samples, theirs.clip_samples),
        "number of classes": (len(ours.labels), len(theirs.labels)),
        **{f"class {index}": pair for index, pair in classes},
        "AudioSet identifiers": (ours.labels.mids, theirs.labels.mids),
    }
    for what, (one, another) in pairs.items():
        if one != another:
            detail = f"{what} {one!r} and {another!r}"
            raise PackError(f"{first.path} and {other.path} cannot be joined: {detail}; pack both with the same")


def make_loader(
    dataset: PackDataset,
    batches: Iterable[Sequence[int]],
    *,
    workers: int = 0,
    start_method: str | None = None,
) -> Iterable[ClipBatch]:
    """Read batches, in this process or ahead of time in others; the batches are the same.

    Args:
        dataset: Where the clips are.
        batches: Indices of each batch, as given by `epanns.data.sampler`.
        workers: Processes that read; 0 reads in this one.
        start_method: ``fork``, ``spawn`` or ``forkserver``; None for Python's own choice.
    """
    return DataLoader(
        dataset,
        batch_sampler=batches,  # type: ignore[arg-type]  # any iterable of index lists will do
        num_workers=workers,
        collate_fn=_as_it_is,  # type: ignore[arg-type]  # __getitems__ makes the batch
        worker_init_fn=_ignore_signals,
        multiprocessing_context=start_method if workers else None,
        generator=torch.Generator().manual_seed(0),  # else the loader draws from the global generator
    )


def _as_it_is(batch: ClipBatch) -> ClipBatch:
    return batch


def _ignore_signals(worker: int) -> None:
    """Leave signals to the main process, which saves its state; workers end with it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
