"""Settings of all log-mel front ends, those of PANNs and YAMNet, mel filterbanks; the one module with torchaudio.

YAMNet's has windows that begin with their frame, magnitudes, and triangles that are linear in mel.
"""

import functools
import importlib
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from epanns.errors import ConfigError
from epanns.feedback import note
from epanns.strict import Rule, check_fields, from_table, integer, number, one_of, shown

KINDS = ("panns", "yamnet", "efficientat")
PATCH_FRAMES = 96  # log-mel frames of one input of YAMNet, 0.96 s
PATCH_HOP = 48  # frames between the starts of two patches
SILENCE = math.log(0.001)  # the lowest value of YAMNet's log-mel: the logarithm of its offset

_AMIN = 1e-10  # torchlibrosa's floor: silence is exactly -100 dB
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
            mel = torch.linspace(_slaney_mel(fmin), _slaney_mel(fmax), mel_bins + 2)
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


def _slaney_mel(frequency: float) -> float:
    """Return the mel of a frequency in Hz on Slaney's scale."""
    if frequency < _LINEAR_BELOW:
        return frequency / _HERTZ_PER_MEL
    return _LINEAR_BELOW / _HERTZ_PER_MEL + math.log(frequency / _LINEAR_BELOW) / _LOG_STEP


@dataclass(frozen=True)
class FrontEndSpec:
    """Log-mel settings; sizes in samples, frequencies in Hz.

    Attributes:
        kind: ``panns`` centres its windows (`LogMel`); ``yamnet`` does not, and reads patches of 96 frames
            (`YamnetLogMel`); ``efficientat`` centres its windows on samples with pre-emphasis
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
        """Read the settings from `to_dict`, a JSON value of any kind; raise `ConfigError` with every problem."""
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
            window, bank = self.get_buffer("window"), self.get_buffer("bank")
            mel = mel_power(waveform, window, bank, spec.window_size, spec.hop_size)
            return 10.0 * torch.log10(mel.clamp(min=_AMIN))[:, None]  # (batch, 1, time, mel)


def mel_power(waveform: Tensor, window: Tensor, bank: Tensor, fft_size: int, hop_size: int) -> Tensor:
    """Return the power in each mel bin, ``(batch, time, mel_bins)``, of centred frames of ``(batch, samples)``.

    The waveform is reflected at both ends. A window that is shorter than the transform stands in its middle.
    """
    spectrum = torch.stft(
        waveform,
        fft_size,
        hop_size,
        len(window),
        window=window.to(waveform.dtype),
        center=True,
        pad_mode="reflect",
        return_complex=True,
    )
    real, imaginary = torch.view_as_real(spectrum).unbind(-1)
    power = real.square() + imaginary.square()  # (batch, frequency, time)
    return mel_of(power.transpose(1, 2), bank)


def mel_of(spectrum: Tensor, bank: Tensor) -> Tensor:
    """Sum ``(..., frequency_bins)`` into mel bins, in float32, or in float64 if the bank is float64."""
    return spectrum.to(torch.promote_types(torch.float32, bank.dtype)) @ bank


def hertz_to_htk_mel(frequency: Tensor) -> Tensor:
    """Return the mel of frequencies in Hz on the HTK scale of TensorFlow and Kaldi: ``1127 ln(1 + f / 700)``."""
    return 1127.0 * torch.log1p(frequency / 700.0)


def htk_mel_bank(spec: FrontEndSpec) -> Tensor:
    """Return ``(frequency_bins, mel_bins)`` float32: triangles over equal steps of mel, linear in mel, of height 1.

    The bin of 0 Hz has no weight, and areas are not normalised.

    Source: TensorFlow's `linear_to_mel_weight_matrix`, which tensorflow/models' `research/audioset/yamnet` uses. The
    triangles of Kaldi's `MelBanks` (`feat/mel-computations.cc`), which EfficientAT uses, are the same.
    """
    with torch.device("cpu"):
        lowest, highest = hertz_to_htk_mel(torch.tensor([spec.fmin, spec.fmax], dtype=torch.float64)).tolist()
        edges = torch.linspace(lowest, highest, spec.mel_bins + 2, dtype=torch.float64)
        bins = torch.arange(spec.frequency_bins, dtype=torch.float64) * (spec.sample_rate / spec.fft_size)
        mel = hertz_to_htk_mel(bins)[:, None]
        rising = (mel - edges[:-2]) / (edges[1:-1] - edges[:-2])
        falling = (edges[2:] - mel) / (edges[2:] - edges[1:-1])
        bank = torch.minimum(rising, falling).clamp(min=0)
        bank[0] = 0
    return bank.float()


class YamnetLogMel(nn.Module):
    """Waveform to YAMNet's log-mel spectrogram; holds no parameter and no entry of the state dict.

    In evaluation mode the Fourier transform runs in float64, as that of `LogMel` does.
    """

    def __init__(self, spec: FrontEndSpec) -> None:
        super().__init__()
        self.spec = spec
        window, bank = window_and_bank(spec, htk_mel_bank)
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
