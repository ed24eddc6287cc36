"""FLAC files whose header states fewer frames than follow it: the last frame's own number is compared with the total.

Source: RFC 9639, sections 8.2 (STREAMINFO) and 9.1 (frame headers).
"""

import re
from typing import BinaryIO

_MARKER = b"fLaC\x00"  # of a file whose first block of metadata is STREAMINFO, or b"\x80" where it is the only one
_INFO_BYTES = 42  # marker, header of the block, and STREAMINFO
_TOTAL_PLACE = 21  # the low half of this byte and the four bytes after it are the total
_TOTAL_BITS = 36
_TAIL_BYTES = 1 << 16  # holds the last frame of usual files; STREAMINFO states the longest frame of others
_LONGEST_HEADER = 16
_SYNC = re.compile(rb"(?s)\xff[\xf8\xf9](?=.{4})")


def understated_total(file: BinaryIO) -> tuple[int, list[bytes | tuple[int, int]]] | None:
    """Return the stated number of frames, and the pieces of a file that states none; None where the total is right.

    A decoder reads the whole of a file without a total. Bytes that only look like a frame header may call a right total
    too small: the file is then decoded with the same result, only slower.

    Args:
        file: Any file; it is read at its beginning and its end.
    """
    info = file.read(_INFO_BYTES)
    if len(info) < _INFO_BYTES or info[:4] != _MARKER[:4] or info[4] & 0x7F:
        return None
    total = int.from_bytes(info[_TOTAL_PLACE : _TOTAL_PLACE + 5], "big") & ((1 << _TOTAL_BITS) - 1)
    size = file.seek(0, 2)
    longest_frame = int.from_bytes(info[15:18], "big")
    file.seek(max(_INFO_BYTES, size - max(_TAIL_BYTES, longest_frame + _LONGEST_HEADER)))
    ends = _ends_of_frames(file.read(), int.from_bytes(info[10:12], "big"))
    if not total or max(ends, default=0) <= total:
        return None
    unknown = bytes([info[_TOTAL_PLACE] & 0xF0]) + bytes(4)
    return total, [(0, _TOTAL_PLACE), unknown, (_TOTAL_PLACE + 5, size)]


def _ends_of_frames(tail: bytes, block_size: int) -> list[int]:
    """Return the number of the sample after each frame whose header is in the bytes."""
    ends = (_end_of_frame(tail[found.start() :][:_LONGEST_HEADER], block_size) for found in _SYNC.finditer(tail))
    return [end for end in ends if end is not None]


def _end_of_frame(header: bytes, block_size: int) -> int | None:
    """Return the number of the sample after a frame, or None where the bytes are no frame header, by its CRC-8.

    Args:
        header: The first bytes of a frame.
        block_size: Samples of every frame but the last one, by STREAMINFO.
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
    if leading_ones in (1, 8) or size_code == 0 or stop >= len(header) or _crc8(header[:stop]) != header[stop]:
        return None
    if n_size_bytes:
        samples = int.from_bytes(header[place : place + n_size_bytes], "big") + 1
    else:
        samples = 192 if size_code == 1 else 576 << size_code - 2 if size_code < 6 else 256 << size_code - 8
    is_variable = header[1] & 1  # such frames state the number of their first sample, others their own
    return (number if is_variable else number * block_size) + samples


def _crc8(content: bytes) -> int:
    """Return the CRC-8 of bytes with polynomial x^8 + x^2 + x + 1."""
    remainder = 0
    for byte in content:
        remainder ^= byte
        for _ in range(8):
            remainder = (remainder << 1 ^ 0x07) & 0xFF if remainder & 0x80 else remainder << 1
    return remainder
