"""Properties of sound files by their containers: the decoder, the bytes of sound, and whether a file was cut.

Decoding itself is in `epanns.audio.decoding`.
"""

import re
import zlib
from dataclasses import dataclass
from typing import BinaryIO, Literal

from epanns.audio.chunks import GRAMMARS, ChunkGrammar, Tail, sound_chunk, tail_after
from epanns.audio.headers import LONGER_ARE_READ, fixed_header

_FETCH = "fetch the file again"
_LAST_PAGE_FLAG = 0x04
_WRAP = 1 << 32  # bytes
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class DamagedFile(Exception):  # noqa: N818 - the file's state, which callers turn into their own error
    """A file that is seen to be cut short or changed; the message states how, and what to do."""


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


@dataclass(frozen=True)
class SoundBytes:
    """The place of the sound in a file.

    Attributes:
        start, stop: The bytes of sound that are there; more than the header states where more follow.
        stated: Bytes of sound by the header; None where it leaves the length open.
        byteorder: Of samples, where the decoder does not state it.
        size_place: Byte at which `stated` is written, how many bytes the number has, and how many bytes it counts that
            are no sound; None where it is not written as one number of bytes.
        wav_head: As `epanns.audio.chunks.SoundChunk` has it.
    """

    start: int
    stop: int
    stated: int | None
    byteorder: Literal["little", "big"]
    size_place: tuple[int, int, int] | None = None
    wav_head: bytes = b""

    @property
    def differs(self) -> bool:
        """Whether a decoder that trusts the header would read another number of bytes."""
        return self.stated != self.stop - self.start


def sound_bytes(file: BinaryIO) -> SoundBytes | None:
    """Find a file's sound by the header of its chunk; None where the container is of another kind or states no length.

    libsndfile reads a file that is shorter than its header states without an error, and no more than that of a longer
    one.

    Raises:
        DamagedFile: If the file is cut short, or holds several sounds of which a decoder would read one.
    """
    head = file.read(32)
    size = file.seek(0, 2)
    grammar = next((grammar for grammar in GRAMMARS if re.match(grammar.beginning, head)), None)
    return _after_header(file, size) if grammar is None else _in_chunk(file, grammar, size)


def _in_chunk(file: BinaryIO, grammar: ChunkGrammar, size: int) -> SoundBytes | None:
    chunk = sound_chunk(file, grammar, size)
    if chunk is None:
        return None
    stop = max(chunk.start, size)
    if chunk.stated is not None:
        _refuse_cut(grammar.name, chunk.start, chunk.stated, size)
        end = chunk.start + chunk.stated
        tail = _tail(file, grammar, end, size)
        if tail == "another sound":
            raise DamagedFile(
                f"holds a second {grammar.name} sound after the first one, which a decoder would leave out; "
                "split the file into one for each sound"
            )
        if tail == "sound":  # a length that passed the largest number of 32 bits began again at 0
            end += (size - end) // _WRAP * _WRAP
            tail = _tail(file, grammar, end, size)
        stop = end if tail == "metadata" else size
    return SoundBytes(chunk.start, stop, chunk.stated, grammar.byteorder, chunk.size_place, chunk.wav_head)


def _tail(file: BinaryIO, grammar: ChunkGrammar, end: int, size: int) -> Tail:
    """Return what follows the sound; some writers leave the padding after it out."""
    padded = tail_after(file, grammar, end + -end % grammar.align, size)
    return padded if padded != "sound" else tail_after(file, grammar, end, size)


def _after_header(file: BinaryIO, size: int) -> SoundBytes | None:
    found = fixed_header(file)
    if found is None:
        return None
    name, header = found
    if header.stated is None:
        if size > header.start and (size - header.start) % header.unit:
            raise DamagedFile(f"truncated: the last frame of the {name} file is not whole; {_FETCH}")
        if header.size_place is None:
            return None
        return SoundBytes(header.start, max(header.start, size), None, header.byteorder, header.size_place)
    _refuse_cut(name, header.start, header.stated, size)
    end = header.start + header.stated
    is_longer = name in LONGER_ARE_READ and tail_after(file, None, end, size) == "sound"
    return SoundBytes(header.start, size if is_longer else end, header.stated, header.byteorder, header.size_place)


def _refuse_cut(name: str, start: int, stated: int, size: int) -> None:
    if start + stated > size:
        held = max(0, size - start)
        raise DamagedFile(f"truncated: {held} bytes of sound where its {name} header promises {stated}; {_FETCH}")


def refuse_damaged_ogg(file: BinaryIO) -> None:
    """Raise `DamagedFile` if an Ogg file is seen to be cut short or damaged; return for all other files.

    libsndfile takes any Ogg page for the last one and passes over pages that are damaged. Here each page (RFC 3533,
    section 6) must begin where the one before ends and have its checksum.
    """
    place, is_last = 0, False
    while header := file.read(27):
        if header[:4] != b"OggS":
            if not place:
                return
            raise DamagedFile(f"damaged: no Ogg page begins at byte {place}; {_FETCH}")
        if is_last:
            raise DamagedFile(
                "holds several Ogg streams one after the other, of which a decoder would read the first; encode it "
                "again as one stream"
            )
        lacing = file.read(header[26]) if len(header) == 27 else b""
        content = file.read(sum(lacing))
        if len(header) < 27 or len(lacing) < header[26] or len(content) < sum(lacing):
            raise DamagedFile(f"truncated: the file ends inside an Ogg page; {_FETCH}")
        page = header[:22] + bytes(4) + header[26:] + lacing + content
        if _ogg_checksum(page) != int.from_bytes(header[22:26], "little"):
            raise DamagedFile(f"damaged: the Ogg page at byte {place} does not match its checksum; {_FETCH}")
        place, is_last = place + len(page), bool(header[5] & _LAST_PAGE_FLAG)
    if place and not is_last:
        raise DamagedFile(f"truncated: the file's last Ogg page is not the stream's last one; {_FETCH}")


def _ogg_checksum(page: bytes) -> int:
    """Return Ogg's CRC-32: zlib's polynomial, the bits of bytes and result in the other order, nothing inverted."""
    reflected = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{reflected:032b}"[::-1], 2)
