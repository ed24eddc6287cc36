"""Sound in containers that libsndfile cannot open, decoded by FFmpeg through PyAV, which the extra `av` installs."""

import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from epanns.audio.container import ForeignContainer
from epanns.audio.decoding import Decoded, Frames, Span, refuse_late_start
from epanns.errors import DataError
from epanns.optional import install_command

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer


def decode_with_ffmpeg(source: Path | bytes, name: str, span: Span, container: ForeignContainer) -> Decoded:
    """Decode the first audio stream of a file, or of its bytes.

    Args:
        source: What to decode.
        name: Stands for the file in messages.
        span: The part of it. All that comes before is decoded too: seeking is not exact in these containers.
        container: Its kind.

    Raises:
        DataError: If PyAV is missing, or there is no sound in it.
        ValueError, OSError: If it cannot be decoded.
    """
    try:
        import av
    except ImportError as error:
        raise DataError(
            f"{name}: {container.name} needs PyAV: {install_command('av')}; or convert it to WAV or FLAC"
        ) from error

    try:
        readable = str(source) if isinstance(source, Path) else io.BytesIO(source)
        with av.open(readable, "r", format=container.demuxer) as opened:
            if not opened.streams.audio:
                raise DataError(f"{name}: {container.name} without an audio stream; remove it")
            stream = opened.streams.audio[0]
            seconds = _promised_seconds(opened, stream) if container.says_its_length else None
            frames, rate, n_skipped = _collect(_blocks_of(opened, stream), span)
    except av.error.FFmpegError as error:
        raise ValueError(error.strerror or str(error)) from error
    if not len(frames):
        refuse_late_start(name, span, n_skipped / rate if rate else 0.0)
    promised = None if seconds is None else max(0, round((seconds - span.start) * rate))
    return Decoded(frames[:promised], rate, promised)  # what follows is the encoder's padding


def _blocks_of(opened: "InputContainer", stream: "AudioStream") -> Iterator[tuple[Frames, int]]:
    """Yield ``(frames, channels)`` and their rate."""
    import av

    to_float = av.AudioResampler(format="fltp")
    for frame in itertools.chain(opened.decode(stream), [None]):  # None asks for what the converter still holds
        for block in to_float.resample(frame):
            yield np.asarray(block.to_ndarray(), np.float32).T, block.sample_rate


def _collect(blocks: Iterator[tuple[Frames, int]], span: Span) -> tuple[Frames, int, int]:
    """Return the span's frames, their rate, and how many came before them."""
    kept: list[Frames] = []
    n_kept = n_skipped = rate = 0
    for block, block_rate in blocks:
        rate = rate or block_rate
        if block_rate != rate or (kept and block.shape[1] != kept[0].shape[1]):
            raise ValueError("its sample rate or its channels change on the way")
        skipped = min(len(block), round(span.start * rate) - n_skipped)
        n_skipped += skipped
        kept.append(block[skipped:])
        n_kept += len(block) - skipped
        most = span.frames(rate)
        if most is not None and n_kept >= most:
            break
    if not kept:
        return np.empty((0, 1), np.float32), rate, n_skipped
    return np.concatenate(kept)[: span.frames(rate)], rate, n_skipped


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
