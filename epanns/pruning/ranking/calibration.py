"""Calibration clips: sound, with labels or without, on which a network is measured."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from epanns.errors import PruningError
from epanns.models.tagger import Tagger

# Waveforms ``(batch, samples)`` float in [-1, 1], alone or with targets ``(batch, classes)`` in [0, 1].
CalibrationBatch = Tensor | tuple[Tensor, Tensor]

_CLIPS_AT_ONCE = 4


def heard(model: Tagger, batches: Iterable[object]) -> Iterator[Tensor]:
    """Yield the batches of waveforms that hold clips, each checked, as they come.

    Raises:
        PruningError: If a batch is no floating-point ``(batch, samples)``, every clip is silent, of which nothing can
            be learned, or the network is not in float32, in which sound is measured.
    """
    refuse_other_precision(model)
    is_silent, seen = True, 0
    for batch in batches:
        waveform = checked_waveform(batch)
        is_silent = is_silent and not bool(waveform.any())
        seen += len(waveform)
        if len(waveform):
            yield waveform
    _refuse_silence(is_silent, seen)


def refuse_other_precision(model: Tagger) -> None:
    """Refuse networks in half or double precision: the front end computes in float32."""
    if (dtype := next(model.parameters()).dtype) != torch.float32:
        raise PruningError(f"the network's weights are {dtype}, and clips are measured in float32: call .float() first")


def checked_waveform(batch: object) -> Tensor:
    """Return a batch of waveforms, or say what it is instead."""
    if not isinstance(batch, Tensor):
        raise PruningError(f"calibration batch of type {type(batch).__name__}: give a tensor of waveforms alone")
    if not batch.is_floating_point() or batch.dim() != 2:
        raise PruningError(
            f"calibration batch of type {batch.dtype}, shape {tuple(batch.shape)}: "
            "give floats in [-1, 1], (batch, samples)"
        )
    return batch


def _refuse_silence(is_silent: bool, seen: int) -> None:
    if is_silent and seen:
        raise PruningError(f"all {seen} calibration clips are silent (zeros): give sound of the kind to be tagged")


def clips_in_fours(model: Tagger, batches: Iterable[CalibrationBatch]) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield four clips of a kind at a time, on the network's device, however many there are in a batch.

    So memory is bounded, and what is measured does not depend on the batch size, not even in its last digit.

    Raises:
        PruningError: If a batch is not as `CalibrationBatch` says, there are fewer than two clips in all, or every
            clip is silent.
    """
    device, seen, is_silent = next(model.parameters()).device, 0, True
    waiting: list[tuple[Tensor, Tensor | None]] = []
    for batch in batches:
        for clip in _clips_of(batch, model.spec.num_classes):
            if waiting and (len(waiting) == _CLIPS_AT_ONCE or not _alike(waiting[0], clip)):
                yield _joined(waiting, device)
                waiting = []
            waiting.append(clip)
            is_silent = is_silent and not bool(clip[0].any())
            seen += 1
    if seen < 2:
        raise PruningError(f"{seen} calibration clips: give at least two, some hundreds if you can")
    _refuse_silence(is_silent, seen)
    yield _joined(waiting, device)


def _clips_of(batch: CalibrationBatch, classes: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    if not isinstance(batch, Tensor) and not (isinstance(batch, tuple | list) and len(batch) == 2):
        what = f"{type(batch).__name__} of {len(batch)}" if hasattr(batch, "__len__") else type(batch).__name__
        raise PruningError(f"calibration batch: a {what}; give waveforms, or (waveforms, targets)")
    waveform, target = (batch, None) if isinstance(batch, Tensor) else batch
    waveform = checked_waveform(waveform)
    if target is not None and target.shape != (len(waveform), classes):
        raise PruningError(
            f"targets of shape {tuple(target.shape)} for {len(waveform)} clips: give each a row of {classes} classes"
        )
    for index in range(len(waveform)):
        yield waveform[index : index + 1], None if target is None else target[index : index + 1]


def _alike(one: tuple[Tensor, Tensor | None], other: tuple[Tensor, Tensor | None]) -> bool:
    return one[0].shape == other[0].shape and (one[1] is None) == (other[1] is None)


def _joined(clips: list[tuple[Tensor, Tensor | None]], device: torch.device) -> tuple[Tensor, Tensor | None]:
    targets = [target for _, target in clips if target is not None]
    waveform = torch.cat([waveform for waveform, _ in clips]).to(device)
    return waveform, torch.cat(targets).to(device) if targets else None
