"""Sound in containers that libsndfile cannot open, decoded by FFmpeg through PyAV, which the extra `av` installs."""

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from epanns.audio.container import ForeignContainer
from epanns.audio.sound import Frames, Sound, Span, in_span, refuse_late_start
from epanns.errors import DataError
from epanns.packages import install_command

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer


def open_with_ffmpeg(
    stack: ExitStack, source: Path | BinaryIO, name: str, span: Span, container: ForeignContainer
) -> Sound:
    """Open a span of the first audio stream of a file.

    Args:
        stack: Closes the file.
        source: A path, or an open file.
        name: Name of the file in messages.
        span: The part of it. All that comes before is decoded too: seeking is not exact in these containers.
        container: Its kind.

    Raises:
        DataError: If PyAV is missing, or there is no sound in it.
        ValueError, OSError: If it cannot be decoded; also while the blocks are read.
    """
    try:
        import av
    except ImportError as error:
        raise DataError(
            f"{name}: {container.name} needs PyAV: {install_command('av')}; or convert it to WAV or FLAC"
        ) from error

    with _ffmpeg_errors():
        readable = str(source) if isinstance(source, Path) else source
        opened = stack.enter_context(av.open(readable, "r", format=container.demuxer))
        if not opened.streams.audio:
            raise DataError(f"{name}: {container.name} without an audio stream; remove it")
        stream = opened.streams.audio[0]
        seconds = _promised_seconds(opened, stream) if container.says_its_length else None
        blocks = _blocks_of(opened, stream)
        first_block = next(blocks, None)
    if first_block is None:
        return Sound(1, None, iter(()))
    rate = first_block[1]
    stated = None
    if seconds is not None:
        refuse_late_start(name, span, seconds)
        stated = round((seconds - span.start) * rate)
    frames = _uniform(itertools.chain([first_block], blocks))
    return Sound(rate, stated, in_span(frames, span, rate, name, stated=stated))


def _blocks_of(opened: "InputContainer", stream: "AudioStream") -> Iterator[tuple[Frames, int]]:
    """Yield ``(frames, channels)`` and their rate."""
    import av

    to_float = av.AudioResampler(format="fltp")
    for frame in itertools.chain(opened.decode(stream), [None]):  # None asks for what the converter still holds
        for block in to_float.resample(frame):
            yield np.asarray(block.to_ndarray(), np.float32).T, block.sample_rate


def _uniform(blocks: Iterator[tuple[Frames, int]]) -> Iterator[Frames]:
    """Yield the frames of blocks that must all have one rate and one number of channels."""
    rate = channels = 0
    with _ffmpeg_errors():
        for block, block_rate in blocks:
            rate, channels = rate or block_rate, channels or block.shape[1]
            if block_rate != rate or block.shape[1] != channels:
                raise ValueError("its sample rate or its channels change on the way")
            yield block


@contextmanager
def _ffmpeg_errors() -> Iterator[None]:
    import av

    try:
        yield
    except av.error.FFmpegError as error:
        raise ValueError(error.strerror or str(error)) from error


def _promised_seconds(opened: "InputContainer", stream: "AudioStream") -> float | None:
    """Return how long the container says that its sound is, or None where it does not."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    hours, _, rest = stream.metadata.get("DURATION", "").partition(":")
    minutes, _, seconds = rest.partition(":")
    if hours and minutes and seconds:
        return 3600 * float(hours) + 60 * float(minutes) + float(seconds)
    only_sound = len(opened.streams) == 1  # a video may be longer than its sound
    return opened.duration / 1_000_000 if opened.duration is not None and only_sound else None
