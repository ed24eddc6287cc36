"""Sound decoded by libsndfile, read forward only, also where the header states another length than the file has."""

import io
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import soundfile

from epanns.audio.container import SoundBytes
from epanns.audio.sound import Frames, Sound, Span, in_span, refuse_late_start
from epanns.audio.spliced import Spliced

_BLOCK_VALUES = 1 << 18  # 1 MB
_RUN_UP_SECONDS = 1.0  # decoded before a start: after a seek, up to 0.4 s of an MP3 are wrong
_UNKNOWN_FRAMES = 1 << 62  # libsndfile's number of frames of a FLAC file that does not state it
# Containers and codecs whose length libsndfile takes from the file's size.
_WITHOUT_LENGTH = frozenset({"IRCAM", "PAF", "PVF", "SD2", "XI", "MPEG_LAYER_I", "MPEG_LAYER_II"})
# Encodings whose samples stand alone, so that bytes beyond the stated length can be read too; bytes of a sample. FLAC's
# blocks, which stand alone as well, go by the same names.
_SAMPLE_BYTES = {"PCM_S8": 1, "PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8} | {
    "ULAW": 1,
    "ALAW": 1,
}


class _ForwardFile(soundfile.SoundFile):  # type: ignore[misc]
    """A file that soundfile does not seek in after each read: some codecs cannot, and none has to."""

    def seekable(self) -> bool:
        """Return False."""
        return False

    def blocks_of_frames(self, done: int) -> Iterator[Frames]:
        """Yield ``(frames, channels)`` up to the end, where `done` frames come before."""
        most = max(1, _BLOCK_VALUES // self.channels)
        missing = self.frames - done
        while missing > 0:
            block: Frames = self.read(min(missing, most), dtype="float32", always_2d=True)
            if not len(block):
                return
            missing -= len(block)
            yield block


@dataclass(frozen=True)
class _Opener:
    """A file and how soundfile opens it: as it is, or its sound as bare samples.

    Attributes:
        source: A path, or an open file.
        how: Keyword arguments of `soundfile.SoundFile`.
    """

    source: Path | BinaryIO
    how: dict[str, Any] = field(default_factory=dict)

    def open(self, stack: ExitStack) -> _ForwardFile:
        """Open the file at its first frame."""
        source: bytes | BinaryIO
        if isinstance(self.source, Path):
            source = os.fsencode(self.source)  # a name need not be UTF-8
        else:
            source = self.source
            source.seek(0)
        file = _ForwardFile(source, **self.how)
        stack.callback(file.close)
        return file


def open_with_libsndfile(
    stack: ExitStack, source: Path | BinaryIO, name: str, span: Span, sound: SoundBytes | None = None
) -> Sound:
    """Open a span of a file.

    Args:
        stack: Closes the file.
        source: A path, or an open file.
        name: Name of the file in messages.
        span: The part of it. Codecs in which libsndfile cannot seek are decoded from the beginning.
        sound: Place of the sound in the file, if the container states it.

    Raises:
        DataError: If the span begins after the end.
        RuntimeError, OSError, TypeError, ValueError: If libsndfile cannot open the file.
    """
    opener, file = _opened(stack, source, sound)
    stated: int | None = file.frames
    if sound is None:
        is_guessed = not {file.format, file.subtype}.isdisjoint(_WITHOUT_LENGTH)
        stated = None if is_guessed or file.frames >= _UNKNOWN_FRAMES else file.frames
    elif sound.differs:
        stated = None if sound.stated is None else file.frames * sound.stated // max(1, sound.stop - sound.start)
    rate: int = file.samplerate
    if file.frames < _UNKNOWN_FRAMES:
        refuse_late_start(name, span, file.frames / rate)
    first = min(round(span.start * rate), file.frames)
    run_up = 0 if file.subtype in _SAMPLE_BYTES else round(_RUN_UP_SECONDS * rate)
    place = max(0, first - run_up)
    try:
        file.seek(place)
    except soundfile.LibsndfileError:
        file = opener.open(stack)
        place = 0
    blocks = in_span(file.blocks_of_frames(place), span, rate, name, place=place)
    return Sound(rate, None if stated is None else max(0, stated - first), blocks)


def _opened(stack: ExitStack, source: Path | BinaryIO, sound: SoundBytes | None) -> tuple[_Opener, _ForwardFile]:
    """Open all sound of a file, by its own header where libsndfile reads that: metadata can lead it astray."""
    opener = _Opener(source)
    if sound is None:
        return opener, opener.open(stack)
    if not sound.differs:
        try:
            file = opener.open(stack)
        except soundfile.LibsndfileError:
            if not sound.wav_head:
                raise
        else:
            n_bytes = _SAMPLE_BYTES.get(file.subtype, 0) * file.channels
            if not (sound.wav_head and n_bytes) or file.frames == (sound.stop - sound.start) // n_bytes:
                return opener, file
    opener = _all_of(stack, source, sound)
    return opener, opener.open(stack)


def _all_of(stack: ExitStack, source: Path | BinaryIO, sound: SoundBytes) -> _Opener:
    """Return how all bytes of a sound are read where libsndfile, by the file's own header, would not."""
    raw = stack.enter_context(source.open("rb")) if isinstance(source, Path) else source
    size = raw.seek(0, io.SEEK_END)
    true_length: _Opener = _Opener(source)
    if sound.wav_head:
        length = min(sound.stop - sound.start, 0xFFFF_FFFF).to_bytes(4, sound.byteorder)
        true_length = _Opener(_spliced(raw, [sound.wav_head + length, (sound.start, sound.stop)]))
    elif sound.size_place is not None:
        place, n_bytes, n_uncounted = sound.size_place
        longest = (1 << 8 * n_bytes) - 1
        length = min(sound.stop - sound.start + n_uncounted, longest).to_bytes(n_bytes, sound.byteorder)
        true_length = _Opener(_spliced(raw, [(0, place), length, (place + n_bytes, size)]))
    with ExitStack() as closing:
        file = true_length.open(closing)
        n_bytes = _SAMPLE_BYTES.get(file.subtype, 0) * file.channels
        if not n_bytes:
            return true_length
        endian = sound.byteorder.upper() if file.endian == "FILE" else file.endian
        how = {"format": "RAW", "subtype": file.subtype, "endian": endian}
        how |= {"channels": file.channels, "samplerate": file.samplerate}
    stop = sound.stop - (sound.stop - sound.start) % n_bytes
    return _Opener(_spliced(raw, [(sound.start, stop)]), how)


def _spliced(raw: BinaryIO, pieces: list[bytes | tuple[int, int]]) -> BinaryIO:
    return cast(BinaryIO, Spliced(raw, pieces))
