"""YAMNet's log-mel: windows that begin with their frame, magnitudes, and triangles that are linear in mel."""

import math

import torch
from torch import Tensor, nn

from epanns.audio.frontend import PATCH_FRAMES, PATCH_HOP, FrontEndSpec, mel_of, window_and_bank
from epanns.audio.mel_filterbank import htk_filterbank

SILENCE = math.log(0.001)  # the lowest value: the logarithm of its offset


def yamnet_mel_bank(spec: FrontEndSpec) -> Tensor:
    """Return ``(frequency_bins, mel_bins)`` float32, the triangles of tensorflow/models' `research/audioset/yamnet`."""
    return htk_filterbank(
        spec.frequency_bins, fmin=spec.fmin, fmax=spec.fmax, mel_bins=spec.mel_bins, sample_rate=spec.sample_rate
    )


class YamnetLogMel(nn.Module):
    """Waveform to YAMNet's log-mel spectrogram; holds no parameter and no entry of the state dict.

    In evaluation mode the Fourier transform runs in float64, for the reason given in `frontend.LogMel`.
    """

    def __init__(self, spec: FrontEndSpec) -> None:
        super().__init__()
        self.spec = spec
        window, bank = window_and_bank(spec, yamnet_mel_bank)
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("bank", bank, persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """Compute the log-mel spectrogram of every whole window; nothing is padded.

        Args:
            waveform: ``(..., samples)`` float32 in [-1, 1] at ``spec.sample_rate``, at least a window long.

        Returns:
            ``(..., 1 + (samples - window_size) // hop_size, mel_bins)``: ``ln(m + .001)`` of the mel magnitudes m.

        Source: tensorflow/models, `research/audioset/yamnet/features.py`.
        """
        spec = self.spec
        with torch.autocast("cuda" if waveform.is_cuda else "cpu", enabled=False):
            if not self.training:
                waveform = waveform.double()
            window = self.get_buffer("window").to(waveform.dtype)
            frames = waveform.unfold(-1, spec.window_size, spec.hop_size) * window  # (..., frames, window_size)
            magnitude = torch.fft.rfft(frames, spec.fft_size).abs()  # the window is followed by zeros
            return torch.log(mel_of(magnitude, self.get_buffer("bank")) + 0.001)


def patches_of(logmel: Tensor) -> Tensor:
    """Cut ``(batch, 1, frames, mel)`` into overlapping patches ``(batch * patches, 1, 96, mel)``, clip by clip."""
    windows = logmel.unfold(2, PATCH_FRAMES, PATCH_HOP)  # (batch, 1, patches, mel, 96)
    return windows.permute(0, 2, 1, 4, 3).flatten(0, 1).contiguous()


def count_patches(frames: int) -> int:
    """Return the number of patches that `patches_of` cuts from a number of frames."""
    return (frames - PATCH_FRAMES) // PATCH_HOP + 1
