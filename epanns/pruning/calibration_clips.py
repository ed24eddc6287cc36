"""Calibration clips: batches of sound, with or without targets, on which criteria and recoveries measure a network."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Union

import torch
from torch import Tensor

from epanns.data.batches.compatibility import require_same_task
from epanns.data.batches.dataset import ClipBatch, PackDataset
from epanns.data.batches.loader import make_loader
from epanns.data.batches.sampler import sequential_batches
from epanns.errors import ConfigError, PruningError
from epanns.models.tagger import Tagger

# Waveforms ``(batch, samples)`` float in [-1, 1], alone or with targets ``(batch, classes)`` in [0, 1].
CalibrationBatch = Tensor | tuple[Tensor, Tensor]
ClipSource = Union["CalibrationClips", Iterable[CalibrationBatch], Callable[[], Iterable[CalibrationBatch]]]
# Yields the batches of a pass; called with the batches, their use ("rank" or "calibrate") and their number.
WrappedBatches = Callable[[Iterable[ClipBatch], str, int], Iterable[ClipBatch]]

BATCH_CLIPS = 32
HELD_OUT_EVERY = 5
_CLIPS_AT_ONCE = 4


class CalibrationClips:
    """Calibration clips in a fixed order; every pass reads the same batches.

    Packs are read `BATCH_CLIPS` clips at a time by commands and sweeps alike: batch-norm re-estimation averages
    statistics within each batch, and least squares mixes clips of one batch, so results depend on the batch size.
    """

    def __init__(self, read: Callable[[], Iterable[CalibrationBatch]], pack: "_PackBatches | None" = None) -> None:
        self._read = read
        self._pack = pack

    @classmethod
    def from_pack(
        cls,
        dataset: PackDataset,
        rows: Sequence[int] | None = None,
        *,
        in_memory: bool = False,
        progress: WrappedBatches | None = None,
    ) -> "CalibrationClips":
        """Return the clips of a pack.

        Args:
            dataset: Clips at the network's sample rate; for ``taylor`` with its classes.
            rows: Rows of the pack in the order in which they are read; all rows by default.
            in_memory: Whether to keep the clips in 16 bit after the first pass.
            progress: Wraps the batches of each pass, for a progress bar or to stop between batches.
        """
        pack = _PackBatches(dataset, range(len(dataset)) if rows is None else rows, in_memory, progress)
        return cls(lambda: pack.read("calibrate", labelled=False), pack)

    @classmethod
    def of(cls, source: ClipSource, *, several_passes: bool = False) -> "CalibrationClips":
        """Return `source` as calibration clips.

        Args:
            source: Calibration clips, a list of batches, or a function that returns the batches on each call.
            several_passes: Whether the clips are read more than once, which an iterator does not allow.

        Raises:
            PruningError: If `source` is a single tensor, or an iterator that would be read several times.
        """
        if isinstance(source, CalibrationClips):
            return source
        if several_passes and isinstance(source, Tensor | Iterator):
            raise PruningError(
                f"waveforms of type {type(source).__name__}: they are read several times, so give a list of batches "
                "(batch, samples), or a function that returns them on each call"
            )
        return cls(source if callable(source) else lambda: source)

    def identity(self) -> dict[str, Any] | None:
        """Return the JSON values that identify the pack; None for other batches."""
        return None if self._pack is None else self._pack.dataset.identity()

    def for_ranking(self, model: Tagger, *, labelled: bool) -> Iterable[CalibrationBatch]:
        """Return the batches for a criterion.

        Raises:
            ConfigError: If targets are needed and the classes of the pack are not those of `model`.
        """
        if self._pack is None:
            return self._read()
        if labelled:
            require_same_task(model, self._pack.dataset)
        return self._pack.read("rank", labelled=labelled)

    def waveforms(self, model: Tagger) -> Iterator[Tensor]:
        """Yield the batches of waveforms that hold clips, each checked.

        Raises:
            PruningError: If a batch is not floating-point ``(batch, samples)``, all clips are silent, or the network is
                not in float32, the precision of the front end.
        """
        require_float32(model)
        is_silent, n_clips = True, 0
        for batch in self._read():
            waveform = _checked_waveform(batch)
            is_silent = is_silent and not bool(waveform.any())
            n_clips += len(waveform)
            if len(waveform):
                yield waveform
        _refuse_silence(is_silent, n_clips)


class _PackBatches:
    """Some clips of a pack in batches of `BATCH_CLIPS`."""

    def __init__(
        self, dataset: PackDataset, rows: Sequence[int], in_memory: bool, progress: WrappedBatches | None
    ) -> None:
        self.dataset = dataset
        self._rows = [[rows[place] for place in batch] for batch in sequential_batches(len(rows), BATCH_CLIPS)]
        self._progress = progress
        self._in_memory = in_memory
        self._batches: list[ClipBatch] | None = None

    def read(self, purpose: str, *, labelled: bool) -> Iterator[CalibrationBatch]:
        """Yield the batches, with targets if `labelled`."""
        if self._in_memory and self._batches is None:
            self._batches = list(make_loader(self.dataset, self._rows))
        batches: Iterable[ClipBatch] = self._batches or make_loader(self.dataset, self._rows)
        if self._progress is not None:
            batches = self._progress(batches, purpose, len(self._rows))
        for batch in batches:
            yield (batch.float_waveform(), batch.float_target()) if labelled else batch.float_waveform()


def is_held_out(first: int, count: int) -> Tensor:
    """Return which of `count` clips from number `first` on are held out: every fifth one, ``(count,)`` bool."""
    return torch.arange(first, first + count) % HELD_OUT_EVERY == 1


def split_rows(n_clips: int, most: int, *, held_out: bool) -> tuple[list[int], list[int]]:
    """Return the rows of a pack that calibrate a graph, and the rows held out to evaluate it.

    Args:
        n_clips: Number of rows.
        most: Largest number of rows that calibrate; they are spread evenly over the pack.
        held_out: Whether to hold out every fifth row.

    Raises:
        ConfigError: If there are too few clips.
    """
    evaluating = list(range(HELD_OUT_EVERY - 1, n_clips, HELD_OUT_EVERY)) if held_out else []
    rest = sorted({*range(n_clips)} - {*evaluating})
    if not rest or (held_out and not evaluating):
        needed = (
            f"at least {HELD_OUT_EVERY}, of which every {HELD_OUT_EVERY}th is held out" if held_out else "at least one"
        )
        raise ConfigError(f"{n_clips} calibration clips: give {needed}, some hundreds if you can")
    stride = max(1.0, len(rest) / most)
    return [rest[int(place * stride)] for place in range(min(most, len(rest)))], evaluating


def require_float32(model: Tagger) -> None:
    """Refuse networks in half or double precision: the front end computes in float32."""
    if (dtype := next(model.parameters()).dtype) != torch.float32:
        raise PruningError(f"the network's weights are {dtype}, and clips are measured in float32: call .float() first")


def clips_in_fours(model: Tagger, batches: Iterable[CalibrationBatch]) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield four clips at a time, on the network's device, for any size of the batches.

    So memory is bounded, and measurements do not depend on the batch size, not even in the last digit. Clips of
    different lengths, and clips with and without targets, are not joined.

    Raises:
        PruningError: If a batch is no `CalibrationBatch`, there are fewer than two clips, or all clips are silent.
    """
    device, n_clips, is_silent = next(model.parameters()).device, 0, True
    pending: list[tuple[Tensor, Tensor | None]] = []

    def joined() -> tuple[Tensor, Tensor | None]:
        targets = [target for _, target in pending if target is not None]
        waveform = torch.cat([waveform for waveform, _ in pending]).to(device)
        return waveform, torch.cat(targets).to(device) if targets else None

    for batch in batches:
        for waveform, target in _single_clips(batch, model.spec.num_classes):
            if pending:
                first, first_target = pending[0]
                is_alike = first.shape == waveform.shape and (first_target is None) == (target is None)
                if len(pending) == _CLIPS_AT_ONCE or not is_alike:
                    yield joined()
                    pending = []
            pending.append((waveform, target))
            is_silent = is_silent and not bool(waveform.any())
            n_clips += 1
    refuse_too_few(n_clips)
    _refuse_silence(is_silent, n_clips)
    yield joined()


def refuse_too_few(n_clips: int) -> None:
    """Refuse fewer than two calibration clips."""
    if n_clips < 2:
        raise PruningError(f"{n_clips} calibration clips: give at least two, some hundreds if you can")


def _single_clips(batch: object, classes: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    if not isinstance(batch, Tensor) and not (isinstance(batch, tuple | list) and len(batch) == 2):
        kind = f"{type(batch).__name__} of {len(batch)}" if hasattr(batch, "__len__") else type(batch).__name__
        raise PruningError(f"calibration batch: a {kind}; give waveforms, or (waveforms, targets)")
    waveform, target = (batch, None) if isinstance(batch, Tensor) else batch
    waveform = _checked_waveform(waveform)
    if target is not None and target.shape != (len(waveform), classes):
        raise PruningError(
            f"targets of shape {tuple(target.shape)} for {len(waveform)} clips: give each a row of {classes} classes"
        )
    for index in range(len(waveform)):
        yield waveform[index : index + 1], None if target is None else target[index : index + 1]


def _checked_waveform(batch: object) -> Tensor:
    if not isinstance(batch, Tensor):
        raise PruningError(f"calibration batch of type {type(batch).__name__}: give a tensor of waveforms alone")
    if not batch.is_floating_point() or batch.dim() != 2:
        raise PruningError(
            f"calibration batch of type {batch.dtype}, shape {tuple(batch.shape)}: "
            "give floats in [-1, 1], (batch, samples)"
        )
    return batch


def _refuse_silence(is_silent: bool, n_clips: int) -> None:
    if is_silent and n_clips:
        raise PruningError(f"all {n_clips} calibration clips are silent (zeros): give sound of the kind to be tagged")
