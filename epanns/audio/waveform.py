"""Read audio files as mono waveforms at one sample rate, whole or block by block.

Formats and truncated files are the concern of `epanns.audio.decoding`, sample rates of `epanns.audio.resampling`.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from epanns.audio.decoding import Frames, Sound, Span, opened_sound
from epanns.audio.resampling import mix_to_mono, resample
from epanns.errors import DataError

# Suffixes of audio files, formats without a decoder included: such a file must be reported, not skipped.
AUDIO_SUFFIXES = frozenset(
    {".aac", ".aif", ".aiff", ".amr", ".au", ".caf", ".flac", ".m4a", ".mka", ".mkv", ".mov", ".mp3", ".mp4"}
    | {".oga", ".ogg", ".opus", ".rf64", ".w64", ".wav", ".webm", ".wma"}
)
_MARGIN_SECONDS = 1.0  # decoded beyond a limit, so that the resampler's last samples do not change
_KINDS = {
    stat.S_IFIFO: "a named pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFDIR: "a folder",
}


def require_regular_file(path: str | Path) -> os.stat_result:
    """Return the status of a regular file, symbolic links followed, without opening it.

    Opening a pipe blocks and reading a device does not end. Files of the kernel, which may block too, have size 0.

    Raises:
        DataError: If `path` is not a regular file, or the file is empty.
        OSError: If it does not exist or cannot be reached.
    """
    status = os.stat(path)  # noqa: PTH116 - millions of paths are text
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "no file")
        raise DataError(f"{path}: is {kind}, must be a regular file; correct the path or remove the clip")
    if not status.st_size:
        raise DataError(f"{path}: is empty, must hold sound; fetch the file again or remove the clip")
    return status


@dataclass(frozen=True)
class Waveform:
    """A decoded file.

    Attributes:
        samples: ``(samples,)`` float32 in [-1, 1], mono; at least one sample.
        sample_rate: In Hz.
        n_clipped: Samples outside [-1, 1], which were clipped.
        n_beyond_header: Samples beyond the length that the file's header states.
        states_length: Whether the file states its length; otherwise a file cut between frames cannot be detected.
        is_cut: Whether a limit was given and the sound is longer.
    """

    samples: NDArray[np.float32]
    sample_rate: int
    n_clipped: int
    n_beyond_header: int = 0
    states_length: bool = True
    is_cut: bool = False


class WaveformStream:
    """The waveform of `load_waveform`, decoded block by block in bounded memory.

    Attributes:
        sample_rate: In Hz.
        n_samples: Samples yielded so far.
        n_clipped: Samples so far that were outside [-1, 1], and clipped.
        n_beyond_header: Samples so far beyond the length that the file's header states.
        states_length: Whether the file states its length.
        is_cut: Whether samples beyond the limit were left out so far.
    """

    def __init__(self, sound: Sound, name: str, sample_rate: int, limit: float | None) -> None:
        """Store the sound; nothing is decoded yet.

        Args:
            sound: An open sound; its blocks can be read once.
            name: Name of the file in messages.
            sample_rate: Sample rate of the blocks in Hz.
            limit: Maximum length of the waveform in seconds.
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
            DataError: As `load_waveform` does, at the block in which the problem is found.
        """
        for block in self._blocks:
            samples = block if self._most is None else block[: self._most - self.n_samples]
            self.is_cut = self.is_cut or len(samples) < len(block)
            if not len(samples):
                continue
            self.n_samples += len(samples)
            if self._stated is not None and self.n_samples > self._stated + 1:  # resampling may round up
                self.n_beyond_header = self.n_samples - self._stated
            if samples.max() > 1.0 or samples.min() < -1.0:
                self.n_clipped += int(np.count_nonzero(np.abs(samples) > 1.0))
                np.clip(samples, -1.0, 1.0, out=samples)
            yield samples
        if not self.n_samples:
            raise DataError(f"{self._name}: holds less than one sample at {self.sample_rate} Hz; remove the file")


def load_waveform(
    path: Path,
    *,
    sample_rate: int,
    start: float | None = None,
    duration: float | None = None,
    limit: float | None = None,
) -> Waveform:
    """Decode a file, average its channels, resample it and clip it to [-1, 1].

    Args:
        path: Any format of libsndfile (WAV, FLAC, Ogg Vorbis, Opus, MP3, ...), and with the extra `av` m4a, mkv, ...
        sample_rate: Sample rate of the result in Hz.
        start: Start in seconds; None for the start of the file.
        duration: Length in seconds, which the file must have; None for everything after `start`.
        limit: Maximum length of the result in seconds; bounds the memory.

    Raises:
        DataError: If the file is missing, unreadable, empty or truncated, or holds NaN or infinite samples.
    """
    _require_audio_file(path)
    return _load(path, str(path), sample_rate, Span(start or 0.0, duration, limit))


def load_encoded(content: bytes, name: str, *, sample_rate: int, limit: float | None = None) -> Waveform:
    """Decode the bytes of an audio file as `load_waveform` does; `name` is used in messages."""
    return _load(content, name, sample_rate, Span(limit=limit))


@contextmanager
def waveform_stream(path: Path, *, sample_rate: int) -> Iterator[WaveformStream]:
    """Open a file whose waveform is decoded as its blocks are read, in memory that does not depend on its length.

    Args:
        path: As in `load_waveform`.
        sample_rate: Sample rate of the blocks in Hz.

    Raises:
        DataError: If the file is missing, unreadable or found to be truncated; the stream raises what is found later.
    """
    _require_audio_file(path)
    with _opened(path, str(path), sample_rate, Span()) as stream:
        yield stream


def _require_audio_file(path: Path) -> None:
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
    """Yield the mono mix of each block; at the end, raise if any sample was NaN or infinite."""
    n_frames = n_bad = 0
    for frames in blocks:
        mono = mix_to_mono(frames)
        n_frames += len(mono)
        with np.errstate(over="ignore", invalid="ignore"):
            is_suspect = not np.isfinite(mono.sum())
        n_bad += int(np.count_nonzero(~np.isfinite(mono))) if is_suspect else 0
        if not n_bad:
            yield mono
    if n_bad:
        raise DataError(f"{name}: {n_bad} of {n_frames} samples are NaN or infinite; repair or remove the file")
