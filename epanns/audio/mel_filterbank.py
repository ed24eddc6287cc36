"""Mel filterbanks: Slaney's, from torchaudio or in closed form, and HTK's; no other module imports torchaudio."""

import functools
import importlib
import math
import warnings

import torch
from torch import Tensor

from epanns.feedback import note

_LINEAR_BELOW = 1000.0  # Hz; Slaney's scale is linear below and logarithmic above
_HERTZ_PER_MEL = 200.0 / 3.0
_LOG_STEP = math.log(6.4) / 27.0  # 27 mels lie between 1,000 and 6,400 Hz


@functools.cache
def torchaudio_problem() -> str | None:
    """Return why torchaudio cannot be imported, on one line; None if it can be.

    Its compiled library loads only with the release and the CUDA build of torch that it was made for. Otherwise the
    import raises an OSError, an ImportError or a RuntimeError.
    """
    try:
        importlib.import_module("torchaudio.functional")
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return None


def slaney_filterbank(frequency_bins: int, *, fmin: float, fmax: float, mel_bins: int, sample_rate: int) -> Tensor:
    """Return ``(frequency_bins, mel_bins)`` float32: triangles on Slaney's mel scale, each of area 1 in Hz.

    Args:
        frequency_bins: Bins of the one-sided spectrum, from 0 Hz to half the sample rate.
        fmin: Lower edge of the first triangle in Hz.
        fmax: Upper edge of the last triangle in Hz.
        mel_bins: Number of triangles.
        sample_rate: In Hz.
    """
    with torch.device("cpu"):  # torchaudio cannot compute the filterbank under another default device, such as meta
        bank: Tensor
        if torchaudio_problem() is None:
            from torchaudio.functional import melscale_fbanks

            with warnings.catch_warnings(action="ignore", category=UserWarning):  # empty filters are counted below
                bank = melscale_fbanks(frequency_bins, fmin, fmax, mel_bins, sample_rate, "slaney", "slaney")
        else:
            # Slaney's definition (1998, Auditory Toolbox), in float32 in torchaudio's order, which gives the same bits.
            bins = torch.linspace(0, sample_rate // 2, frequency_bins)[:, None]
            mel = torch.linspace(_mel(fmin), _mel(fmax), mel_bins + 2)
            first_log_mel = _LINEAR_BELOW / _HERTZ_PER_MEL
            logarithmic = _LINEAR_BELOW * torch.exp(_LOG_STEP * (mel - first_log_mel))
            edges = torch.where(mel >= first_log_mel, logarithmic, _HERTZ_PER_MEL * mel)
            lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
            rising = (bins - lower) / (centre - lower)
            falling = (upper - bins) / (upper - centre)
            bank = torch.minimum(rising, falling).clamp(min=0) * (2 / (upper - lower))
    empty = int((bank.amax(dim=0) == 0).sum())
    if empty:
        note(f"{empty} of {mel_bins} mel filters hold no frequency bin: give fewer mel bins")
    return bank


def hertz_to_mel(frequency: Tensor) -> Tensor:
    """Return the mel of frequencies in Hz on the HTK scale of TensorFlow and Kaldi: ``1127 ln(1 + f / 700)``."""
    return 1127.0 * torch.log1p(frequency / 700.0)


def htk_filterbank(frequency_bins: int, *, fmin: float, fmax: float, mel_bins: int, sample_rate: int) -> Tensor:
    """Return ``(frequency_bins, mel_bins)`` float32: triangles over equal steps of mel, linear in mel, of height 1.

    The bin of 0 Hz has no weight, and areas are not normalised. Arguments are those of `slaney_filterbank`.

    Source: TensorFlow's `linear_to_mel_weight_matrix`; Kaldi's `MelBanks` (`feat/mel-computations.cc`) are the same
    triangles.
    """
    with torch.device("cpu"):
        lowest, highest = hertz_to_mel(torch.tensor([fmin, fmax], dtype=torch.float64)).tolist()
        edges = torch.linspace(lowest, highest, mel_bins + 2, dtype=torch.float64)
        bins = torch.arange(frequency_bins, dtype=torch.float64) * (sample_rate / (2 * (frequency_bins - 1)))
        mel = hertz_to_mel(bins)[:, None]
        rising = (mel - edges[:-2]) / (edges[1:-1] - edges[:-2])
        falling = (edges[2:] - mel) / (edges[2:] - edges[1:-1])
        bank = torch.minimum(rising, falling).clamp(min=0)
        bank[0] = 0
    return bank.float()


def _mel(frequency: float) -> float:
    """Return the mel of a frequency in Hz."""
    if frequency < _LINEAR_BELOW:
        return frequency / _HERTZ_PER_MEL
    return _LINEAR_BELOW / _HERTZ_PER_MEL + math.log(frequency / _LINEAR_BELOW) / _LOG_STEP
