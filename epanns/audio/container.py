"""What the first and last bytes of an audio file say: who can decode it, and whether it was cut.

Decoding itself is in `epanns.audio.decoding`.
"""

import re
import zlib
from dataclasses import dataclass
from typing import BinaryIO

_LAST_PAGE_FLAG = 0x04
_LONGEST_KNOWN = 0x7FFFFF00  # bytes; encoders that could not seek back to fill the length in write more, or 0
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(frozen=True)
class ForeignContainer:
    """A kind of file that libsndfile cannot open.

    Attributes:
        name: For messages.
        demuxer: FFmpeg's name for it. It is not asked to guess: among what it knows are lists that name other files.
        says_its_length: Whether such files do; of others the length is guessed from the bit rate.
    """

    name: str
    demuxer: str
    says_its_length: bool


_FOREIGN = {  # how a file begins -> its kind
    rb"(?s)....(ftyp|moov|mdat|wide|free|skip)": ForeignContainer("MP4 (m4a, mov)", "mov", says_its_length=True),
    rb"\x1aE\xdf\xa3": ForeignContainer("Matroska (mkv, webm)", "matroska", says_its_length=True),
    rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11": ForeignContainer("ASF (wma)", "asf", says_its_length=True),
    # Where an MP3 frame names its layer, this has zeros.
    rb"\xff[\xf0\xf1\xf8\xf9]": ForeignContainer("AAC", "aac", says_its_length=False),
    rb"#!AMR": ForeignContainer("AMR", "amr", says_its_length=False),
}


def foreign_container(file: BinaryIO) -> ForeignContainer | None:
    """Return the kind of a file that libsndfile cannot open, or None for all others."""
    head = file.read(12)
    return next((container for beginning, container in _FOREIGN.items() if re.match(beginning, head)), None)


def truncation(file: BinaryIO) -> str | None:
    """Return how a WAV or Ogg file is seen to be cut short or damaged, or None where nothing shows it.

    libsndfile trusts the file's size over a WAV header, takes any Ogg page for the last one and passes over pages that
    are damaged, so that a file cut or changed in a copy or a download opens, shorter or with other sound, without an
    error.
    """
    head = file.read(12)
    size = file.seek(0, 2)
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return _riff_truncation(int.from_bytes(head[4:8], "little"), size)
    if head[:4] == b"OggS":
        file.seek(0)
        return _ogg_damage(file.read())
    return None


def _riff_truncation(declared: int, size: int) -> str | None:
    if declared == 0 or declared > _LONGEST_KNOWN or size + 1 >= declared + 8:  # one byte of padding is often left out
        return None
    return f"truncated: the file has {size} bytes, its RIFF header promises {declared + 8}"


def _ogg_damage(data: bytes) -> str | None:
    """Walk through all pages (RFC 3533, section 6): each begins where the one before ends and has its checksum."""
    place, is_last = 0, False
    while place < len(data):
        header = data[place : place + 27]
        if header[:4] != b"OggS":
            return f"damaged: no Ogg page begins at byte {place}"
        if is_last:
            return (
                "holds several Ogg streams one after the other, of which only the first would be heard; encode it anew"
            )
        lacing = data[place + 27 : place + 27 + header[26]] if len(header) == 27 else b""
        end = place + 27 + len(lacing) + sum(lacing)
        if len(header) < 27 or len(lacing) < header[26] or end > len(data):
            return "truncated: the file ends inside an Ogg page"
        page = header[:22] + bytes(4) + data[place + 26 : end]
        if _ogg_checksum(page) != int.from_bytes(header[22:26], "little"):
            return f"damaged: the Ogg page at byte {place} does not match its checksum"
        place, is_last = end, bool(header[5] & _LAST_PAGE_FLAG)
    return None if is_last else "truncated: the file's last Ogg page is not the stream's last one"


def _ogg_checksum(page: bytes) -> int:
    """Return Ogg's CRC-32: zlib's polynomial, the bits of bytes and result in the other order, nothing inverted."""
    reflected = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{reflected:032b}"[::-1], 2)
