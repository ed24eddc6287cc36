"""The lengths that compressed files state and have: MP3, FLAC and Ogg files that are truncated, damaged or misstated.

libsndfile takes an MP3's length from the Xing or Info header in its first frame. Without it libsndfile guesses from the
size of the first frames: if the bit rate varies, it stops early or promises too much. So an MP3 whose Xing header is
missing or states too little is read with a correct one. Of FLAC and Ogg
files, an understated total and damaged or missing pages are found. Nothing is decoded here.

Sources: RFC 9639, sections 8.2 (STREAMINFO) and 9.1 (frame headers); RFC 3533, section 6 (pages).
"""

import re
import zlib
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO

from epanns.audio.containers import DamagedFile

_MIDDLE_BIT_RATE = 0x90  # its frames have room for a Xing header at every sample rate
_TOLERANCE = 1  # frame: encoders differ in whether they count the frame of the Xing header
_HEAD = re.compile(rb"ID3|\xff[\xe2\xe3\xf2\xf3\xfa\xfb]|\0\0\0")  # zeros are padding, left by editors of tags
_KBPS_1 = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)  # MPEG-1 layer III
_KBPS_2 = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)  # MPEG-2 and 2.5
_RATES = (44_100, 48_000, 32_000)  # of MPEG-1; MPEG-2 has the halves, 2.5 the quarters
_VERSIONS = ((0xFA, 0, _KBPS_1, 144), (0xF2, 1, _KBPS_2, 72), (0xE2, 2, _KBPS_2, 72))
_SYNC = re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb]")
_ID3 = re.compile(rb"ID3[^\xff][^\xff]([\x00-\xff][\x00-\x7f]{4})", re.DOTALL)
_BLOCK = 1 << 16  # bytes
_MONO = b"\xc0"  # minimum of the fourth byte of a mono frame's header
_FIRST_SEARCH = 65_536  # bytes; a file that is no MP3 is not searched to its end
# First three bytes of a frame header -> bytes of the frame, sample rate in Hz. Frames without a bit rate ("free
# format"), whose header does not state their length, are left out.
_FRAMES = {
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


@dataclass(frozen=True)
class Mp3:
    """An MP3 as libsndfile is to read it.

    Attributes:
        pieces: Bytes, or ``(start, stop)`` of the file: its content with a Xing header that states all its frames.
        stated: Share of its frames that the file's own header states, at most 1; None if no header states a number.
    """

    pieces: list[bytes | tuple[int, int]]
    stated: Fraction | None


@dataclass(frozen=True)
class MpegFrames:
    """The frames of an MP3.

    Attributes:
        start: Position of the first frame.
        first: The first frame.
        n_frames: Number of whole frames, the first included.
        is_cut: Whether the file ends inside a frame.
        is_uniform: Whether all frames have one sample rate and one number of channels.
    """

    start: int
    first: bytes
    n_frames: int
    is_cut: bool
    is_uniform: bool


def read_mp3(file: BinaryIO) -> Mp3 | None:
    """Read an MP3's headers; None for other files, and for MP3s whose frames do not state their bit rate.

    The latter ("free format") have a constant bit rate, for which libsndfile's guess is right.

    Raises:
        DamagedFile: If the file is truncated inside a frame.
        ValueError: If the sample rate or the number of channels changes, where libsndfile would stop.
    """
    file.seek(0)
    if not _HEAD.match(file.read(3)):
        return None
    content = FileBytes(file)
    frames = mpeg_frames(content)
    if frames is None:
        return None
    if not frames.is_uniform:
        raise ValueError("its sample rate or number of channels changes within the file")
    has_header, stated, place = _stated_frames(frames.first)
    n_frames = frames.n_frames - has_header
    if frames.is_cut and (stated is None or n_frames < stated):
        inside = "the file ends inside an MPEG frame"
        how = inside if stated is None else f"{n_frames} MPEG frames where its header promises {stated}"
        raise DamagedFile(f"truncated: {how}; fetch the file again")
    pieces: list[bytes | tuple[int, int]] = [(frames.start, len(content))]
    count = n_frames.to_bytes(4, "big")
    if place is None or stated is None:
        start = frames.start + (len(frames.first) if has_header else 0)
        pieces = [_xing_frame(frames.first[:4], count), (start, len(content))]
    elif stated < n_frames - _TOLERANCE:
        pieces = [(frames.start, frames.start + place), count, (frames.start + place + 4, len(content))]
    if not stated:  # 0 was written by a program that could not seek back
        return Mp3(pieces, None)
    return Mp3(pieces, Fraction(stated, n_frames) if stated < n_frames - _TOLERANCE else Fraction(1))


def _stated_frames(frame: bytes) -> tuple[bool, int | None, int | None]:
    """Read the Xing, Info or VBRI header in a first frame.

    Returns:
        Whether there is one, the number of frames that it states, and where in the frame libsndfile reads that number;
        None where it does not.
    """
    if frame[36:40] == b"VBRI" and len(frame) >= 54:
        return True, int.from_bytes(frame[50:54], "big"), None
    found = max(frame.find(b"Xing", 4, 46), frame.find(b"Info", 4, 46))  # after 9 to 32 bytes of zeros, or a checksum
    if found < 0:
        return False, None, None
    place = found + 8
    if len(frame) >= place + 4 and frame[place - 1] & 1:
        return True, int.from_bytes(frame[place : place + 4], "big"), place
    return True, None, None


def _xing_frame(header: bytes, count: bytes) -> bytes:
    """Return a frame without sound, of the same kind as `header`, whose Xing header states the number of frames."""
    header = bytes((0xFF, header[1] | 1, header[2] & 0x0C | _MIDDLE_BIT_RATE, header[3]))  # without checksum, padding
    is_mpeg_1, is_mono = header[1] & 8, header[3:] >= _MONO
    n_zeros = (17 if is_mono else 32) if is_mpeg_1 else (9 if is_mono else 17)  # in place of side information
    xing = header + bytes(n_zeros) + b"Xing" + (1).to_bytes(4, "big") + count
    return xing.ljust(_FRAMES[header[:3]][0], b"\0")


class FileBytes:
    """The bytes of an open file, sliced like `bytes`; one block of them is in memory at a time."""

    def __init__(self, file: BinaryIO) -> None:
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
    """Count the frames of an MP3, bytes between them skipped; None if there are no frames."""
    end = len(content)  # of the frames, before the tags ID3v1 and APE
    if content[-128:-125] == b"TAG":
        end -= 128
    footer = content[max(0, end - 32) : end]
    if len(footer) == 32 and footer.startswith(b"APETAGEX"):
        has_header = footer[23] & 0x80
        end = max(0, end - int.from_bytes(footer[12:16], "little") - (32 if has_header else 0))
    first = run = _next_run(content, 0, min(end, _after_id3(content, 0) + _FIRST_SEARCH), end)
    if first is None:
        return None
    kinds = set()
    n_frames = stop = 0
    while run is not None:
        start, n_in_run, stop = run
        kinds.add((_FRAMES[content[start : start + 3]][1], content[start + 3 : start + 4] >= _MONO))
        n_frames += n_in_run
        run = _next_run(content, stop, end, end)
    start = first[0]
    length = _FRAMES[content[start : start + 3]][0]
    rest = content[stop : stop + 3]
    begins_a_frame = rest in _FRAMES or (0 < len(rest) < 3 and rest[0] == 0xFF)
    is_cut = end == len(content) and begins_a_frame
    return MpegFrames(start, content[start : start + length], n_frames, is_cut, len(kinds) == 1)


def _next_run(content: FileBytes, position: int, last: int, end: int) -> tuple[int, int, int] | None:
    """Return the next run of adjacent frames: start, number of frames, end; it must start before `last`.

    A run has two frames, or one at the very end: single headers occur by chance in pictures and other bytes.
    """
    start = _after_id3(content, position)
    while start < last:
        block = content[start : min(start + _BLOCK, last)]
        for match in _SYNC.finditer(block):
            place = start + match.start()
            n_frames, stop = _count_run(content, place, end)
            if n_frames > 1 or (n_frames == 1 and stop == end):
                return place, n_frames, stop
        start += max(1, len(block) - 1)
    return None


def _count_run(content: FileBytes, position: int, end: int) -> tuple[int, int]:
    """Return the number of adjacent whole frames of one kind from a position on, and the end of the last one."""
    n_frames = 0
    header = _FRAMES.get(content[position : position + 3])
    rate = header and header[1]
    is_mono = content[position + 3 : position + 4] >= _MONO
    while header is not None and position + header[0] <= end:
        if header[1] != rate or (content[position + 3 : position + 4] >= _MONO) != is_mono:
            break
        n_frames += 1
        position += header[0]
        header = _FRAMES.get(content[position : position + 3])
    return n_frames, position


def _after_id3(content: FileBytes, position: int) -> int:
    """Return the end of the ID3v2 tags that begin at a position."""
    while match := _ID3.match(content[position : position + 10]):
        flags, *size = match[1]
        position += 10 + sum(byte << shift for byte, shift in zip(size, (21, 14, 7, 0), strict=True))
        position += 10 if flags & 0x10 else 0  # a footer repeats the header
    return position


_MARKER = b"fLaC\x00"  # then STREAMINFO; the last byte is 0x80 if it is the only block of metadata
_INFO_BYTES = 42  # marker, header of the block, and STREAMINFO
_TOTAL_PLACE = 21  # the total is the low half of this byte and the next four bytes
_TOTAL_BITS = 36
_TAIL_BYTES = 1 << 16  # at least; STREAMINFO states the longest frame
_LONGEST_HEADER = 16
_FLAC_SYNC = re.compile(rb"(?s)\xff[\xf8\xf9](?=.{4})")
_FETCH = "fetch the file again"
_LAST_PAGE_FLAG = 0x04
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def understated_total(file: BinaryIO) -> tuple[int, list[bytes | tuple[int, int]]] | None:
    """Detect a FLAC file whose header states fewer frames than the file has.

    The number in the last frame's header is compared with the total. Bytes that only look like a frame header may give
    a wrong result; the file is then decoded to the same frames, only slower.

    Args:
        file: Any file; its beginning and end are read.

    Returns:
        The stated total, and the pieces of a copy without a total, which a decoder reads to its end; None if the total
        is right or the file is not FLAC.
    """
    file.seek(0)
    info = file.read(_INFO_BYTES)
    if len(info) < _INFO_BYTES or info[:4] != _MARKER[:4] or info[4] & 0x7F:
        return None
    total = int.from_bytes(info[_TOTAL_PLACE : _TOTAL_PLACE + 5], "big") & ((1 << _TOTAL_BITS) - 1)
    size = file.seek(0, 2)
    longest_frame = int.from_bytes(info[15:18], "big")
    file.seek(max(_INFO_BYTES, size - max(_TAIL_BYTES, longest_frame + _LONGEST_HEADER)))
    tail, block_size = file.read(), int.from_bytes(info[10:12], "big")
    headers = (tail[found.start() :][:_LONGEST_HEADER] for found in _FLAC_SYNC.finditer(tail))
    if not total or max((_end_of_frame(header, block_size) or 0 for header in headers), default=0) <= total:
        return None
    unknown = bytes([info[_TOTAL_PLACE] & 0xF0]) + bytes(4)
    return total, [(0, _TOTAL_PLACE), unknown, (_TOTAL_PLACE + 5, size)]


def _end_of_frame(header: bytes, block_size: int) -> int | None:
    """Return the number of the sample after a frame, or None if the bytes are not a frame header with its CRC-8.

    Args:
        header: The first bytes of a frame.
        block_size: Samples of every frame except the last, by STREAMINFO.
    """
    leading_ones = 8 - (header[4] ^ 0xFF).bit_length()
    n_coded = max(1, leading_ones)
    number = header[4] & (0x7F >> leading_ones)
    for byte in header[5 : 4 + n_coded]:
        number = number << 6 | byte & 0x3F
    size_code, rate_code = header[2] >> 4, header[2] & 0x0F
    place = 4 + n_coded
    n_size_bytes = {6: 1, 7: 2}.get(size_code, 0)
    n_rate_bytes = {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    stop = place + n_size_bytes + n_rate_bytes
    crc = 0  # CRC-8 with the polynomial x^8 + x^2 + x + 1
    for byte in header[:stop]:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ 0x07) & 0xFF if crc & 0x80 else crc << 1
    if leading_ones in (1, 8) or size_code == 0 or stop >= len(header) or crc != header[stop]:
        return None
    if n_size_bytes:
        samples = int.from_bytes(header[place : place + n_size_bytes], "big") + 1
    else:
        samples = 192 if size_code == 1 else 576 << size_code - 2 if size_code < 6 else 256 << size_code - 8
    is_variable = header[1] & 1  # such a frame states the number of its first sample, other frames their own number
    return (number if is_variable else number * block_size) + samples


def refuse_damaged_ogg(file: BinaryIO) -> None:
    """Raise `DamagedFile` if an Ogg file is truncated or damaged; return for all other files.

    Each page must begin at the end of the page before and match its checksum, and the last page
    must be marked as the end of the stream.
    """
    file.seek(0)
    place, is_last = 0, False
    while header := file.read(27):
        if header[:4] != b"OggS":
            if not place:
                return
            raise DamagedFile(f"damaged: no Ogg page begins at byte {place}; {_FETCH}")
        if is_last:
            raise DamagedFile(
                "holds several Ogg streams in sequence, of which a decoder would read the first; encode it again as "
                "one stream"
            )
        lacing = file.read(header[26]) if len(header) == 27 else b""
        content = file.read(sum(lacing))
        if len(header) < 27 or len(lacing) < header[26] or len(content) < sum(lacing):
            raise DamagedFile(f"truncated: the file ends inside an Ogg page; {_FETCH}")
        page = header[:22] + bytes(4) + header[26:] + lacing + content
        # Ogg's CRC-32 is zlib's with the bits of each byte and of the result reversed, and nothing inverted.
        reflected = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
        if int(f"{reflected:032b}"[::-1], 2) != int.from_bytes(header[22:26], "little"):
            raise DamagedFile(f"damaged: the Ogg page at byte {place} does not match its checksum; {_FETCH}")
        place, is_last = place + len(page), bool(header[5] & _LAST_PAGE_FLAG)
    if place and not is_last:
        raise DamagedFile(f"truncated: the file's last Ogg page does not end the stream; {_FETCH}")
