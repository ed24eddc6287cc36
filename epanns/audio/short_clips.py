"""Checks of a batch of waveforms, and clips shorter than a network's minimum: repeated for PANNs, padded for YAMNet."""

import math
from typing import Any

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from epanns.audio.frontend import FrontEndSpec
from epanns.errors import ConfigError


def as_float32(waveform: NDArray[Any]) -> NDArray[np.float32]:
    """Return a NumPy waveform as contiguous float32.

    Raises:
        ConfigError: If it is not floating point.
    """
    if waveform.dtype.kind != "f":
        raise ConfigError(f"waveform of type {waveform.dtype}: must be float in [-1, 1]; divide int16 by 32767")
    return np.ascontiguousarray(waveform, dtype=np.float32)


def repeat_to_minimum(waveform: Tensor, minimum: int) -> Tensor:
    """Repeat clips shorter than `minimum` samples from their start until they reach it.

    Args:
        waveform: ``(batch, samples)``, at least one sample.
        minimum: Length in samples that the network needs.

    Raises:
        ConfigError: If the waveform is no tensor, not ``(batch, samples)``, has no sample, or is not floating point.
    """
    if not isinstance(waveform, Tensor):
        raise ConfigError(
            f"waveform of type {type(waveform).__name__}: must be a tensor or a NumPy array; "
            "give torch.tensor(waveform)"
        )
    if not waveform.is_floating_point():
        raise ConfigError(f"waveform of type {waveform.dtype}: must be float in [-1, 1]; divide int16 by 32767")
    shape = f"waveform of shape {tuple(waveform.shape)}: must be (batch, samples)"
    if waveform.dim() == 1:
        raise ConfigError(f"{shape}; give waveform[None] for one clip")
    if waveform.dim() != 2 or 0 in waveform.shape:
        raise ConfigError(f"{shape} with at least 1 clip and 1 sample")
    samples = waveform.shape[1]
    if samples >= minimum:
        return waveform
    return waveform.repeat(1, math.ceil(minimum / samples))[:, :minimum]


def pad_to_patches(waveform: Tensor, spec: FrontEndSpec) -> Tensor:
    """Append silence to ``(batch, samples)`` so that its end is the end of a YAMNet patch, the first or a later one.

    Source: tensorflow/models, `research/audioset/yamnet/features.py`, `pad_waveform`.
    """
    samples = (spec.frames(waveform.shape[-1]) - 1) * spec.hop_size + spec.window_size
    return F.pad(waveform, (0, samples - waveform.shape[-1]))
