"""The log-mel front end that PANNs were trained on. YAMNet's is in `yamnet_logmel`."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from epanns.audio.mel_filterbank import slaney_filterbank
from epanns.errors import ConfigError, did_you_mean

KINDS = ("panns", "yamnet")
PATCH_FRAMES = 96  # of the log-mel that YAMNet hears at once, .96 s
PATCH_HOP = 48  # frames between the starts of two patches

_AMIN = 1e-10  # torchlibrosa's floor: silence is exactly -100 dB

# Beyond these a specification is damaged or hostile; checked before a window or a mel bank is allocated.
_HIGHEST = {"sample_rate": 1_000_000, "window_size": 65_536, "hop_size": 65_536, "mel_bins": 1024}


@dataclass(frozen=True)
class FrontEndSpec:
    """Log-mel settings; sizes in samples, frequencies in Hz.

    Attributes:
        kind: ``panns`` centres its windows (`LogMel`); ``yamnet`` does not, and hears whole patches of 96 frames
            (`yamnet_logmel.YamnetLogMel`).
    """

    sample_rate: int
    window_size: int
    hop_size: int
    mel_bins: int
    fmin: float
    fmax: float
    kind: str = "panns"

    def __post_init__(self) -> None:
        problems = [
            f"{name}={getattr(self, name)!r} must be a whole number in [1, {highest}]"
            for name, highest in _HIGHEST.items()
            if type(getattr(self, name)) is not int or not 1 <= getattr(self, name) <= highest
        ]
        frequencies = (self.fmin, self.fmax)
        if any(isinstance(value, bool) or not isinstance(value, int | float) for value in frequencies):
            problems.append(f"fmin={self.fmin!r} and fmax={self.fmax!r} must be numbers, in Hz")
        elif not problems and not 0 <= self.fmin < self.fmax <= self.sample_rate / 2:
            problems.append(f"0 <= fmin < fmax <= {self.sample_rate / 2:g} Hz, got fmin={self.fmin}, fmax={self.fmax}")
        if self.kind not in KINDS:
            problems.append(
                f"kind={self.kind!r}{did_you_mean(str(self.kind), KINDS)}: must be one of {', '.join(KINDS)}"
            )
        elif not problems and self.is_yamnet and not self._has_yamnets_times():
            problems.append(
                f"window_size={self.window_size} and hop_size={self.hop_size} must be YAMNet's 25 and 10 ms at "
                f"sample_rate={self.sample_rate}"
            )
        if problems:
            raise ConfigError("front end: " + "; ".join(problems))

    @property
    def is_yamnet(self) -> bool:
        """Whether the log-mel is YAMNet's."""
        return self.kind == "yamnet"

    def _has_yamnets_times(self) -> bool:
        return (40 * self.window_size, 100 * self.hop_size) == (self.sample_rate, self.sample_rate)

    @property
    def fft_size(self) -> int:
        """Samples of the Fourier transform; YAMNet's is the power of two that the window fits in."""
        return 1 << (self.window_size - 1).bit_length() if self.is_yamnet else self.window_size

    @property
    def frequency_bins(self) -> int:
        """Bins of the one-sided spectrum."""
        return self.fft_size // 2 + 1

    @property
    def patch_samples(self) -> int:
        """Samples under a patch of YAMNet's: 15,600 at 16 kHz, .975 s."""
        return (PATCH_FRAMES - 1) * self.hop_size + self.window_size

    def frames(self, samples: int) -> int:
        """Return how many frames a clip of `samples` has; the window is centred on each.

        Of YAMNet's kind, those of the patches that the clip fills, the last one to its end with silence.
        """
        if not self.is_yamnet:
            return samples // self.hop_size + 1
        return PATCH_FRAMES + PATCH_HOP * math.ceil(max(0, samples - self.patch_samples) / (PATCH_HOP * self.hop_size))

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON values; the kind is left out at its default, as files from before have it."""
        values = asdict(self)
        return values if self.is_yamnet else {name: value for name, value in values.items() if name != "kind"}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "FrontEndSpec":
        """Read `to_dict`'s form; every unknown or missing key is named in the `ConfigError`."""
        known = {field.name for field in fields(cls)}
        problems = [f"unknown key {key!r}" for key in values if key not in known]
        problems += [f"missing key {key!r}" for key in sorted(known - {"kind"} - set(values))]
        if problems:
            raise ConfigError("front end: " + "; ".join(problems))
        return cls(**values)


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


def window_and_bank(spec: FrontEndSpec, bank_of: Callable[[FrontEndSpec], Tensor]) -> tuple[Tensor, Tensor]:
    """Return the Hann window, float64, and the mel bank of a front end on torch's default device.

    On the meta device, where only shapes are compared, neither is computed: a damaged specification may ask for banks
    of hundreds of megabytes, and torch would load its compiler.
    """
    device = torch.get_default_device()
    if device.type == "meta":
        window = torch.empty(spec.window_size, dtype=torch.float64, device=device)
        return window, torch.empty(spec.frequency_bins, spec.mel_bins, device=device)
    window = torch.hann_window(spec.window_size, dtype=torch.float64, device="cpu")
    return window.to(device), bank_of(spec).to(device)


class LogMel(nn.Module):
    """Waveform to log-mel spectrogram; holds no parameter and no entry of the state dict.

    In evaluation mode the Fourier transform runs in float64. In float32 its rounding noise lies 140 dB under the
    loudest bin of a frame, which moves bins 120 dB down by up to 0.3 dB; training mode accepts that for a fourfold
    faster transform.
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
            waveform: ``(batch, samples)`` float32 in [-1, 1] at ``spec.sample_rate``; more than half a window long,
                because the ends are reflected.

        Returns:
            ``(batch, 1, samples // hop_size + 1, mel_bins)`` in dB relative to 1.0, floor -100 dB.

        Source: Kong et al. 2020, section III-A; audioset_tagging_cnn `pytorch/models.py`, whose torchlibrosa front end
        this equals (tests/audio/test_frontend.py states the tolerances).
        """
        with torch.autocast("cuda" if waveform.is_cuda else "cpu", enabled=False):  # two digits of a level are too few
            return self._log_mel(waveform)

    def _log_mel(self, waveform: Tensor) -> Tensor:
        spec = self.spec
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
    """Sum ``(..., frequency_bins)`` into the bins of a mel bank; in float32, in float64 where the network is."""
    return spectrum.to(torch.promote_types(torch.float32, bank.dtype)) @ bank


def floats_of(waveform: NDArray[Any]) -> NDArray[np.float32]:
    """Return a waveform of NumPy in float32, in one piece.

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
        ConfigError: If the waveform is no tensor, not ``(batch, samples)``, holds no sample, or is not floating point.
    """
    if not isinstance(waveform, Tensor):
        raise ConfigError(
            f"waveform of type {type(waveform).__name__}: must be a tensor or a NumPy array; "
            "give torch.tensor(waveform)"
        )
    if not waveform.is_floating_point():
        raise ConfigError(f"waveform of type {waveform.dtype}: must be float in [-1, 1]; divide int16 by 32767")
    if waveform.dim() == 1:
        raise ConfigError(
            f"waveform of shape {tuple(waveform.shape)}: must be (batch, samples); give waveform[None] for one clip"
        )
    if waveform.dim() != 2 or 0 in waveform.shape:
        raise ConfigError(
            f"waveform of shape {tuple(waveform.shape)}: must be (batch, samples) with at least 1 clip and 1 sample"
        )
    samples = waveform.shape[1]
    if samples >= minimum:
        return waveform
    return waveform.repeat(1, math.ceil(minimum / samples))[:, :minimum]
