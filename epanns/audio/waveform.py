"""Audio files in, mono waveforms at one sample rate out, whole or block by block; and waveforms as int16.

Decoding is in `epanns.audio.decoding`, resampling is soxr's.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from epanns.audio.decoding import opened_sound
from epanns.audio.regular_file import require_regular_file
from epanns.audio.sound import Frames, Sound, Span
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
        n_beyond_header: Samples beyond the length that the file's header states.
        states_length: Whether the file states its length; where it does not, a file cut between frames seems whole.
        is_cut: Whether the sound goes on after the last sample, because a limit was given.
    """

    samples: NDArray[np.float32]
    sample_rate: int
    n_clipped: int
    n_beyond_header: int = 0
    states_length: bool = True
    is_cut: bool = False


class WaveformStream:
    """A sound that is decoded block by block: in little memory the waveform that `load_waveform` returns.

    Attributes:
        sample_rate: In Hz.
        n_samples: Samples yielded so far.
        n_clipped: Samples so far that lay outside [-1, 1] and were limited.
        n_beyond_header: Samples so far beyond the length that the file's header states.
        states_length: Whether the file states its length.
        is_cut: Whether samples beyond the limit were left out so far.
    """

    def __init__(self, sound: Sound, name: str, sample_rate: int, limit: float | None) -> None:
        """Read nothing yet.

        Args:
            sound: An open sound; the stream ends with it.
            name: Name of the file in messages.
            sample_rate: Rate of the blocks in Hz.
            limit: Seconds of the waveform at most.
        """
        self.sample_rate = sample_rate
        self.n_samples = self.n_clipped = self.n_beyond_header = 0
        self.states_length = sound.stated is not None and not sound.is_counted
        self.is_cut = False
        self._name = name
        self._most = None if limit is None else round(limit * sample_rate)
        self._stated = None if sound.stated is None else round(sound.stated / sound.rate * sample_rate)
        self._blocks = resample(_mono_blocks(sound.blocks, name), sound.rate, sample_rate)

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        """Yield ``(samples,)`` float32 in [-1, 1], at least one sample in each block.

        Raises:
            DataError: As `load_waveform` does, at the block in which it shows.
        """
        for block in self._blocks:
            kept = block if self._most is None else block[: self._most - self.n_samples]
            self.is_cut = self.is_cut or len(kept) < len(block)
            if len(kept):
                yield self._counted(kept)
        if not self.n_samples:
            raise DataError(f"{self._name}: holds less than one sample at {self.sample_rate} Hz; remove the file")

    def _counted(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        self.n_samples += len(samples)
        if self._stated is not None and self.n_samples > self._stated + 1:  # resampling may round up
            self.n_beyond_header = self.n_samples - self._stated
        if samples.max() > 1.0 or samples.min() < -1.0:
            self.n_clipped += int(np.count_nonzero(np.abs(samples) > 1.0))
            np.clip(samples, -1.0, 1.0, out=samples)
        return samples


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
    _refuse_missing(path)
    return _load(path, str(path), sample_rate, Span(start or 0.0, duration, limit))


def load_encoded(content: bytes, name: str, *, sample_rate: int, limit: float | None = None) -> Waveform:
    """Do as `load_waveform` with the bytes of an audio file; `name` stands for its path in messages."""
    return _load(content, name, sample_rate, Span(limit=limit))


@contextmanager
def waveform_stream(path: Path, *, sample_rate: int) -> Iterator[WaveformStream]:
    """Open a file whose waveform is decoded as its blocks are read; memory does not grow with its length.

    Args:
        path: As `load_waveform` has it.
        sample_rate: Rate of the blocks in Hz.

    Raises:
        DataError: If the file is missing, unreadable or seen to be cut short; what shows later is raised by the stream.
    """
    _refuse_missing(path)
    with _opened(path, str(path), sample_rate, Span()) as stream:
        yield stream


def _refuse_missing(path: Path) -> None:
    try:
        require_regular_file(path)
    except OSError as error:
        raise DataError(f"{path}: no such audio file; correct the path or remove the clip") from error


@contextmanager
def _opened(source: Path | bytes, name: str, sample_rate: int, span: Span) -> Iterator[WaveformStream]:
    decoded = span if span.limit is None else replace(span, limit=span.limit + _MARGIN_SECONDS)
    with opened_sound(source, name, decoded) as sound:
        yield WaveformStream(sound, name, sample_rate, span.limit)


def _load(source: Path | bytes, name: str, sample_rate: int, span: Span) -> Waveform:
    with _opened(source, name, sample_rate, span) as stream:
        blocks = list(stream)
    samples = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
    return Waveform(samples, sample_rate, stream.n_clipped, stream.n_beyond_header, stream.states_length, stream.is_cut)


def _mono_blocks(blocks: Iterator[Frames], name: str) -> Iterator[NDArray[np.float32]]:
    """Yield the mean of each block ``(frames, channels)``; frames that are no numbers are counted, then refused."""
    n_frames = n_bad = 0
    for frames in blocks:
        mono = _mean_of_channels(frames)
        n_frames += len(mono)
        with np.errstate(over="ignore", invalid="ignore"):
            is_suspect = not np.isfinite(mono.sum())
        n_bad += int(np.count_nonzero(~np.isfinite(mono))) if is_suspect else 0
        if not n_bad:
            yield mono
    if n_bad:
        raise DataError(f"{name}: {n_bad} of {n_frames} samples are NaN or infinite; repair or remove the file")


def _mean_of_channels(frames: Frames) -> NDArray[np.float32]:
    n_channels = frames.shape[1]
    mono = frames[:, 0]
    with np.errstate(over="ignore", invalid="ignore"):  # the caller reports what is no number
        if n_channels > 1:
            mono = mono + frames[:, 1]
            for channel in range(2, n_channels):
                mono += frames[:, channel]
            mono /= n_channels
    return mono


def resample(
    blocks: Iterator[NDArray[np.float32]], source_rate: int, sample_rate: int
) -> Iterator[NDArray[np.float32]]:
    """Change the rate of the blocks of one waveform; the result is to the last bit soxr's of the whole waveform.

    Args:
        blocks: ``(samples,)`` float32 each.
        source_rate: Their rate in Hz.
        sample_rate: Rate of the result in Hz; an equal rate leaves the blocks as they are.
    """
    if source_rate == sample_rate:
        yield from blocks
        return
    import soxr

    stream = soxr.ResampleStream(source_rate, sample_rate, 1, dtype="float32", quality=RESAMPLER_QUALITY)
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.empty(0, np.float32), last=True)


def to_int16(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    """Convert [-1, 1] to int16, rounding to the nearest; the error is at most half a step of 1/32767."""
    scaled = samples * np.float32(INT16_MAX)
    rounded: NDArray[np.int16] = np.rint(scaled, out=scaled).astype(np.int16)
    return rounded
