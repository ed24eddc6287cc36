"""EfficientAT's log-mel: pre-emphasis, power spectrum, Kaldi's triangles, and values of about -1 to 1."""

import torch
from torch import Tensor, nn

from epanns.audio.frontend import FrontEndSpec, htk_mel_bank, mel_power, window_and_bank

PRE_EMPHASIS = 0.97
OFFSET = 1e-5  # added to the mel power before the logarithm
SHIFT, SCALE = 4.5, 5.0  # upstream's constants, instead of a mean and a deviation of the training set


class EfficientatLogMel(nn.Module):
    """Waveform to EfficientAT's log-mel spectrogram; holds no parameter and no entry of the state dict.

    Upstream moves `fmin` by up to 10 Hz and `fmax` by up to 1 kHz in training mode, again for each batch. epanns does
    not: its augmentation is SpecAugment and mixup, drawn clip by clip.

    In evaluation mode the Fourier transform runs in float64, for the reason given in `frontend.LogMel`.
    """

    def __init__(self, spec: FrontEndSpec) -> None:
        super().__init__()
        self.spec = spec
        window, bank = window_and_bank(spec, htk_mel_bank, periodic=False)
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("bank", bank, persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """Compute the log-mel spectrogram.

        Args:
            waveform: ``(batch, samples)`` float32 in [-1, 1] at ``spec.sample_rate``, longer than half a transform
                and a sample, because the ends are reflected.

        Returns:
            ``(batch, 1, (samples - 1) // hop_size + 1, mel_bins)``: ``(ln(m + 1e-5) + 4.5) / 5`` of the mel powers m.

        Source: Schmid et al. 2023 (arXiv 2211.04772); fschmid56/EfficientAT `models/preprocess.py`.
        """
        spec = self.spec
        with torch.autocast("cuda" if waveform.is_cuda else "cpu", enabled=False):
            if not self.training:
                waveform = waveform.double()
            emphasised = waveform[:, 1:] - PRE_EMPHASIS * waveform[:, :-1]
            mel = mel_power(
                emphasised, self.get_buffer("window"), self.get_buffer("bank"), spec.fft_size, spec.hop_size
            )
            return (((mel + OFFSET).log() + SHIFT) / SCALE)[:, None]  # (batch, 1, time, mel)
