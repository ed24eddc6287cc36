"""What is decoded of a file, and what a decoder gives back: blocks of frames and the length that the header states."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from epanns.errors import DataError

Frames = NDArray[np.float32]


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
class Sound:
    """A span of an open file, decoded as its blocks are read.

    Attributes:
        rate: In Hz.
        stated: Frames from the span's start on by the file's header; None where the header does not state a length.
        blocks: ``(frames, channels)`` float32, one after the other; at most a few megabytes each.
        is_counted: Whether `stated` is a count of the frames in a file whose header does not state a length.
    """

    rate: int
    stated: int | None
    blocks: Iterator[Frames]
    is_counted: bool = False


def refuse_late_start(name: str, span: Span, seconds: float) -> None:
    """Raise unless a sound of so many seconds reaches the span."""
    if span.start >= seconds > 0:
        raise DataError(f"{name}: start {span.start:g} s lies past its end at {seconds:g} s")


def in_span(
    blocks: Iterator[Frames], span: Span, rate: int, name: str, *, place: int = 0, stated: int | None = None
) -> Iterator[Frames]:
    """Yield the frames of a span.

    Args:
        blocks: What a decoder gives.
        span: The part that is wanted.
        rate: Frames in a second.
        name: Name of the file in messages.
        place: Number of the first frame of the blocks.
        stated: Frames of the span after which there is only padding; None for none.

    Raises:
        DataError: If the blocks end before the span begins.
    """
    first = round(span.start * rate)
    bounds = [frames for frames in (span.frames(rate), stated) if frames is not None]
    missing = min(bounds) if bounds else None
    for block in blocks:
        kept = block[max(0, first - place) :][:missing]
        place += len(block)
        if missing is not None:
            missing -= len(kept)
        if len(kept):
            yield kept
        if missing == 0:
            return
    if place <= first:
        refuse_late_start(name, span, place / rate)
