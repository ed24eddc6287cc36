"""Random changes of the waveforms of a training step: a circular shift in time, and a gain."""

from collections.abc import Sequence

import torch
from torch import Tensor

from epanns.seeding import numpy_generator


def changed(waveform: Tensor, seeds: Sequence[int], *, shift: bool, gain_decibels: float) -> Tensor:
    """Return the clips with a random shift and gain of each, functions of its seed alone.

    The shift is uniform over the clip; samples that leave at the end enter at the start, so no sound is lost. The gain
    is uniform in decibels. Samples are not limited to [-1, 1]: a front end on float samples needs no limit.

    Args:
        waveform: ``(batch, samples)``; left unchanged.
        seeds: One seed per clip, as for `epanns.clip_random.clip_draws`.
        shift: Whether to shift.
        gain_decibels: Largest gain and attenuation in dB; 0 for neither.
    """
    if not (shift or gain_decibels):
        return waveform
    clips = []
    for clip, seed in zip(waveform, seeds, strict=True):
        generator = numpy_generator("waveform", seed)  # both numbers are drawn, so that one does not change the other
        samples, decibels = int(generator.integers(len(clip))), generator.uniform(-gain_decibels, gain_decibels)
        clips.append((clip.roll(samples) if shift else clip) * 10 ** (decibels / 20))
    return torch.stack(clips)
