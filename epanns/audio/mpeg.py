"""The frames of an MP3 (MPEG-1, 2 and 2.5, layer III), counted by their headers; nothing is decoded."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

_KBPS_1 = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)  # MPEG-1 layer III
_KBPS_2 = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)  # MPEG-2 and 2.5
_RATES = (44_100, 48_000, 32_000)  # of MPEG-1; MPEG-2 has the halves, 2.5 the quarters
_VERSIONS = ((0xFA, 0, _KBPS_1, 144), (0xF2, 1, _KBPS_2, 72), (0xE2, 2, _KBPS_2, 72))
_SYNC = re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb]")
_ID3 = re.compile(rb"ID3[^\xff][^\xff]([\x00-\xff][\x00-\x7f]{4})", re.DOTALL)
_BLOCK = 1 << 16  # bytes
MONO = b"\xc0"  # a header's fourth byte, or more
_FIRST_SEARCH = 65_536  # bytes; what is no MP3 is not searched to its end


def _known_headers() -> dict[bytes, tuple[int, int]]:
    """Return the first three bytes of every frame header -> bytes of the frame, sample rate in Hz.

    Frames without a bit rate ("free format") do not say their length and are left out.
    """
    return {
        bytes((0xFF, second | unprotected, (index + 1) << 4 | code << 2 | padding << 1 | private)): (
            factor * kbps * 1000 // (rate >> halvings) + padding,
            rate >> halvings,
        )
        for second, halvings, table, factor in _VERSIONS
        for index, kbps in enumerate(table)
        for code, rate in enumerate(_RATES)
        for unprotected in (0, 1)
        for padding in (0, 1)
        for private in (0, 1)
    }


FRAME_HEADERS = _known_headers()


@dataclass(frozen=True)
class MpegFrames:
    """What the headers of an MP3's frames say.

    Attributes:
        start: Byte at which the first one begins.
        first: The first one.
        n_frames: Whole frames that are there, the first one included.
        is_cut: Whether the file ends inside a frame.
        is_uniform: Whether all frames have one sample rate and one number of channels.
    """

    start: int
    first: bytes
    n_frames: int
    is_cut: bool
    is_uniform: bool


class FileBytes:
    """The bytes of an open file, sliced like `bytes`; one block of them is in memory at a time."""

    def __init__(self, file: BinaryIO) -> None:
        """Read the length."""
        self._file, self._size = file, file.seek(0, 2)
        self._start, self._block = 0, b""

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        start, stop, _ = part.indices(self._size)
        if not self._start <= start <= stop <= self._start + len(self._block):
            self._file.seek(start)
            self._start, self._block = start, self._file.read(max(_BLOCK, stop - start))
        return self._block[start - self._start : max(start, stop) - self._start]


def mpeg_frames(content: FileBytes) -> MpegFrames | None:
    """Count the frames of an MP3, also after bytes that are none; None where there are no frames."""
    end = _end_of_frames(content)
    first = run = _next_run(content, 0, min(end, _after_id3(content, 0) + _FIRST_SEARCH), end)
    if first is None:
        return None
    kinds = set()
    n_frames = stop = 0
    while run is not None:
        start, n_in_run, stop = run
        kinds.add((FRAME_HEADERS[content[start : start + 3]][1], content[start + 3 : start + 4] >= MONO))
        n_frames += n_in_run
        run = _next_run(content, stop, end, end)
    start = first[0]
    length = FRAME_HEADERS[content[start : start + 3]][0]
    is_cut = end == len(content) and _begins_a_frame(content[stop : stop + 3])
    return MpegFrames(start, content[start : start + length], n_frames, is_cut, len(kinds) == 1)


def _next_run(content: FileBytes, position: int, last: int, end: int) -> tuple[int, int, int] | None:
    """Return the next run of frames: its first byte, its frames, the byte after it; it must begin before `last`.

    Two frames in step make a run, or one at the very end: less is found in pictures and other bytes by chance.
    """
    for place in _syncs(content, _after_id3(content, position), last):
        n_frames, stop = _follow(content, place, end)
        if n_frames > 1 or (n_frames == 1 and stop == end):
            return place, n_frames, stop
    return None


def _syncs(content: FileBytes, start: int, last: int) -> Iterator[int]:
    """Yield where the two bytes of `_SYNC` stand between two bytes of a file."""
    while start < last:
        block = content[start : min(start + _BLOCK, last)]
        yield from (start + match.start() for match in _SYNC.finditer(block))
        start += max(1, len(block) - 1)


def _follow(content: FileBytes, position: int, end: int) -> tuple[int, int]:
    """Count whole frames of one kind, each beginning where the one before ends; return where the last one ends too."""
    n_frames = 0
    header = FRAME_HEADERS.get(content[position : position + 3])
    rate = header and header[1]
    is_mono = content[position + 3 : position + 4] >= MONO
    while header is not None and position + header[0] <= end:
        if header[1] != rate or (content[position + 3 : position + 4] >= MONO) != is_mono:
            break
        n_frames += 1
        position += header[0]
        header = FRAME_HEADERS.get(content[position : position + 3])
    return n_frames, position


def _begins_a_frame(rest: bytes) -> bool:
    return rest in FRAME_HEADERS or (0 < len(rest) < 3 and rest[0] == 0xFF)


def _after_id3(content: FileBytes, position: int) -> int:
    """Return where the ID3v2 tags end that begin at a byte."""
    while match := _ID3.match(content[position : position + 10]):
        flags, *size = match[1]
        position += 10 + sum(byte << shift for byte, shift in zip(size, (21, 14, 7, 0), strict=True))
        position += 10 if flags & 0x10 else 0  # a footer repeats the header
    return position


def _end_of_frames(content: FileBytes) -> int:
    """Return where the tags ID3v1 and APE begin that follow the frames."""
    end = len(content)
    if content[-128:-125] == b"TAG":
        end -= 128
    footer = content[max(0, end - 32) : end]
    if len(footer) == 32 and footer.startswith(b"APETAGEX"):
        has_header = footer[23] & 0x80
        end = max(0, end - int.from_bytes(footer[12:16], "little") - (32 if has_header else 0))
    return end
