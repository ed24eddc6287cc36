"""Decode files of every format to blocks of frames, and refuse files that are truncated or damaged.

libsndfile decodes most formats, FFmpeg the others (`epanns.audio.decoders`). Neither reports every truncated file: the
length that a file states and the length that it has are compared here. They are read by `epanns.audio.containers` and
`epanns.audio.compressed`.
"""

import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from epanns.audio.compressed import read_mp3, refuse_damaged_ogg, understated_total
from epanns.audio.containers import DamagedFile, sound_bytes
from epanns.errors import DataError

Frames = NDArray[np.float32]

_LENGTH_TOLERANCE_SECONDS = 0.05  # lossy encoders pad and trim by up to two frames of about 26 ms


@dataclass(frozen=True)
class Span:
    """A part of a sound.

    Attributes:
        start: Start in seconds.
        duration: Length in seconds, which the sound must have; None for everything after `start`.
        limit: Seconds after which decoding may stop; bounds the memory.
    """

    start: float = 0.0
    duration: float | None = None
    limit: float | None = None

    def frames(self, rate: int) -> int | None:
        """Return the maximum number of frames to decode; None for all."""
        bounds = [seconds for seconds in (self.duration, self.limit) if seconds is not None]
        return round(min(bounds) * rate) if bounds else None


@dataclass(frozen=True)
class Sound:
    """A span of an open file, decoded as its blocks are read.

    Attributes:
        rate: Sample rate in Hz.
        stated: Frames after the span's start by the file's header; None if the header does not state a length.
        blocks: ``(frames, channels)`` float32, in order; at most a few megabytes each.
        is_counted: Whether `stated` is a count of the frames of a file whose header does not state a length.
    """

    rate: int
    stated: int | None
    blocks: Iterator[Frames]
    is_counted: bool = False


@contextmanager
def opened_sound(source: Path | bytes, name: str, span: Span) -> Iterator[Sound]:
    """Open a span of a file; reading its blocks to the end raises if the file is truncated.

    Args:
        source: A file, or its bytes.
        name: Name of the file in messages.
        span: The part to decode.

    Raises:
        DataError: If it cannot be decoded, is empty or truncated; also while the blocks are read.
    """
    from epanns.audio.decoders import foreign_container, open_with_ffmpeg  # loads libsndfile, a shared library

    with ExitStack() as stack:
        with _decoder_errors(name):
            raw: BinaryIO = stack.enter_context(source.open("rb")) if isinstance(source, Path) else io.BytesIO(source)
            readable = source if isinstance(source, Path) else raw  # libraries read a path themselves, and faster
            if (container := foreign_container(raw)) is None:
                sound = _open_with_libsndfile(stack, raw, readable, name, span)
            else:
                rate, seconds, blocks = open_with_ffmpeg(stack, readable, name, container)
                stated = None
                if seconds is not None:
                    _refuse_late_start(name, span, seconds)
                    stated = round((seconds - span.start) * rate)  # the frames after them are padding
                sound = Sound(rate, stated, _blocks_in_span(blocks, span, rate, name, stated=stated))
        yield replace(sound, blocks=_checked_blocks(sound, name, span))


def _open_with_libsndfile(stack: ExitStack, raw: BinaryIO, readable: Path | BinaryIO, name: str, span: Span) -> Sound:
    from epanns.audio.decoders import open_with_libsndfile, spliced  # as above

    refuse_damaged_ogg(raw)
    stated: int | Fraction | None = None  # frames, or a share of the frames
    is_counted = False
    if flac := understated_total(raw):
        stated, pieces = flac
        opened = open_with_libsndfile(stack, spliced(raw, pieces), span.start)
    elif mp3 := read_mp3(raw):
        stated, is_counted = mp3.stated, mp3.stated is None
        opened = open_with_libsndfile(stack, spliced(raw, mp3.pieces), span.start)
    else:
        place = sound_bytes(raw)
        if not isinstance(readable, Path):
            readable = spliced(raw, [(0, raw.seek(0, io.SEEK_END))])  # libsndfile also seeks to -1
        opened = open_with_libsndfile(stack, readable, span.start, place)
    if opened.n_frames is not None:
        _refuse_late_start(name, span, opened.n_frames / opened.rate)
    if stated is None:
        stated = opened.stated
    elif isinstance(stated, Fraction):
        stated = None if opened.stated is None else int(opened.stated * stated)
    rest = None if stated is None else max(0, stated - round(span.start * opened.rate))
    blocks = _blocks_in_span(opened.blocks, span, opened.rate, name, first=opened.first)
    return Sound(opened.rate, rest, blocks, is_counted)


def _blocks_in_span(
    blocks: Iterator[Frames], span: Span, rate: int, name: str, *, first: int = 0, stated: int | None = None
) -> Iterator[Frames]:
    """Yield the frames of a span.

    Args:
        blocks: Decoded frames.
        span: The part to yield.
        rate: Sample rate in Hz.
        name: Name of the file in messages.
        first: Number of the first frame of the blocks.
        stated: Maximum number of frames to yield; None for no maximum.

    Raises:
        DataError: If the blocks end before the span starts.
    """
    start = round(span.start * rate)
    bounds = [frames for frames in (span.frames(rate), stated) if frames is not None]
    missing = min(bounds) if bounds else None
    for block in blocks:
        kept = block[max(0, start - first) :][:missing]
        first += len(block)
        if missing is not None:
            missing -= len(kept)
        if len(kept):
            yield kept
        if missing == 0:
            return
    if first <= start:
        _refuse_late_start(name, span, first / rate)


def _refuse_late_start(name: str, span: Span, seconds: float) -> None:
    if span.start >= seconds > 0:
        raise DataError(f"{name}: start {span.start:g} s is after its end at {seconds:g} s")


def _checked_blocks(sound: Sound, name: str, span: Span) -> Iterator[Frames]:
    """Yield the blocks, then raise if there are fewer frames than the header or the manifest states."""
    n_frames = 0
    while True:
        with _decoder_errors(name):
            block = next(sound.blocks, None)
        if block is None:
            break
        n_frames += len(block)
        yield block
    if not n_frames:
        raise DataError(f"{name}: holds no samples; fetch the file again or remove it")
    rate = sound.rate
    stated = sound.stated if span.duration is None else round(span.duration * rate)
    if stated is None:
        return
    most = span.frames(rate)
    wanted = stated if most is None else min(stated, most)
    if n_frames < wanted - _LENGTH_TOLERANCE_SECONDS * rate:
        by = "its header" if span.duration is None else "the manifest"
        raise DataError(
            f"{name}: truncated: {n_frames / rate:.2f} s where {by} promises {stated / rate:.2f} s; "
            "fetch the file again"
        )


@contextmanager
def _decoder_errors(name: str) -> Iterator[None]:
    """Convert the errors of decoders to a `DataError` with the file's name."""
    try:
        yield
    except DamagedFile as error:
        raise DataError(f"{name}: {error}") from error
    except (OSError, RuntimeError, TypeError, ValueError) as error:  # TypeError: a file with the suffix .raw
        cause = getattr(error, "error_string", error)  # libsndfile's, without the name of the file
        raise DataError(f"{name}: cannot be decoded ({cause}); convert it to WAV or FLAC, or remove it") from error
