"""Files and bytes of every format -> samples, or the reason why not all of them are there.

Decoding is libsndfile's, and FFmpeg's for what libsndfile cannot open (`epanns.audio.ffmpeg`); files that were cut
without a decoder noticing are found by `epanns.audio.container`, `epanns.audio.mp3` and the lengths that are promised.
"""

import io
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from epanns.audio.container import foreign_container, truncation
from epanns.audio.mp3 import read_mp3
from epanns.errors import DataError

if TYPE_CHECKING:
    import soundfile

Frames = NDArray[np.float32]
_BLOCK_VALUES = 1 << 22  # 16 MB
_LENGTH_TOLERANCE_SECONDS = 0.05  # lossy encoders pad and trim by up to two frames of about 26 ms


@dataclass(frozen=True)
class Span:
    """A part of a sound.

    Attributes:
        start: Where it begins, in seconds.
        duration: Seconds that must be there; None for all that follows `start`.
        limit: Seconds after which decoding may stop, however long the sound; bounds the memory.
    """

    start: float = 0.0
    duration: float | None = None
    limit: float | None = None

    def frames(self, rate: int) -> int | None:
        """Return how many frames to decode at most; None for all."""
        bounds = [seconds for seconds in (self.duration, self.limit) if seconds is not None]
        return round(min(bounds) * rate) if bounds else None


@dataclass(frozen=True)
class Decoded:
    """What a decoder made of a span.

    Attributes:
        frames: ``(frames, channels)`` float32.
        rate: In Hz.
        promised: Frames from the span's start on, as the file's header says; None where it does not.
    """

    frames: Frames
    rate: int
    promised: int | None


def decode(source: Path | bytes, name: str, span: Span) -> tuple[Frames, int]:
    """Return ``(frames, channels)`` and the sample rate; refuse what is not wholly there.

    Args:
        source: A file, or its bytes.
        name: Stands for the file in messages.
        span: What to decode.

    Raises:
        DataError: If it cannot be decoded, is empty or was cut short.
    """
    try:
        with _opened(source) as raw:
            container = foreign_container(raw)
            raw.seek(0)
            cut = truncation(raw)
            raw.seek(0)
            mp3 = read_mp3(raw)
        if mp3 is not None:
            source, cut = mp3.content, mp3.truncation
        if container is None:
            decoded = _decode_with_libsndfile(source, name, span, is_cut=cut is not None)
        else:
            from epanns.audio.ffmpeg import decode_with_ffmpeg

            decoded = decode_with_ffmpeg(source, name, span, container)
    except (OSError, RuntimeError, TypeError, ValueError) as error:  # the third for files that are called NAME.raw
        raise DataError(f"{name}: cannot be decoded ({error}); convert it to WAV or FLAC, or remove it") from error
    if cut is not None:
        raise DataError(f"{name}: {cut}; fetch the file again")
    _refuse_short(decoded, name, span)
    return decoded.frames, decoded.rate


def _opened(source: Path | bytes) -> AbstractContextManager[BinaryIO]:
    return source.open("rb") if isinstance(source, Path) else io.BytesIO(source)


def _refuse_short(decoded: Decoded, name: str, span: Span) -> None:
    n_frames, rate = len(decoded.frames), decoded.rate
    if not n_frames:
        raise DataError(f"{name}: holds no samples; fetch the file again or remove it")
    promised = decoded.promised if span.duration is None else round(span.duration * rate)
    if promised is None:
        return
    most = span.frames(rate)
    wanted = promised if most is None else min(promised, most)
    if n_frames < wanted - _LENGTH_TOLERANCE_SECONDS * rate:
        promiser = "its header" if span.duration is None else "the manifest"
        raise DataError(
            f"{name}: truncated: {n_frames / rate:.2f} s where {promiser} promises {promised / rate:.2f} s; "
            "fetch the file again"
        )


def refuse_late_start(name: str, span: Span, seconds: float) -> None:
    """Raise unless a sound of so many seconds reaches the span."""
    if span.start >= seconds > 0:
        raise DataError(f"{name}: start {span.start:g} s lies past its end at {seconds:g} s")


def _decode_with_libsndfile(source: Path | bytes, name: str, span: Span, *, is_cut: bool) -> Decoded:
    import soundfile

    with soundfile.SoundFile(source if isinstance(source, Path) else io.BytesIO(source)) as file:
        rate: int = file.samplerate
        first = round(span.start * rate)
        if not is_cut:  # a cut file's length is not its own
            refuse_late_start(name, span, file.frames / rate)
        file.seek(min(first, file.frames))
        held = max(0, file.frames - first)
        most = span.frames(rate)
        return Decoded(_read_frames(file, held if most is None else most), rate, held)


def _read_frames(file: "soundfile.SoundFile", wanted: int) -> Frames:
    """Read block by block, so that a header that lies about its length cannot ask for all memory."""
    most = max(1, _BLOCK_VALUES // file.channels)
    blocks: list[Frames] = []
    missing = wanted
    while missing > 0:
        block: Frames = file.read(min(missing, most), dtype="float32", always_2d=True)
        if not len(block):
            break
        blocks.append(block)
        missing -= len(block)
    if len(blocks) == 1:
        return blocks[0]
    return np.concatenate([np.empty((0, file.channels), np.float32), *blocks])
