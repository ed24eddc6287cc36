"""Containers whose sound follows a header of fixed fields: where it begins and how long it is stated to be."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, Literal

from epanns.audio.chunks import is_stand_in

_HEAD_BYTES = 4096  # of a file, in which all headers of this module end
_MAT4_BYTES = {0: 8, 1: 4, 2: 4, 3: 2, 4: 2, 5: 1}  # digit of a matrix's type -> bytes of a value
_NIST_FIELD = rb"(?m)^%s -\w+ (\d+)"
_SDS_PACKET = 127  # bytes; 120 of them are sound, 7 bits each


@dataclass(frozen=True)
class FixedHeader:
    """Place and length of the sound by the header before it.

    Attributes:
        start: Byte at which the sound begins.
        stated: Bytes of sound; None where the header does not state a length.
        unit: Bytes of which the sound must have a multiple where no length is stated.
        byteorder: Of samples.
        size_place: As `epanns.audio.chunks.SoundChunk` has it; None where the length is not one number of bytes.
    """

    start: int
    stated: int | None
    unit: int = 1
    byteorder: Literal["little", "big"] = "big"
    size_place: tuple[int, int, int] | None = None


def fixed_header(file: BinaryIO) -> tuple[str, FixedHeader] | None:
    """Return a file's kind, for messages, and its header; None for other kinds, and where the header is damaged."""
    file.seek(0)
    head = file.read(_HEAD_BYTES)
    for name, beginning, read in _KINDS:
        if re.match(beginning, head):
            header = read(head)
            return None if header is None else (name, header)
    return None


def _number(head: bytes, place: int, n_bytes: int, byteorder: Literal["little", "big"] = "big") -> int:
    return int.from_bytes(head[place : place + n_bytes], byteorder)


def _au(head: bytes) -> FixedHeader:
    byteorder: Literal["little", "big"] = "big" if head[:1] == b"." else "little"
    start, stated = _number(head, 4, 4, byteorder), _number(head, 8, 4, byteorder)
    is_open = not stated or is_stand_in(stated)
    return FixedHeader(start, None if is_open else stated, 1, byteorder, size_place=(8, 4, 0))


def _avr(head: bytes) -> FixedHeader:
    channels = 2 if _number(head, 12, 2) else 1
    return FixedHeader(128, _number(head, 26, 4) * channels * (_number(head, 14, 2) // 8))


def _nist(head: bytes) -> FixedHeader | None:
    fields = [re.search(_NIST_FIELD % name, head) for name in (b"sample_count", b"channel_count", b"sample_n_bytes")]
    start = re.match(rb"NIST_1A\n\s*(\d+)\n", head)
    if start is None:
        return None
    stated = 1
    for field in fields:
        stated *= 0 if field is None else int(field[1])
    is_little = re.search(rb"(?m)^sample_byte_format -\w+ 01", head) is not None
    return FixedHeader(int(start[1]), stated or None, 1, "little" if is_little else "big")


def _psion(head: bytes) -> FixedHeader:
    return FixedHeader(32, _number(head, 18, 4))


def _mpc2000(head: bytes) -> FixedHeader:
    return FixedHeader(42, _number(head, 30, 4, "little") * 2 * (1 + head[21]), 1, "little")


def _mat4(head: bytes) -> FixedHeader | None:
    byteorder: Literal["little", "big"] = "little" if head[:4] == bytes(4) else "big"
    place = content = n_bytes = 0
    for _ in range(2):  # the first matrix holds the sample rate, the second one the sound
        kind, rows, columns, _, name = (_number(head, place + 4 * field, 4, byteorder) for field in range(5))
        width = _MAT4_BYTES.get(kind // 10 % 10)
        if width is None or place + 20 > len(head):
            return None
        content, n_bytes = place + 20 + name, rows * columns * width
        place = content + n_bytes
    return FixedHeader(content, n_bytes, 1, byteorder)


def _mat5(head: bytes) -> FixedHeader | None:
    byteorder: Literal["little", "big"] = "little" if head[126:128] == b"IM" else "big"
    place = 128 + 8 + _number(head, 132, 4, byteorder) + 8  # after the matrix with the sample rate
    for _ in range(3):  # flags, dimensions and name
        is_small = _number(head, place, 4, byteorder) >> 16  # four bytes or less, in the place of a length
        place += 8 if is_small else 8 + (_number(head, place + 4, 4, byteorder) + 7) // 8 * 8
    if place + 8 > len(head):
        return None
    return FixedHeader(place + 8, _number(head, place + 4, 4, byteorder), 1, byteorder)


def _extended_instrument(head: bytes) -> FixedHeader:
    n_sounds = _number(head, 296, 2, "little")
    sizes = [_number(head, 298 + 40 * index, 4, "little") for index in range(min(n_sounds, 64))]
    return FixedHeader(298 + 40 * n_sounds, sum(sizes) or None, 1, "little")  # libsndfile writes 0


def _voc(head: bytes) -> FixedHeader | None:
    start = _number(head, 20, 2, "little")
    while start + 4 <= len(head) and head[start] not in (0, 1, 2, 9):  # 1, 2 and 9 hold sound, 0 is the end
        start += 4 + _number(head, start + 1, 3, "little")
    if start + 4 > len(head) or not head[start]:
        return None
    stated = _number(head, start + 1, 3, "little")
    return FixedHeader(start + 4, stated if stated < 0xFF_FFFF else None, 1, "little")


def _sample_dump(head: bytes) -> FixedHeader:
    bits = head[6]
    words = sum(byte << 7 * index for index, byte in enumerate(head[10:13]))
    in_packet = 120 // max(1, -(-bits // 7))
    return FixedHeader(21, -(-words // in_packet) * _SDS_PACKET)


def _ircam(head: bytes) -> FixedHeader:
    byteorder: Literal["little", "big"] = "little" if head[2:4] in (b"\1\0", b"\3\0") else "big"
    channels, encoding = _number(head, 8, 4, byteorder), _number(head, 12, 4, byteorder)
    return FixedHeader(1024, None, max(1, channels * (encoding & 0xF)), byteorder)


def _portable_voice(head: bytes) -> FixedHeader | None:
    found = re.match(rb"PVF1\n(\d+) \d+ (\d+)\n", head)
    return None if found is None else FixedHeader(found.end(), None, max(1, int(found[1]) * int(found[2]) // 8))


def _ensoniq(head: bytes) -> FixedHeader:
    byteorder: Literal["little", "big"] = "little" if head[:4] == b"fap " else "big"
    encoding, channels = _number(head, 16, 4, byteorder), _number(head, 20, 4, byteorder)
    unit = {0: 2, 1: 32, 2: 1}.get(encoding, 1)  # of 24 bits ten samples are packed into 32 bytes
    return FixedHeader(2048, None, max(1, unit * channels), byteorder)


_KINDS: tuple[tuple[str, bytes, Callable[[bytes], FixedHeader | None]], ...] = (
    ("AU", rb"(?s)(\.snd|dns\.).{20}", _au),
    ("AVR", rb"(?s)2BIT.{124}", _avr),
    ("NIST", rb"NIST_1A\n", _nist),
    ("WVE", rb"(?s)ALawSoundFile\*\*.{17}", _psion),
    ("MPC2000", rb"(?s)\x01\x04.{40}", _mpc2000),
    ("MAT4", rb"(?s)(\0\0\0\0|\0\0\x03\xe8).{4}.{4}.{4}.{4}samplerate\0", _mat4),
    ("MAT5", rb"(?s)MATLAB 5\.0 MAT-file.{107}(IM|MI)", _mat5),
    ("XI", rb"(?s)Extended Instrument: .{317}", _extended_instrument),
    ("VOC", rb"Creative Voice File\x1a", _voc),
    ("SDS", rb"(?s)\xf0\x7e.\x01.{17}", _sample_dump),
    ("IRCAM", rb"(?s)\x64\xa3[\x01-\x04]\0.{12}", _ircam),
    ("PVF", rb"PVF1\n", _portable_voice),
    ("PAF", rb"(?s)( paf|fap ).{20}", _ensoniq),
)
LONGER_ARE_READ = frozenset({"AU", "AVR", "NIST", "WVE", "MPC2000"})  # the others may hold several sounds
