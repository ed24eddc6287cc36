"""What the first and last bytes of an audio file say: who can decode it, and whether it was cut.

Decoding itself is in `epanns.audio.decoding`.
"""

import re
from dataclasses import dataclass
from typing import BinaryIO

_LARGEST_OGG_PAGE = 65_307  # bytes: 27 of header, 255 of lacing, 255 * 255 of packets (RFC 3533, section 6)
_LAST_PAGE_FLAG = 0x04
_LENGTH_UNKNOWN = (0, 0xFFFFFFFF)  # written by encoders that could not seek back to fill the length in


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
    """Return how a WAV or Ogg file is seen to be cut short, or None where nothing shows it.

    libsndfile trusts the file's size over a WAV header and takes any Ogg page for the last one, so that a file cut
    in a copy or a download opens, shorter, without an error.
    """
    head = file.read(12)
    size = file.seek(0, 2)
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return _riff_truncation(int.from_bytes(head[4:8], "little"), size)
    if head[:4] == b"OggS":
        file.seek(max(0, size - _LARGEST_OGG_PAGE))
        return _ogg_truncation(file.read())
    return None


def _riff_truncation(declared: int, size: int) -> str | None:
    if declared in _LENGTH_UNKNOWN or size >= declared + 8:
        return None
    return f"truncated: the file has {size} bytes, its RIFF header promises {declared + 8}"


def _ogg_truncation(tail: bytes) -> str | None:
    page = tail.rfind(b"OggS")
    header = tail[page : page + 27]
    if page < 0 or len(header) < 27 or not header[5] & _LAST_PAGE_FLAG:
        return "truncated: the file's last Ogg page is not the stream's last one"
    lacing = tail[page + 27 : page + 27 + header[26]]
    if len(lacing) < header[26] or len(tail) < page + 27 + len(lacing) + sum(lacing):
        return "truncated: the file ends inside an Ogg page"
    return None
