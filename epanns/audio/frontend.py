"""Settings of all log-mel front ends, and that of PANNs; those of YAMNet and EfficientAT have modules of their own."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from epanns.audio.mel_filterbank import slaney_filterbank
from epanns.errors import ConfigError
from epanns.strict import Rule, check_fields, from_table, integer, number, one_of, shown

KINDS = ("panns", "yamnet", "efficientat")
PATCH_FRAMES = 96  # log-mel frames of one input of YAMNet, 0.96 s
PATCH_HOP = 48  # frames between the starts of two patches

_AMIN = 1e-10  # torchlibrosa's floor: silence is exactly -100 dB


@dataclass(frozen=True)
class FrontEndSpec:
    """Log-mel settings; sizes in samples, frequencies in Hz.

    Attributes:
        kind: ``panns`` centres its windows (`LogMel`); ``yamnet`` does not, and reads patches of 96 frames
            (`yamnet_logmel.YamnetLogMel`); ``efficientat`` centres its windows on samples with pre-emphasis
            (`efficientat_logmel.EfficientatLogMel`).

    Raises:
        ConfigError: With every value out of range.
    """

    sample_rate: int
    window_size: int
    hop_size: int
    mel_bins: int
    fmin: float
    fmax: float
    kind: str = "panns"

    def __post_init__(self) -> None:
        check_fields(self, FRONT_END_RULES, what="front end: ")
        rate = self.sample_rate
        if not self.fmin < self.fmax <= rate / 2:
            rule = f"must be 0 <= fmin < fmax <= {rate / 2:g} Hz, half the sample rate"
            raise ConfigError(f"front end: fmin={shown(self.fmin)}, fmax={shown(self.fmax)}: {rule}")
        if self.is_yamnet and (40 * self.window_size, 100 * self.hop_size) != (rate, rate):
            rule = f"must be YAMNet's 25 and 10 ms at sample_rate={rate}"
            raise ConfigError(f"front end: window_size={self.window_size}, hop_size={self.hop_size}: {rule}")

    @property
    def is_yamnet(self) -> bool:
        """Whether the log-mel is YAMNet's."""
        return self.kind == "yamnet"

    @property
    def fft_size(self) -> int:
        """Samples of the Fourier transform: of PANNs the window's, of others the power of two that it fits in."""
        return self.window_size if self.kind == "panns" else 1 << (self.window_size - 1).bit_length()

    @property
    def frequency_bins(self) -> int:
        """Bins of the one-sided spectrum."""
        return self.fft_size // 2 + 1

    @property
    def patch_samples(self) -> int:
        """Samples of one YAMNet patch: 15,600 at 16 kHz, 0.975 s."""
        return (PATCH_FRAMES - 1) * self.hop_size + self.window_size

    def frames(self, samples: int) -> int:
        """Return the number of log-mel frames of a clip of `samples`.

        PANNs centre a window on each frame; so does EfficientAT, whose pre-emphasis takes a sample. For YAMNet it is
        the frames of all its patches, the last one padded with silence.
        """
        if not self.is_yamnet:
            return (samples - (self.kind == "efficientat")) // self.hop_size + 1
        return PATCH_FRAMES + PATCH_HOP * math.ceil(max(0, samples - self.patch_samples) / (PATCH_HOP * self.hop_size))

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON values, without `kind` where it is ``panns``."""
        values = asdict(self)
        return {name: value for name, value in values.items() if (name, value) != ("kind", "panns")}

    @classmethod
    def from_dict(cls, values: object) -> "FrontEndSpec":
        """Read the settings from the form of `to_dict`.

        Args:
            values: A JSON value of any kind.

        Raises:
            ConfigError: If it is no table, or with every unknown key, missing key and wrong value.
        """
        return from_table(cls, values, FRONT_END_RULES, what="front end: ")


_FREQUENCY = number("a finite number >= 0, in Hz", lambda value: value >= 0)
# The limits are checked before a window or a mel bank is allocated: a damaged file may state any size.
FRONT_END_RULES: Mapping[str, Rule] = {
    "sample_rate": integer(1, 1_000_000),
    "window_size": integer(1, 65_536),
    "hop_size": integer(1, 65_536),
    "mel_bins": integer(1, 1024),
    "fmin": _FREQUENCY,
    "fmax": _FREQUENCY,
    "kind": one_of(KINDS),
}


def mel_bank(spec: FrontEndSpec) -> Tensor:
    """Return the Slaney mel filterbank, ``(frequency_bins, mel_bins)`` float32, as torchlibrosa's ``melW``."""
    return slaney_filterbank(
        spec.frequency_bins, fmin=spec.fmin, fmax=spec.fmax, mel_bins=spec.mel_bins, sample_rate=spec.sample_rate
    )


def stft_kernels(spec: FrontEndSpec) -> tuple[Tensor, Tensor]:
    """Return the windowed DFT as two convolutions, each ``(frequency_bins, 1, window_size)`` float32.

    These are the frozen tensors ``stft.conv_real`` and ``stft.conv_imag`` of released PANNs files (torchlibrosa
    `STFT`). epanns computes the same transform by FFT and needs them only to check and to write such files.
    """
    time = torch.arange(spec.window_size, dtype=torch.float64, device="cpu")
    # The phase is reduced modulo one turn before the cosine: products of two indices lose digits as angles.
    turns = torch.outer(torch.arange(spec.frequency_bins, dtype=torch.float64, device="cpu"), time) % spec.window_size
    angle = 2 * math.pi * turns / spec.window_size
    window = torch.hann_window(spec.window_size, dtype=torch.float64, device="cpu")
    real, imaginary = angle.cos() * window, -angle.sin() * window
    return real.float()[:, None], imaginary.float()[:, None]


def window_and_bank(
    spec: FrontEndSpec, bank_of: Callable[[FrontEndSpec], Tensor], *, periodic: bool = True
) -> tuple[Tensor, Tensor]:
    """Return the Hann window, float64, and the mel bank of a front end on torch's default device.

    On the meta device, where only shapes are compared, neither is computed: a damaged specification may need a bank of
    hundreds of megabytes, and torch would load its compiler.
    """
    device = torch.get_default_device()
    if device.type == "meta":
        window = torch.empty(spec.window_size, dtype=torch.float64, device=device)
        return window, torch.empty(spec.frequency_bins, spec.mel_bins, device=device)
    window = torch.hann_window(spec.window_size, periodic, dtype=torch.float64, device="cpu")
    return window.to(device), bank_of(spec).to(device)


class LogMel(nn.Module):
    """Waveform to log-mel spectrogram; holds no parameter and no entry of the state dict.

    In evaluation mode the Fourier transform runs in float64. In float32 its rounding noise is 140 dB below the loudest
    bin of a frame, which changes bins at -120 dB by up to 0.3 dB; training mode accepts this for a transform that is
    four times as fast.
    """

    def __init__(self, spec: FrontEndSpec) -> None:
        super().__init__()
        self.spec = spec
        window, bank = window_and_bank(spec, mel_bank)
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("bank", bank, persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """Compute the log-mel spectrogram.

        Args:
            waveform: ``(batch, samples)`` float32 in [-1, 1] at ``spec.sample_rate``, longer than half a window
                because the ends are reflected.

        Returns:
            ``(batch, 1, samples // hop_size + 1, mel_bins)`` in dB relative to 1.0, floor -100 dB.

        Source: Kong et al. 2020, section III-A; audioset_tagging_cnn `pytorch/models.py`, whose torchlibrosa front end
        this equals (tests/audio/test_frontend.py states the tolerances).
        """
        spec = self.spec
        with torch.autocast("cuda" if waveform.is_cuda else "cpu", enabled=False):  # bfloat16 has two digits of a level
            if not self.training:
                waveform = waveform.double()
            spectrum = torch.stft(
                waveform,
                spec.window_size,
                spec.hop_size,
                window=self.get_buffer("window").to(waveform.dtype),
                center=True,
                pad_mode="reflect",
                return_complex=True,
            )
            real, imaginary = torch.view_as_real(spectrum).unbind(-1)
            power = real.square() + imaginary.square()  # (batch, frequency, time)
            mel = mel_of(power.transpose(1, 2), self.get_buffer("bank"))
            return 10.0 * torch.log10(mel.clamp(min=_AMIN))[:, None]  # (batch, 1, time, mel)


def mel_of(spectrum: Tensor, bank: Tensor) -> Tensor:
    """Sum ``(..., frequency_bins)`` into mel bins, in float32, or in float64 if the bank is float64."""
    return spectrum.to(torch.promote_types(torch.float32, bank.dtype)) @ bank
