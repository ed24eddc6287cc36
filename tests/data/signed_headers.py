"""Changes to the structures of an HDF5 file with corrected checksums, as an attacker would make them."""

import struct

_MASK = 0xFFFFFFFF


def _rotated(value: int, bits: int) -> int:
    return (value << bits | value >> 32 - bits) & _MASK


def lookup3(content: bytes) -> int:
    """Bob Jenkins' hash of 2006, which HDF5 uses for its structures."""
    a = b = c = (0xDEADBEEF + len(content)) & _MASK
    while len(content) > 12:
        x, y, z = struct.unpack_from("<III", content)
        a, b, c = (a + x) & _MASK, (b + y) & _MASK, (c + z) & _MASK
        for bits in ((4, 6), (8, 16), (19, 4)):
            for turn in bits:
                a = (a - c & _MASK) ^ _rotated(c, turn)
                c = (c + b) & _MASK
                a, b, c = b, c, a
        content = content[12:]
    x, y, z = struct.unpack("<III", content.ljust(12, b"\0"))
    a, b, c = (a + x) & _MASK, (b + y) & _MASK, (c + z) & _MASK
    for turn in (14, 11, 25, 16, 4, 14, 24):
        c = (c ^ b) - _rotated(b, turn) & _MASK
        a, b, c = b, c, a
    return b  # what was c before the last turn of the names


def with_byte(content: bytes, place: int, value: int) -> bytes:
    """Change one byte of an object header and correct its checksum."""
    first = content.rfind(b"OHDR", 0, place)
    end = next(
        end
        for end in range(place, len(content) - 4)
        if lookup3(content[first:end]) == struct.unpack_from("<I", content, end)[0]
    )
    changed = bytearray(content)
    changed[place] = value
    struct.pack_into("<I", changed, end, lookup3(bytes(changed[first:end])))
    return bytes(changed)
