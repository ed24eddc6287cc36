"""Audio files in, mono waveforms at one sample rate out; and waveforms as int16.

Decoding is in `epanns.audio.decoding`, resampling is soxr's.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from epanns.audio.decoding import Span, decode
from epanns.audio.regular_file import require_regular_file
from epanns.errors import DataError

RESAMPLER_QUALITY = "HQ"  # librosa's default since 0.10, soxr_hq; PANNs' packs were made with an older one's resampy
# Suffixes that name a sound, also those that need converting first: a file must not be passed over in silence.
AUDIO_SUFFIXES = frozenset(
    {".aac", ".aif", ".aiff", ".amr", ".au", ".caf", ".flac", ".m4a", ".mka", ".mkv", ".mov", ".mp3", ".mp4"}
    | {".oga", ".ogg", ".opus", ".rf64", ".w64", ".wav", ".webm", ".wma"}
)
INT16_MAX = 32_767  # what 1.0 is as int16
_MARGIN_SECONDS = 1.0  # decoded beyond a limit, so that stopping there cannot disturb the resampler's last samples


@dataclass(frozen=True)
class Waveform:
    """A decoded sound.

    Attributes:
        samples: ``(samples,)`` float32 in [-1, 1], mono; at least one sample.
        sample_rate: In Hz.
        n_clipped: Samples that lay outside [-1, 1] and were limited.
        is_cut: Whether the sound goes on after the last sample, because a limit was given.
    """

    samples: NDArray[np.float32]
    sample_rate: int
    n_clipped: int
    is_cut: bool = False


def load_waveform(
    path: Path,
    *,
    sample_rate: int,
    start: float | None = None,
    duration: float | None = None,
    limit: float | None = None,
) -> Waveform:
    """Decode a file, average its channels, resample it and limit it to [-1, 1].

    Args:
        path: Any format of libsndfile (WAV, FLAC, Ogg Vorbis, Opus, MP3, ...), and with the extra `av` m4a, mkv, ...
        sample_rate: Rate of the result in Hz.
        start: Where to begin, in seconds; None for the beginning.
        duration: Seconds that must be there; None for all that follows `start`.
        limit: Seconds of the result at most, however long the sound; bounds the memory.

    Raises:
        DataError: If the file is missing, unreadable, empty, cut short, or holds NaN or infinite samples.
    """
    try:
        require_regular_file(path)
    except OSError as error:
        raise DataError(f"{path}: no such audio file; correct the path or remove the clip") from error
    return _load(path, str(path), sample_rate, start or 0.0, duration, limit)


def load_encoded(content: bytes, name: str, *, sample_rate: int, limit: float | None = None) -> Waveform:
    """Do as `load_waveform` with the bytes of an audio file; `name` stands for its path in messages."""
    return _load(content, name, sample_rate, 0.0, None, limit)


def _load(
    source: Path | bytes, name: str, sample_rate: int, start: float, duration: float | None, limit: float | None
) -> Waveform:
    span = Span(start, duration, None if limit is None else limit + _MARGIN_SECONDS)
    frames, source_rate = decode(source, name, span)
    samples = resample(_mono(frames, name), source_rate, sample_rate)
    n_most = len(samples) if limit is None else round(limit * sample_rate)
    is_cut = len(samples) > n_most
    samples = samples[:n_most]
    if not len(samples):
        raise DataError(f"{name}: holds less than one sample at {sample_rate} Hz; remove the file")
    n_clipped = 0
    if samples.max() > 1.0 or samples.min() < -1.0:
        n_clipped = int(np.count_nonzero(np.abs(samples) > 1.0))
        np.clip(samples, -1.0, 1.0, out=samples)
    return Waveform(samples, sample_rate, n_clipped, is_cut)


def _mono(frames: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    """Return the mean of ``(frames, channels)``, which must be numbers."""
    n_channels = frames.shape[1]
    mono = frames[:, 0]
    with np.errstate(over="ignore", invalid="ignore"):  # the check below reports it
        if n_channels > 1:
            mono = mono + frames[:, 1]
            for channel in range(2, n_channels):
                mono += frames[:, channel]
            mono /= n_channels
        is_suspect = not np.isfinite(mono.sum())
    n_bad = int(np.count_nonzero(~np.isfinite(mono))) if is_suspect else 0
    if n_bad:
        raise DataError(f"{name}: {n_bad} of {len(mono)} samples are NaN or infinite; repair or remove the file")
    return mono


def resample(samples: NDArray[np.float32], source_rate: int, sample_rate: int) -> NDArray[np.float32]:
    """Change the rate of ``(samples,)`` with soxr's `RESAMPLER_QUALITY`; equal rates leave it as it is."""
    if source_rate == sample_rate:
        return samples
    import soxr

    resampled: NDArray[np.float32] = soxr.resample(samples, source_rate, sample_rate, quality=RESAMPLER_QUALITY)
    return resampled


def to_int16(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    """Convert [-1, 1] to int16, rounding to the nearest; the error is at most half a step of 1/32767."""
    scaled = samples * np.float32(INT16_MAX)
    rounded: NDArray[np.int16] = np.rint(scaled, out=scaled).astype(np.int16)
    return rounded
