"""Crops and mixtures of calibration clips, the inputs on which a pruned network learns from the unpruned one."""

from collections.abc import Iterator

import torch
from numpy.random import Generator
from torch import Tensor

from epanns.errors import PruningError
from epanns.models.tagger import Tagger
from epanns.pruning.calibration_clips import CalibrationClips, is_held_out, refuse_too_few
from epanns.seeding import numpy_generator

MOST_HELD_BYTES = 1 << 30  # of clips in 16 bit

_MIXED = 0.5  # share of the inputs that are mixtures of two
_GAIN = (-12.0, 6.0)  # lowest and highest, in dB


class MixedCrops:
    """Calibration clips in memory, in 16 bit as in packs; every fifth one is held out.

    Every input of step k is a pure function of the seed and of k, so that a resumed run reads the same.

    Attributes:
        total: Number of clips, held-out ones included.
    """

    def __init__(self, clips: CalibrationClips, student: Tagger, *, crop_seconds: float | None) -> None:
        """Read the clips.

        Args:
            clips: Of one length.
            student: The network that learns.
            crop_seconds: Length of a crop, at least that of the network's shortest clip; None for whole clips.

        Raises:
            PruningError: If there are too few clips or too many for memory, or they cannot be used.
        """
        self._device = next(student.parameters()).device
        held: list[Tensor] = []
        for waveform in clips.waveforms(student):
            if held and waveform.shape[1] != held[0].shape[1]:
                raise PruningError(
                    f"calibration clips of {held[0].shape[1]} and {waveform.shape[1]} samples: they are mixed, "
                    "so give clips of one length"
                )
            if not bool(waveform.isfinite().all()):
                raise PruningError("calibration clips are not finite; look for bad clips")
            held.append((waveform * 32_767).round().clamp(-32_768, 32_767).to(torch.int16))
            if sum(part.numel() for part in held) * 2 > MOST_HELD_BYTES:
                raise PruningError("the calibration clips take more than 1 GiB in 16 bit: give fewer")
        samples = torch.cat(held) if held else torch.empty(0, 0)
        self.total, length = samples.shape
        refuse_too_few(self.total)
        front_end = student.spec.front_end
        wanted = length if crop_seconds is None else round(crop_seconds * front_end.sample_rate)
        self._samples = min(length, max(wanted, student.minimum_samples))
        is_judging = is_held_out(0, self.total)
        self._fitted, self._held_out = samples[~is_judging], samples[is_judging]

    def inputs(self, seed: int, step: int, count: int) -> Tensor:
        """Return the inputs of a step, ``(count, samples)``: crops with random gains, half of them sums of two."""
        generator = numpy_generator("mixed crops", seed, step)
        drawn = []
        for _ in range(count):
            crop = self._drawn(self._fitted, int(generator.integers(len(self._fitted))), generator, with_gain=True)
            if generator.random() < _MIXED:
                crop += self._drawn(self._fitted, int(generator.integers(len(self._fitted))), generator, with_gain=True)
            drawn.append(crop)
        return torch.stack(drawn).to(self._device)

    def held_out(self, count: int) -> Iterator[Tensor]:
        """Yield a crop of each held-out clip as it is, ``(count, samples)`` or fewer at a time, always the same."""
        generator = numpy_generator("held-out crops", len(self._held_out))
        for clips in torch.split(torch.arange(len(self._held_out)), count):
            crops = [self._drawn(self._held_out, int(clip), generator, with_gain=False) for clip in clips]
            yield torch.stack(crops).to(self._device)

    def _drawn(self, clips: Tensor, clip: int, generator: Generator, *, with_gain: bool) -> Tensor:
        """Return the louder of two random crops of a clip: many clips end in silence.

        Whole clips start at a random sample and continue from their beginning, if they are not held out.
        """
        samples = clips[clip]
        if self._samples == len(samples):
            start = int(generator.integers(len(samples))) if with_gain else 0
            crop = torch.roll(samples, start).float() / 32_767
        else:
            starts = generator.integers(len(samples) - self._samples + 1, size=2)
            crops = [samples[start : start + self._samples].float() / 32_767 for start in starts]
            crop = max(crops, key=lambda each: float(each.square().sum()))
        return crop * 10 ** (generator.uniform(*_GAIN) / 20) if with_gain else crop
