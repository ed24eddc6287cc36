"""Audio files in, mono waveforms at one sample rate out; and waveforms as int16.

Decoding is libsndfile's, resampling is soxr's; cut files are found by `epanns.audio.container`.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from epanns.audio.container import truncation
from epanns.errors import DataError

if TYPE_CHECKING:
    import soundfile

RESAMPLER_QUALITY = "HQ"  # librosa's default since 0.10, soxr_hq; PANNs' packs were made with an older one's resampy
# Suffixes that name a sound, also those that need converting first: a file must not be passed over in silence.
AUDIO_SUFFIXES = frozenset(
    {".aif", ".aiff", ".au", ".caf", ".flac", ".m4a", ".mp3", ".mp4", ".oga"}
    | {".ogg", ".opus", ".rf64", ".w64", ".wav", ".webm", ".wma"}
)
INT16_MAX = 32_767  # what 1.0 is as int16
_BLOCK_FRAMES = 1 << 18
_LENGTH_TOLERANCE_SECONDS = 0.05  # lossy encoders pad and trim by up to two frames of about 26 ms


@dataclass(frozen=True)
class Waveform:
    """A decoded sound.

    Attributes:
        samples: ``(samples,)`` float32 in [-1, 1], mono; at least one sample.
        sample_rate: In Hz.
        n_clipped: Samples that lay outside [-1, 1] and were limited.
    """

    samples: NDArray[np.float32]
    sample_rate: int
    n_clipped: int


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
        path: Any format of libsndfile: WAV, FLAC, Ogg Vorbis, Opus, MP3, ...
        sample_rate: Rate of the result in Hz.
        start: Where to begin, in seconds; None for the beginning.
        duration: Seconds that must be there; None for all that follows `start`.
        limit: Seconds after which decoding may stop, however long the sound; bounds the memory.

    Raises:
        DataError: If the file is missing, unreadable, empty, cut short, or holds NaN or infinite samples.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such audio file; correct the path or remove the clip")
    frames, source_rate = _decode(path, str(path), start or 0.0, duration, limit)
    return _mono_at(frames, source_rate, sample_rate, str(path))


def load_encoded(content: bytes, name: str, *, sample_rate: int, limit: float | None = None) -> Waveform:
    """Do as `load_waveform` with the bytes of an audio file; `name` stands for its path in messages."""
    frames, source_rate = _decode(io.BytesIO(content), name, 0.0, None, limit)
    return _mono_at(frames, source_rate, sample_rate, name)


def _mono_at(frames: NDArray[np.float32], source_rate: int, sample_rate: int, name: str) -> Waveform:
    """Average the channels of ``(frames, channels)``, resample, limit."""
    with np.errstate(over="ignore"):  # float64 files may exceed float32; the check below reports it
        mono = frames.mean(axis=1, dtype=np.float32)
    n_bad = int(np.count_nonzero(~np.isfinite(mono)))
    if n_bad:
        raise DataError(f"{name}: {n_bad} of {len(mono)} samples are NaN or infinite; repair or remove the file")
    samples = resample(mono, source_rate, sample_rate)
    if not len(samples):
        raise DataError(f"{name}: holds less than one sample at {sample_rate} Hz; remove the file")
    n_clipped = int(np.count_nonzero(np.abs(samples) > 1.0))
    return Waveform(np.clip(samples, -1.0, 1.0), sample_rate, n_clipped)


def resample(samples: NDArray[np.float32], source_rate: int, sample_rate: int) -> NDArray[np.float32]:
    """Change the rate of ``(samples,)`` with soxr's `RESAMPLER_QUALITY`; equal rates leave it as it is."""
    if source_rate == sample_rate:
        return samples
    import soxr

    resampled: NDArray[np.float32] = soxr.resample(samples, source_rate, sample_rate, quality=RESAMPLER_QUALITY)
    return resampled


def pad_or_truncate(samples: NDArray[Any], length: int) -> NDArray[Any]:
    """Return the first `length` samples, with zeros after the end of a shorter waveform."""
    if len(samples) >= length:
        return samples[:length]
    return np.concatenate([samples, np.zeros(length - len(samples), samples.dtype)])


def to_int16(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    """Convert [-1, 1] to int16, rounding to the nearest; the error is at most half a step of 1/32767."""
    rounded: NDArray[np.int16] = np.rint(samples * np.float32(INT16_MAX)).astype(np.int16)
    return rounded


def _decode(
    source: Path | io.BytesIO, name: str, start: float, duration: float | None, limit: float | None
) -> tuple[NDArray[np.float32], int]:
    """Return ``(frames, channels)`` and the file's rate; refuse what is not wholly there."""
    import soundfile

    try:
        with source.open("rb") if isinstance(source, Path) else io.BytesIO(source.getvalue()) as raw:
            cut = truncation(raw)
        with soundfile.SoundFile(source) as file:
            rate: int = file.samplerate
            first = round(start * rate)
            held = max(0, file.frames - first)
            promised = held if duration is None else round(duration * rate)
            if cut is None and file.frames > 0 and held == 0:
                raise DataError(f"{name}: start {start:g} s lies past its end at {file.frames / rate:g} s")
            file.seek(min(first, file.frames))
            wanted = promised if limit is None else min(promised, round(limit * rate))
            frames = _read_frames(file, wanted)
    except (soundfile.SoundFileError, OSError, RuntimeError, ValueError) as error:
        raise DataError(f"{name}: cannot be decoded ({error}); convert it to WAV or FLAC, or remove it") from error
    if cut is not None:
        raise DataError(f"{name}: {cut}; fetch the file again")
    if not len(frames):
        raise DataError(f"{name}: holds no samples; fetch the file again or remove it")
    if len(frames) < wanted - _LENGTH_TOLERANCE_SECONDS * rate:
        promiser = "its header" if duration is None else "the manifest"
        raise DataError(
            f"{name}: truncated: {len(frames) / rate:.2f} s where {promiser} promises {promised / rate:.2f} s; "
            "fetch the file again"
        )
    return frames, rate


def _read_frames(file: "soundfile.SoundFile", wanted: int) -> NDArray[np.float32]:
    """Read block by block, so that a header that lies about its length cannot ask for all memory."""
    blocks = [np.empty((0, file.channels), np.float32)]
    missing = wanted
    while missing > 0:
        block = file.read(min(missing, _BLOCK_FRAMES), dtype="float32", always_2d=True)
        if not len(block):
            break
        blocks.append(block)
        missing -= len(block)
    return np.concatenate(blocks)
