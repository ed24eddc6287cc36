"""Find the sound in an uncompressed file and compare the length that its header states with the length it has.

Containers of chunks (WAV, AIFF, CAF, ...) and containers with a header of fixed fields (AU, NIST, VOC, ...). The sound
is decoded in `epanns.audio.decoding`.
"""

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import BinaryIO, Literal

ByteOrder = Literal["little", "big"]
Tail = Literal["metadata", "sound", "another sound"]

_FETCH = "fetch the file again"
_ID = re.compile(rb"[ -~]{4}")  # such as "_PMX", in which programs store kilobytes of XMP after the sound
_FORMS = (b"RIFF", b"RIFX", b"RF64", b"FORM", b"caff", b"riff")
_METADATA = frozenset(  # chunks that may be cut without loss of sound
    b"LIST list INFO bext iXML axml _PMX smpl inst plst fact PEAK JUNK junk FLLR afsp DISP chna umid acid strc minf "
    b"elm1 regn levl cart MARK NAME AUTH ANNO COMT APPL INST MIDI CHAN info uuid free strg mark edct ovvw pakt".split()
) | {b"id3 ", b"ID3 ", b"cue ", b"PAD ", b"(c) "}
_TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN")
_SHORTEST_TAIL = 1024  # bytes; fewer bytes after the sound are tags, not more sound
_MOST_CHUNKS = 10_000  # before the sound; bounds the time for a file of empty chunks
_BLOCK = 1 << 16  # bytes
# Lengths that programs write which cannot seek back to the header, because they write to a pipe.
_STAND_INS = ((0x7EFF_F000, 0x7F00_1000), (0x7FFF_F000, 0x8000_1000), (0xFFFF_F000, 0x1_0000_0000))
_LONGEST = 1 << 62  # bytes; a longer 64-bit length is a stand-in too
_LONGEST_FORMAT = 1 << 10  # bytes of a chunk "fmt "
_WRAP = 1 << 32  # bytes


class DamagedFile(Exception):  # noqa: N818 - the file's state, which callers turn into their own error
    """A file is truncated or changed; the message states how, and what to do."""


@dataclass(frozen=True)
class SoundBytes:
    """The place of the sound in a file.

    Attributes:
        start: First byte of the sound.
        stated: Bytes of sound by the header; None if the header leaves the length open.
        byteorder: Byte order of the samples, if the decoder does not state it.
        size_place: Position of the length field, its size in bytes, and the bytes it counts that are not sound; None if
            the length is not one number of bytes.
        wav_head: A header with the same format and no other chunk, up to the length of the sound; empty for containers
            other than WAV.
        unit: Bytes of a frame; without a stated length the sound must be a multiple of it.
        stop: End of the sound that the file has; after the stated end if more sound follows.
    """

    start: int
    stated: int | None
    byteorder: ByteOrder = "big"
    size_place: tuple[int, int, int] | None = None
    wav_head: bytes = b""
    unit: int = 1
    stop: int = 0

    @property
    def differs(self) -> bool:
        """Whether the length by the header is not the length that the file has."""
        return self.stated != self.stop - self.start


def sound_bytes(file: BinaryIO) -> SoundBytes | None:
    """Find a file's sound by its header; None for other containers, and for those that state no length.

    libsndfile reads a truncated file without an error, and of a longer file no more than its header states.

    Raises:
        DamagedFile: If the file is truncated, or holds several sounds of which a decoder would read one.
    """
    file.seek(0)
    head = file.read(_HEAD_BYTES)
    size = file.seek(0, 2)
    grammar = next((grammar for grammar in _GRAMMARS if re.match(grammar.beginning, head)), None)
    if grammar is not None:
        name, header = grammar.name, _header_of_sound(file, grammar, size)
    else:
        name, read = next(((name, read) for name, start, read in _FIXED_HEADERS if re.match(start, head)), ("", None))
        header = None if read is None else read(head)
    if header is None:
        return None
    start, stated, n_bytes = header.start, header.stated, max(0, size - header.start)
    if stated is None:
        if n_bytes % header.unit:
            raise DamagedFile(f"truncated: the last frame of the {name} file is not whole; {_FETCH}")
        return None if header.size_place is None else replace(header, stop=max(start, size))
    if stated > size - start:
        raise DamagedFile(f"truncated: {n_bytes} bytes of sound where its {name} header promises {stated}; {_FETCH}")
    if grammar is not None:
        return replace(header, stop=_end_in_chunks(file, grammar, start + stated, size))
    is_longer = name in _LONGER_ARE_READ and _tail(file, None, start + stated, size) == "sound"
    return replace(header, stop=size if is_longer else start + stated)


# Containers of chunks. The chunk of the sound decides; the length of the file in the first header does not matter.


@dataclass(frozen=True)
class _ChunkGrammar:
    """Layout of a container of chunks.

    Attributes:
        name: Name in messages.
        beginning: Pattern of the file's first bytes.
        first: Position of the first chunk.
        sound_id: First four bytes of the id of the chunk that holds the sound.
        byteorder: Byte order of lengths.
        id_bytes: Bytes of a chunk's id.
        size_bytes: Bytes of a chunk's length.
        align: Chunks begin at multiples of this number of bytes.
        counts_header: Whether a chunk's length includes its id and length.
        inner_bytes: Bytes at the beginning of the sound's chunk that are not sound.
    """

    name: str
    beginning: bytes
    first: int
    sound_id: bytes
    byteorder: ByteOrder
    id_bytes: int = 4
    size_bytes: int = 4
    align: int = 2
    counts_header: bool = False
    inner_bytes: int = 0


_GRAMMARS = (
    _ChunkGrammar("WAV", rb"(?s)RIFF....WAVE", 12, b"data", "little"),
    _ChunkGrammar("WAV (RIFX)", rb"(?s)RIFX....WAVE", 12, b"data", "big"),
    _ChunkGrammar("WAV (RF64)", rb"(?s)(RF64|BW64)....WAVE", 12, b"data", "little"),
    _ChunkGrammar("Wave64", rb"riff\x2e\x91\xcf\x11", 40, b"data", "little", 16, 8, 8, counts_header=True),
    _ChunkGrammar("AIFF", rb"(?s)FORM....AIF[FC]", 12, b"SSND", "big", inner_bytes=8),
    _ChunkGrammar("8SVX", rb"(?s)FORM....(8SVX|16SV)", 12, b"BODY", "big"),
    _ChunkGrammar("CAF", rb"caff\0\x01", 8, b"data", "big", size_bytes=8, align=1, inner_bytes=4),
)


def _end_in_chunks(file: BinaryIO, grammar: _ChunkGrammar, end: int, size: int) -> int:
    """Return the end of the sound, which is after `end`, its end by the header, if more sound follows."""
    tail = _tail_after_chunk(file, grammar, end, size)
    if tail == "another sound":
        raise DamagedFile(
            f"holds a second {grammar.name} sound after the first one, which a decoder would leave out; "
            "split the file into one for each sound"
        )
    if tail == "sound":  # a 32-bit length may have overflowed
        end += (size - end) // _WRAP * _WRAP
        tail = _tail_after_chunk(file, grammar, end, size)
    return end if tail == "metadata" else size


def _header_of_sound(file: BinaryIO, grammar: _ChunkGrammar, size: int) -> SoundBytes | None:
    """Find the chunk of the sound; None if there is none."""
    place, wav_head = grammar.first, b""
    for _ in range(_MOST_CHUNKS):
        header = _chunk_header(file, grammar, place)
        if header is None:
            return None
        chunk_id, content, n_bytes = header
        if chunk_id == grammar.sound_id:
            break
        if chunk_id == b"fmt " and grammar.name.startswith("WAV"):
            file.seek(content)
            fmt = file.read(min(n_bytes, _LONGEST_FORMAT))
            form = b"RIFF" if grammar.byteorder == "little" else b"RIFX"
            length = len(fmt).to_bytes(4, grammar.byteorder)
            wav_head = form + b"\xff" * 4 + b"WAVEfmt " + length + fmt + b"\0" * (n_bytes % 2) + b"data"
        place = content + n_bytes + -n_bytes % grammar.align
    else:
        return None
    size_place = content - grammar.size_bytes, grammar.size_bytes
    if grammar.name == "WAV (RF64)" and n_bytes == 0xFFFF_FFFF:
        file.seek(grammar.first)
        long_sizes = file.read(24)  # 64-bit lengths of the file and of its sound
        size_place = grammar.first + 16, 8
        n_bytes = int.from_bytes(long_sizes[16:24], "little") if long_sizes[:4] == b"ds64" else n_bytes
    inner = grammar.inner_bytes
    if grammar.sound_id == b"SSND":
        file.seek(content)
        inner += int.from_bytes(file.read(4), "big")
    start, stated = content + inner, max(0, n_bytes - inner)
    is_open = _is_stand_in(n_bytes) or (not stated and _tail(file, grammar, start, size, shortest=1) == "sound")
    n_uncounted = inner + (grammar.id_bytes + grammar.size_bytes) * grammar.counts_header
    return SoundBytes(start, None if is_open else stated, grammar.byteorder, (*size_place, n_uncounted), wav_head)


def _chunk_header(file: BinaryIO, grammar: _ChunkGrammar, place: int) -> tuple[bytes, int, int] | None:
    """Return the first four bytes of a chunk's id, the position of its content and the bytes of its content."""
    file.seek(min(place, _LONGEST))
    length = grammar.id_bytes + grammar.size_bytes
    header = file.read(length)
    if len(header) < length:
        return None
    n_bytes = int.from_bytes(header[grammar.id_bytes :], grammar.byteorder)
    return header[:4], place + length, max(0, n_bytes - length * grammar.counts_header)


def _is_stand_in(n_bytes: int) -> bool:
    """Whether programs write this length in place of an unknown length."""
    return n_bytes >= _LONGEST or any(low <= n_bytes < high for low, high in _STAND_INS)


def _tail_after_chunk(file: BinaryIO, grammar: _ChunkGrammar, end: int, size: int) -> Tail:
    """Return what follows the sound; some programs omit the padding after it."""
    padded = _tail(file, grammar, end + -end % grammar.align, size)
    return padded if padded != "sound" else _tail(file, grammar, end, size)


def _tail(
    file: BinaryIO, grammar: _ChunkGrammar | None, place: int, size: int, *, shortest: int = _SHORTEST_TAIL
) -> Tail:
    """Return what follows the sound from a position on, chunk by chunk if the container has chunks."""
    while size - place >= shortest:
        header = None if grammar is None else _chunk_header(file, grammar, place)
        if grammar is None or header is None or not _ID.fullmatch(header[0]):
            file.seek(place)
            first = file.read(max(map(len, _TAGS)))
            blocks = itertools.chain([first], iter(lambda: file.read(_BLOCK), b""))
            is_tag_or_zeros = first.startswith(_TAGS) or not any(block.strip(b"\0") for block in blocks)
            return "metadata" if is_tag_or_zeros else "sound"
        chunk_id, content, n_bytes = header
        if chunk_id in (grammar.sound_id, *_FORMS):
            return "another sound"
        if content + n_bytes > size:
            return "metadata" if chunk_id in _METADATA else "sound"
        place = content + n_bytes + -n_bytes % grammar.align
    return "metadata"


# Containers with a header of fixed fields.

_HEAD_BYTES = 4096  # no header is longer
_MAT4_BYTES = {0: 8, 1: 4, 2: 4, 3: 2, 4: 2, 5: 1}  # digit of a matrix's type -> bytes of a value
_LONGER_ARE_READ = frozenset({"AU", "AVR", "NIST", "WVE", "MPC2000"})  # the others may hold several sounds
_SDS_PACKET = 127  # bytes; 120 of them are sound, 7 bits each
_HeaderReader = Callable[[bytes], SoundBytes | None]
_FIXED_HEADERS: list[tuple[str, bytes, _HeaderReader]] = []  # name in messages, pattern of the first bytes, reader


def _fixed_header(name: str, beginning: bytes) -> Callable[[_HeaderReader], _HeaderReader]:
    """Register the reader of a kind of header; it returns None for a damaged header."""

    def register(read: _HeaderReader) -> _HeaderReader:
        _FIXED_HEADERS.append((name, beginning, read))
        return read

    return register


def _number(head: bytes, place: int, n_bytes: int, byteorder: ByteOrder = "big") -> int:
    return int.from_bytes(head[place : place + n_bytes], byteorder)


@_fixed_header("AU", rb"(?s)(\.snd|dns\.).{20}")
def _au(head: bytes) -> SoundBytes:
    byteorder: ByteOrder = "big" if head[:1] == b"." else "little"
    start, stated = _number(head, 4, 4, byteorder), _number(head, 8, 4, byteorder)
    is_open = not stated or _is_stand_in(stated)
    return SoundBytes(start, None if is_open else stated, byteorder, size_place=(8, 4, 0))


@_fixed_header("AVR", rb"(?s)2BIT.{124}")
def _avr(head: bytes) -> SoundBytes:
    channels = 2 if _number(head, 12, 2) else 1
    return SoundBytes(128, _number(head, 26, 4) * channels * (_number(head, 14, 2) // 8))


@_fixed_header("NIST", rb"NIST_1A\n")
def _nist(head: bytes) -> SoundBytes | None:
    start = re.match(rb"NIST_1A\n\s*(\d+)\n", head)
    if start is None:
        return None
    stated = 1
    for name in (b"sample_count", b"channel_count", b"sample_n_bytes"):
        field = re.search(rb"(?m)^%s -\w+ (\d+)" % name, head)
        stated *= 0 if field is None else int(field[1])
    is_little = re.search(rb"(?m)^sample_byte_format -\w+ 01", head) is not None
    return SoundBytes(int(start[1]), stated or None, "little" if is_little else "big")


@_fixed_header("WVE", rb"(?s)ALawSoundFile\*\*.{17}")
def _wve(head: bytes) -> SoundBytes:
    return SoundBytes(32, _number(head, 18, 4))


@_fixed_header("MPC2000", rb"(?s)\x01\x04.{40}")
def _mpc2000(head: bytes) -> SoundBytes:
    return SoundBytes(42, _number(head, 30, 4, "little") * 2 * (1 + head[21]), "little")


@_fixed_header("MAT4", rb"(?s)(\0\0\0\0|\0\0\x03\xe8).{4}.{4}.{4}.{4}samplerate\0")
def _mat4(head: bytes) -> SoundBytes | None:
    byteorder: ByteOrder = "little" if head[:4] == bytes(4) else "big"
    place = content = n_bytes = 0
    for _ in range(2):  # the first matrix holds the sample rate, the second one the sound
        kind, rows, columns, _, name = (_number(head, place + 4 * field, 4, byteorder) for field in range(5))
        width = _MAT4_BYTES.get(kind // 10 % 10)
        if width is None or place + 20 > len(head):
            return None
        content, n_bytes = place + 20 + name, rows * columns * width
        place = content + n_bytes
    return SoundBytes(content, n_bytes, byteorder)


@_fixed_header("MAT5", rb"(?s)MATLAB 5\.0 MAT-file.{107}(IM|MI)")
def _mat5(head: bytes) -> SoundBytes | None:
    byteorder: ByteOrder = "little" if head[126:128] == b"IM" else "big"
    place = 128 + 8 + _number(head, 132, 4, byteorder) + 8  # after the matrix with the sample rate
    for _ in range(3):  # flags, dimensions and name
        is_small = _number(head, place, 4, byteorder) >> 16  # up to four bytes, in the place of a length
        place += 8 if is_small else 8 + (_number(head, place + 4, 4, byteorder) + 7) // 8 * 8
    return None if place + 8 > len(head) else SoundBytes(place + 8, _number(head, place + 4, 4, byteorder), byteorder)


@_fixed_header("XI", rb"(?s)Extended Instrument: .{317}")
def _xi(head: bytes) -> SoundBytes:
    n_sounds = _number(head, 296, 2, "little")
    sizes = [_number(head, 298 + 40 * index, 4, "little") for index in range(min(n_sounds, 64))]
    return SoundBytes(298 + 40 * n_sounds, sum(sizes) or None, "little")  # libsndfile writes 0


@_fixed_header("VOC", rb"Creative Voice File\x1a")
def _voc(head: bytes) -> SoundBytes | None:
    start = _number(head, 20, 2, "little")
    while start + 4 <= len(head) and head[start] not in (0, 1, 2, 9):  # 1, 2 and 9 hold sound, 0 is the end
        start += 4 + _number(head, start + 1, 3, "little")
    if start + 4 > len(head) or not head[start]:
        return None
    stated = _number(head, start + 1, 3, "little")
    return SoundBytes(start + 4, stated if stated < 0xFF_FFFF else None, "little")


@_fixed_header("SDS", rb"(?s)\xf0\x7e.\x01.{17}")
def _sds(head: bytes) -> SoundBytes:
    words = sum(byte << 7 * index for index, byte in enumerate(head[10:13]))
    words_in_packet = 120 // max(1, -(-head[6] // 7))
    return SoundBytes(21, -(-words // words_in_packet) * _SDS_PACKET)


@_fixed_header("IRCAM", rb"(?s)\x64\xa3[\x01-\x04]\0.{12}")
def _ircam(head: bytes) -> SoundBytes:
    byteorder: ByteOrder = "little" if head[2:4] in (b"\1\0", b"\3\0") else "big"
    channels, encoding = _number(head, 8, 4, byteorder), _number(head, 12, 4, byteorder)
    return SoundBytes(1024, None, byteorder, unit=max(1, channels * (encoding & 0xF)))


@_fixed_header("PVF", rb"PVF1\n")
def _pvf(head: bytes) -> SoundBytes | None:
    found = re.match(rb"PVF1\n(\d+) \d+ (\d+)\n", head)
    return found and SoundBytes(found.end(), None, unit=max(1, int(found[1]) * int(found[2]) // 8))


@_fixed_header("PAF", rb"(?s)( paf|fap ).{20}")
def _paf(head: bytes) -> SoundBytes:
    byteorder: ByteOrder = "little" if head[:4] == b"fap " else "big"
    encoding, channels = _number(head, 16, 4, byteorder), _number(head, 20, 4, byteorder)
    unit = {0: 2, 1: 32, 2: 1}.get(encoding, 1)  # ten 24-bit samples are packed into 32 bytes
    return SoundBytes(2048, None, byteorder, unit=max(1, unit * channels))
