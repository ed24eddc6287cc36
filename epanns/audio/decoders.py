"""Decode files with libsndfile, also where the header states another length than the file has, or else with FFmpeg.

FFmpeg, through PyAV, which the extra `av` installs, decodes the containers that libsndfile cannot open.
"""

import io
import itertools
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, cast

import numpy as np
import soundfile
from numpy.typing import NDArray

from epanns.audio.containers import SoundBytes
from epanns.errors import DataError
from epanns.packages import install_command

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer

_BLOCK_VALUES = 1 << 18  # 1 MB
_RUN_UP_SECONDS = 1.0  # decoded before a start: after a seek, up to 0.4 s of an MP3 are wrong
_UNKNOWN_FRAMES = 1 << 62  # libsndfile's number of frames of a FLAC file that does not state it
# Containers and codecs whose length libsndfile computes from the file's size.
_WITHOUT_LENGTH = frozenset({"IRCAM", "PAF", "PVF", "SD2", "XI", "MPEG_LAYER_I", "MPEG_LAYER_II"})
# Encodings of independent samples, so that bytes beyond the stated length can be decoded; bytes of a sample. FLAC,
# whose blocks are independent too, has the same names.
_SAMPLE_BYTES = {"PCM_S8": 1, "PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8}
_SAMPLE_BYTES |= {"ULAW": 1, "ALAW": 1}


class OpenedFile(NamedTuple):
    """A file opened by libsndfile.

    Attributes:
        rate: Sample rate in Hz.
        stated: Frames by the file's header; None if the header does not state a length.
        n_frames: Frames that libsndfile counts; None if it cannot.
        first: Number of the first frame of `blocks`, at or before the requested start.
        blocks: ``(frames, channels)`` float32, to the end of the file.
    """

    rate: int
    stated: int | None
    n_frames: int | None
    first: int
    blocks: Iterator[NDArray[np.float32]]


def spliced(file: BinaryIO, pieces: list[bytes | tuple[int, int]]) -> BinaryIO:
    """Return a file made of ranges ``(start, stop)`` of another file and of bytes in place of wrong length fields."""
    return cast(BinaryIO, _Splice(file, pieces))


class _Splice(io.RawIOBase):
    def __init__(self, file: BinaryIO, pieces: list[bytes | tuple[int, int]]) -> None:
        super().__init__()
        self._file, self._pieces = file, pieces
        self._lengths = [len(piece) if isinstance(piece, bytes) else piece[1] - piece[0] for piece in pieces]
        self._place = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position of the next byte."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position and return it."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: sum(self._lengths)}[whence]
        self._place = max(0, base + offset)
        return self._place

    def readinto(self, buffer: object) -> int:
        """Fill a buffer as far as possible and return the number of bytes."""
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        filled, begin = 0, 0
        for piece, length in zip(self._pieces, self._lengths, strict=True):
            skipped = self._place - begin
            begin += length
            if not 0 <= skipped < length or filled == len(view):
                continue
            wanted = min(length - skipped, len(view) - filled)
            if isinstance(piece, bytes):
                content = piece[skipped : skipped + wanted]
            else:
                self._file.seek(piece[0] + skipped)
                content = self._file.read(wanted)
            view[filled : filled + len(content)] = content
            filled += len(content)
            self._place += len(content)
        return filled


class _ForwardFile(soundfile.SoundFile):  # type: ignore[misc]
    """A file in which soundfile does not seek after each read: some codecs cannot seek."""

    def seekable(self) -> bool:
        """Return False."""
        return False

    def blocks_of_frames(self, first: int) -> Iterator[NDArray[np.float32]]:
        """Yield ``(frames, channels)`` up to the end; `first` is the number of the next frame."""
        most = max(1, _BLOCK_VALUES // self.channels)
        missing = self.frames - first
        while missing > 0:
            block: NDArray[np.float32] = self.read(min(missing, most), dtype="float32", always_2d=True)
            if not len(block):
                return
            missing -= len(block)
            yield block


class _Source(NamedTuple):
    """A file and the keyword arguments with which soundfile opens it."""

    file: Path | BinaryIO
    how: dict[str, Any]

    def open(self, stack: ExitStack) -> _ForwardFile:
        """Open the file at its first frame."""
        source: bytes | BinaryIO
        if isinstance(self.file, Path):
            source = os.fsencode(self.file)  # a name need not be UTF-8
        else:
            source = self.file
            source.seek(0)
        opened = _ForwardFile(source, **self.how)
        stack.callback(opened.close)
        return opened


def open_with_libsndfile(
    stack: ExitStack, file: Path | BinaryIO, start: float, sound: SoundBytes | None = None
) -> OpenedFile:
    """Open a file at or before a start; codecs in which libsndfile cannot seek are decoded from the beginning.

    Args:
        stack: Closes the file.
        file: A path, or an open file.
        start: In seconds.
        sound: Place of the sound in the file, if the container states it.

    Raises:
        RuntimeError, OSError, TypeError, ValueError: If libsndfile cannot open the file.
    """
    source, opened = _open_sound(stack, file, sound)
    stated: int | None = opened.frames
    if sound is None:
        is_guessed = not {opened.format, opened.subtype}.isdisjoint(_WITHOUT_LENGTH)
        stated = None if is_guessed or opened.frames >= _UNKNOWN_FRAMES else opened.frames
    elif sound.differs:
        stated = None if sound.stated is None else opened.frames * sound.stated // max(1, sound.stop - sound.start)
    rate: int = opened.samplerate
    n_frames = None if opened.frames >= _UNKNOWN_FRAMES else opened.frames
    run_up = 0 if opened.subtype in _SAMPLE_BYTES else round(_RUN_UP_SECONDS * rate)
    first = max(0, min(round(start * rate), opened.frames) - run_up)
    try:
        opened.seek(first)
    except soundfile.LibsndfileError:
        opened, first = source.open(stack), 0
    return OpenedFile(rate, stated, n_frames, first, opened.blocks_of_frames(first))


def _open_sound(stack: ExitStack, file: Path | BinaryIO, sound: SoundBytes | None) -> tuple[_Source, _ForwardFile]:
    """Open all sound of a file, by its own header if libsndfile reads that right: some metadata mislead it."""
    source = _Source(file, {})
    if sound is None:
        return source, source.open(stack)
    if not sound.differs:
        try:
            opened = source.open(stack)
        except soundfile.LibsndfileError:
            if not sound.wav_head:
                raise
        else:
            n_bytes = _SAMPLE_BYTES.get(opened.subtype, 0) * opened.channels
            if not (sound.wav_head and n_bytes) or opened.frames == (sound.stop - sound.start) // n_bytes:
                return source, opened
    source = _source_of_all_bytes(stack, file, sound)
    return source, source.open(stack)


def _source_of_all_bytes(stack: ExitStack, file: Path | BinaryIO, sound: SoundBytes) -> _Source:
    """Return a source with a corrected header, or of bare samples, from which libsndfile reads the whole sound."""
    raw = stack.enter_context(file.open("rb")) if isinstance(file, Path) else file
    size = raw.seek(0, io.SEEK_END)
    corrected = _Source(file, {})
    if sound.wav_head:
        length = min(sound.stop - sound.start, 0xFFFF_FFFF).to_bytes(4, sound.byteorder)
        corrected = _Source(spliced(raw, [sound.wav_head + length, (sound.start, sound.stop)]), {})
    elif sound.size_place is not None:
        place, n_bytes, n_uncounted = sound.size_place
        longest = (1 << 8 * n_bytes) - 1
        length = min(sound.stop - sound.start + n_uncounted, longest).to_bytes(n_bytes, sound.byteorder)
        corrected = _Source(spliced(raw, [(0, place), length, (place + n_bytes, size)]), {})
    with ExitStack() as closing:
        opened = corrected.open(closing)
        n_bytes = _SAMPLE_BYTES.get(opened.subtype, 0) * opened.channels
        if not n_bytes:
            return corrected
        endian = sound.byteorder.upper() if opened.endian == "FILE" else opened.endian
        how = {"format": "RAW", "subtype": opened.subtype, "endian": endian}
        how |= {"channels": opened.channels, "samplerate": opened.samplerate}
    stop = sound.stop - (sound.stop - sound.start) % n_bytes
    return _Source(spliced(raw, [(sound.start, stop)]), how)


@dataclass(frozen=True)
class ForeignContainer:
    """A kind of file that libsndfile cannot open.

    Attributes:
        name: Name in messages.
        demuxer: FFmpeg's name. FFmpeg must not guess it: some of its formats are lists of other files to open.
        states_length: Whether such files state their length; FFmpeg guesses other lengths from the bit rate.
    """

    name: str
    demuxer: str
    states_length: bool


_FOREIGN = {  # pattern of a file's first bytes -> its kind
    rb"(?s)....(ftyp|moov|mdat|wide|free|skip)": ForeignContainer("MP4 (m4a, mov)", "mov", states_length=True),
    rb"\x1aE\xdf\xa3": ForeignContainer("Matroska (mkv, webm)", "matroska", states_length=True),
    rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11": ForeignContainer("ASF (wma)", "asf", states_length=True),
    # An MP3 frame has its layer in the bits that are zero here.
    rb"\xff[\xf0\xf1\xf8\xf9]": ForeignContainer("AAC", "aac", states_length=False),
    rb"#!AMR": ForeignContainer("AMR", "amr", states_length=False),
}


def foreign_container(file: BinaryIO) -> ForeignContainer | None:
    """Return the kind of a file that libsndfile cannot open, or None for all other files."""
    file.seek(0)
    head = file.read(12)
    file.seek(0)
    return next((container for beginning, container in _FOREIGN.items() if re.match(beginning, head)), None)


def open_with_ffmpeg(
    stack: ExitStack, source: Path | BinaryIO, name: str, container: ForeignContainer
) -> tuple[int, float | None, Iterator[NDArray[np.float32]]]:
    """Open the first audio stream of a file at its start: seeking is not exact in these containers.

    Args:
        stack: Closes the file.
        source: A path, or an open file.
        name: Name of the file in messages.
        container: Kind of the file.

    Returns:
        Sample rate in Hz, length in seconds that the file states (None for no length), and blocks of
        ``(frames, channels)`` float32.

    Raises:
        DataError: If PyAV is missing, or the file has no audio stream.
        ValueError, OSError: If it cannot be decoded; also while the blocks are read.
    """
    try:
        import av
    except ImportError as error:
        raise DataError(
            f"{name}: {container.name} needs PyAV: {install_command('av')}; or convert it to WAV or FLAC"
        ) from error

    def decoded() -> Iterator[tuple[NDArray[np.float32], int]]:
        """Yield blocks of ``(frames, channels)`` with their sample rate; raise if the rate or the channels change."""
        kind: tuple[int, int] | None = None
        to_float = av.AudioResampler(format="fltp")
        with _ffmpeg_errors():
            for frame in itertools.chain(opened.decode(stream), [None]):  # None flushes the converter
                for block in to_float.resample(frame):
                    frames = np.asarray(block.to_ndarray(), np.float32).T
                    kind = kind or (block.sample_rate, frames.shape[1])
                    if kind != (block.sample_rate, frames.shape[1]):
                        raise ValueError("its sample rate or number of channels changes within the file")
                    yield frames, block.sample_rate

    with _ffmpeg_errors():
        readable = str(source) if isinstance(source, Path) else source
        opened = stack.enter_context(av.open(readable, "r", format=container.demuxer))
        if not opened.streams.audio:
            raise DataError(f"{name}: {container.name} without an audio stream; remove it")
        stream = opened.streams.audio[0]
        seconds = _stated_seconds(opened, stream) if container.states_length else None
        blocks = decoded()
        first = next(blocks, None)
    if first is None:
        return 1, None, iter(())
    return first[1], seconds, (block for block, _ in itertools.chain([first], blocks))


@contextmanager
def _ffmpeg_errors() -> Iterator[None]:
    import av

    try:
        yield
    except av.error.FFmpegError as error:
        raise ValueError(error.strerror or str(error)) from error


def _stated_seconds(opened: "InputContainer", stream: "AudioStream") -> float | None:
    """Return the length of the audio that the container states, or None."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    hours, _, rest = stream.metadata.get("DURATION", "").partition(":")
    minutes, _, seconds = rest.partition(":")
    if hours and minutes and seconds:
        return 3600 * float(hours) + 60 * float(minutes) + float(seconds)
    only_sound = len(opened.streams) == 1  # a video may be longer than its sound
    return opened.duration / 1_000_000 if opened.duration is not None and only_sound else None
