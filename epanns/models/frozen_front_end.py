"""The front end as released files hold it, three frozen tensors: epanns computes it, checks these and writes them."""

from collections.abc import Mapping

import torch
from torch import Tensor

from epanns.audio.frontend import FrontEndSpec, mel_bank, stft_kernels

FRONT_END_NAMES = (
    "spectrogram_extractor.stft.conv_real.weight",
    "spectrogram_extractor.stft.conv_imag.weight",
    "logmel_extractor.melW",
)

# torchlibrosa's tensors, its librosa of that day, and float32: larger differences mean another front end.
_TOLERANCE = 1e-4

# Half precision rounds by up to half of this fraction of a number; a file's own rounding is no difference.
_ROUNDING = {torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}


def released_front_end(front_end: FrontEndSpec) -> dict[str, Tensor]:
    """Return the three tensors, under their names in released files.

    ``(frequency_bins, 1, window_size)`` twice and ``(frequency_bins, mel_bins)``, float32.
    """
    return dict(zip(FRONT_END_NAMES, (*stft_kernels(front_end), mel_bank(front_end)), strict=True))


def check_front_end(given: Mapping[str, Tensor], front_end: FrontEndSpec) -> str:
    """Say how tensors of a file differ from those of `front_end`; empty where they do not."""
    expected = released_front_end(front_end)
    for name, tensor in given.items():
        shape = tuple(expected[name].shape)
        comparable = tensor.shape == shape and tensor.is_floating_point()
        difference = (tensor.cpu().float() - expected[name]).abs() if comparable else torch.tensor(float("inf"))
        allowed = _TOLERANCE + _ROUNDING.get(tensor.dtype, 0.0) * expected[name].abs()
        if not (difference <= allowed).all():  # NaN is no front end either
            return (
                f"{name} of shape {tuple(tensor.shape)} is not of the front end at {front_end.sample_rate} Hz (shape "
                f"{shape}; largest difference {float(difference.max()):g}): "
                "build the network with the front end the weights were trained with"
            )
    return ""
