"""The frames of an MP3 (MPEG-1, 2 and 2.5, layer III), counted by their headers; nothing is decoded."""

import re
from dataclasses import dataclass

_KBPS_1 = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)  # MPEG-1 layer III
_KBPS_2 = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)  # MPEG-2 and 2.5
_RATES = (44_100, 48_000, 32_000)  # of MPEG-1; MPEG-2 has the halves, 2.5 the quarters
_VERSIONS = ((0xFA, 0, _KBPS_1, 144), (0xF2, 1, _KBPS_2, 72), (0xE2, 2, _KBPS_2, 72))
_SYNC = re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb]")
_ID3 = re.compile(rb"ID3[^\xff][^\xff]([\x00-\xff][\x00-\x7f]{4})", re.DOTALL)
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


def mpeg_frames(content: bytes) -> MpegFrames | None:
    """Count the frames of an MP3's bytes, also after bytes that are none; None where there are no frames."""
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


def _next_run(content: bytes, position: int, last: int, end: int) -> tuple[int, int, int] | None:
    """Return the next run of frames: its first byte, its frames, the byte after it; it must begin before `last`.

    Two frames in step make a run, or one at the very end: less is found in pictures and other bytes by chance.
    """
    for match in _SYNC.finditer(content, _after_id3(content, position), last):
        n_frames, stop = _follow(content, match.start(), end)
        if n_frames > 1 or (n_frames == 1 and stop == end):
            return match.start(), n_frames, stop
    return None


def _follow(content: bytes, position: int, end: int) -> tuple[int, int]:
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


def _after_id3(content: bytes, position: int) -> int:
    """Return where the ID3v2 tags end that begin at a byte."""
    while match := _ID3.match(content, position):
        flags, *size = match[1]
        position += 10 + sum(byte << shift for byte, shift in zip(size, (21, 14, 7, 0), strict=True))
        position += 10 if flags & 0x10 else 0  # a footer repeats the header
    return position


def _end_of_frames(content: bytes) -> int:
    """Return where the tags ID3v1 and APE begin that follow the frames."""
    end = len(content)
    if content[-128:-125] == b"TAG":
        end -= 128
    footer = content[max(0, end - 32) : end]
    if len(footer) == 32 and footer.startswith(b"APETAGEX"):
        has_header = footer[23] & 0x80
        end = max(0, end - int.from_bytes(footer[12:16], "little") - (32 if has_header else 0))
    return end
