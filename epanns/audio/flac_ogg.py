"""Checks of FLAC and Ogg files that libsndfile leaves out: an understated total, damaged or missing pages.

Sources: RFC 9639, sections 8.2 (STREAMINFO) and 9.1 (frame headers); RFC 3533, section 6 (pages).
"""

import re
import zlib
from typing import BinaryIO

from epanns.audio.containers import DamagedFile

_MARKER = b"fLaC\x00"  # then STREAMINFO; the last byte is 0x80 if it is the only block of metadata
_INFO_BYTES = 42  # marker, header of the block, and STREAMINFO
_TOTAL_PLACE = 21  # the total is the low half of this byte and the next four bytes
_TOTAL_BITS = 36
_TAIL_BYTES = 1 << 16  # at least; STREAMINFO states the longest frame
_LONGEST_HEADER = 16
_SYNC = re.compile(rb"(?s)\xff[\xf8\xf9](?=.{4})")
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
    headers = (tail[found.start() :][:_LONGEST_HEADER] for found in _SYNC.finditer(tail))
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
