"""YAMNet's log-mel: windows that begin with their frame, magnitudes, and triangles that are linear in mel."""

import math

import torch
from torch import Tensor, nn

from epanns.audio.frontend import PATCH_FRAMES, PATCH_HOP, FrontEndSpec, mel_of, window_and_bank

SILENCE = math.log(0.001)  # the lowest value: the logarithm of its offset


def hertz_to_mel(frequency: Tensor) -> Tensor:
    """Return the mel of frequencies in Hz on the HTK scale, as TensorFlow writes it: ``1127 ln(1 + f / 700)``."""
    return 1127.0 * torch.log1p(frequency / 700.0)


def yamnet_mel_bank(spec: FrontEndSpec) -> Tensor:
    """Return ``(frequency_bins, mel_bins)`` float32: triangles over equal steps of mel, linear in mel, of height 1.

    The bin of 0 Hz has no weight, and areas are not normalised.

    Source: TensorFlow's `linear_to_mel_weight_matrix`, which tensorflow/models' `research/audioset/yamnet` uses.
    """
    with torch.device("cpu"):
        lowest, highest = hertz_to_mel(torch.tensor([spec.fmin, spec.fmax], dtype=torch.float64)).tolist()
        edges = torch.linspace(lowest, highest, spec.mel_bins + 2, dtype=torch.float64)
        bins = torch.arange(spec.frequency_bins, dtype=torch.float64) * (spec.sample_rate / spec.fft_size)
        mel = hertz_to_mel(bins)[:, None]
        rising = (mel - edges[:-2]) / (edges[1:-1] - edges[:-2])
        falling = (edges[2:] - mel) / (edges[2:] - edges[1:-1])
        bank = torch.minimum(rising, falling).clamp(min=0)
        bank[0] = 0
    return bank.float()


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
