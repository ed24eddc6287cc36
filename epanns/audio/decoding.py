"""Files and bytes of every format -> samples, or the reason why not all of them are there.

Decoding is libsndfile's (`epanns.audio.libsndfile`), and FFmpeg's for what libsndfile cannot open
(`epanns.audio.ffmpeg`); files that were cut without a decoder noticing are found by `epanns.audio.container`,
`epanns.audio.mp3` and the lengths that are stated.
"""

import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, cast

from epanns.audio.container import DamagedFile, foreign_container, refuse_damaged_ogg, sound_bytes
from epanns.audio.flac import understated_total
from epanns.audio.mp3 import Mp3, read_mp3
from epanns.audio.sound import Frames, Sound, Span
from epanns.audio.spliced import Spliced
from epanns.errors import DataError

_LENGTH_TOLERANCE_SECONDS = 0.05  # lossy encoders pad and trim by up to two frames of about 26 ms


@contextmanager
def opened_sound(source: Path | bytes, name: str, span: Span) -> Iterator[Sound]:
    """Open a span of a file, or of its bytes; its blocks refuse what is not wholly there.

    Args:
        source: A file, or its bytes.
        name: Name of the file in messages.
        span: What to decode.

    Raises:
        DataError: If it cannot be decoded, is empty or was cut short; also while the blocks are read.
    """
    with ExitStack() as stack:
        with _decoder_errors(name):
            sound = _opened(stack, source, name, span)
        yield replace(sound, blocks=_checked(sound, name, span))


def _opened(stack: ExitStack, source: Path | bytes, name: str, span: Span) -> Sound:
    from epanns.audio.ffmpeg import open_with_ffmpeg
    from epanns.audio.libsndfile import open_with_libsndfile

    raw: BinaryIO = stack.enter_context(source.open("rb")) if isinstance(source, Path) else io.BytesIO(source)
    readable = source if isinstance(source, Path) else raw  # libraries read a path themselves, and faster
    container = foreign_container(raw)
    raw.seek(0)
    if container is not None:
        return open_with_ffmpeg(stack, readable, name, span, container)
    refuse_damaged_ogg(raw)
    raw.seek(0)
    flac = understated_total(raw)
    if flac is not None:
        total, pieces = flac
        sound = open_with_libsndfile(stack, cast(BinaryIO, Spliced(raw, pieces)), name, span)
        return replace(sound, stated=max(0, total - round(span.start * sound.rate)))
    raw.seek(0)
    mp3 = read_mp3(raw)
    if mp3 is not None:
        if mp3.truncation is not None:
            raise DamagedFile(f"{mp3.truncation}; fetch the file again")
        return _as_stated(open_with_libsndfile(stack, cast(BinaryIO, Spliced(raw, mp3.pieces)), name, span), mp3, span)
    raw.seek(0)
    place = sound_bytes(raw)
    if not isinstance(readable, Path):
        readable = cast(BinaryIO, Spliced(raw, [(0, raw.seek(0, io.SEEK_END))]))  # libsndfile seeks to -1, too
    return open_with_libsndfile(stack, readable, name, span, place)


def _as_stated(sound: Sound, mp3: Mp3, span: Span) -> Sound:
    """Return an MP3's sound, which was opened with a count of all its frames, with the length that its own note states.

    A sound without a note keeps the count.
    """
    if mp3.stated is None or sound.stated is None:
        return replace(sound, is_counted=True)
    first = round(span.start * sound.rate)
    return replace(sound, stated=max(0, int((sound.stated + first) * mp3.stated) - first))


def _checked(sound: Sound, name: str, span: Span) -> Iterator[Frames]:
    n_frames = 0
    while True:
        with _decoder_errors(name):
            block = next(sound.blocks, None)
        if block is None:
            break
        n_frames += len(block)
        yield block
    _refuse_short(n_frames, sound, name, span)


@contextmanager
def _decoder_errors(name: str) -> Iterator[None]:
    """Turn what decoders raise into a `DataError` that names the file."""
    try:
        yield
    except DamagedFile as error:
        raise DataError(f"{name}: {error}") from error
    except (OSError, RuntimeError, TypeError, ValueError) as error:  # the third for files that are called NAME.raw
        cause = getattr(error, "error_string", error)  # libsndfile's, without the name of the file
        raise DataError(f"{name}: cannot be decoded ({cause}); convert it to WAV or FLAC, or remove it") from error


def _refuse_short(n_frames: int, sound: Sound, name: str, span: Span) -> None:
    rate = sound.rate
    if not n_frames:
        raise DataError(f"{name}: holds no samples; fetch the file again or remove it")
    promised = sound.stated if span.duration is None else round(span.duration * rate)
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
