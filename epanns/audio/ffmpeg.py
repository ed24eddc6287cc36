"""Decode containers that libsndfile cannot open, with FFmpeg through PyAV, which the extra `av` installs."""

import itertools
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from epanns.errors import DataError
from epanns.packages import install_command

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer


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
