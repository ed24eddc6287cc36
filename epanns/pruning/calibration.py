"""Calibration clips: sound, with labels or without, on which a network is measured."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from epanns.errors import PruningError
from epanns.models.tagger import Tagger

# Waveforms ``(batch, samples)`` float in [-1, 1], alone or with targets ``(batch, classes)`` in [0, 1].
CalibrationBatch = Tensor | tuple[Tensor, Tensor]

_CLIPS_AT_ONCE = 4


def clips_in_fours(model: Tagger, batches: Iterable[CalibrationBatch]) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield four clips of a kind at a time, on the network's device, however many there are in a batch.

    So memory is bounded, and what is measured does not depend on the batch size, not even in its last digit.

    Raises:
        PruningError: If a batch is not as `CalibrationBatch` says, or there are fewer than two clips in all.
    """
    device, seen = next(model.parameters()).device, 0
    waiting: list[tuple[Tensor, Tensor | None]] = []
    for batch in batches:
        for clip in _clips_of(batch, model.spec.num_classes):
            if waiting and (len(waiting) == _CLIPS_AT_ONCE or not _alike(waiting[0], clip)):
                yield _joined(waiting, device)
                waiting = []
            waiting.append(clip)
            seen += 1
    if seen < 2:
        raise PruningError(f"{seen} calibration clips: give at least two, some hundreds if you can")
    yield _joined(waiting, device)


def _clips_of(batch: CalibrationBatch, classes: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    waveform, target = (batch, None) if isinstance(batch, Tensor) else batch
    if not waveform.is_floating_point() or waveform.dim() != 2:
        raise PruningError(
            f"calibration batch of type {waveform.dtype}, shape {tuple(waveform.shape)}: "
            "give floats in [-1, 1], (batch, samples)"
        )
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
