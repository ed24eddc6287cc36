"""Containers of chunks (RIFF, IFF, Wave64, CAF): the place of the sound, its stated length, and what follows it.

The sound's own chunk decides; the length of the whole file in the first header does not matter.
"""

import re
from dataclasses import dataclass
from typing import BinaryIO, Literal

Tail = Literal["metadata", "sound", "another sound"]
SHORTEST_TAIL = 1024  # bytes; fewer after the sound are tags, not more sound
_MOST_CHUNKS = 10_000  # before the sound; a file of empty chunks must not hold the reader up
_ID = re.compile(rb"[ -~]{4}")  # such as "_PMX", in which programs store kilobytes of XMP after the sound
_FORMS = (b"RIFF", b"RIFX", b"RF64", b"FORM", b"caff", b"riff")
_METADATA = frozenset(  # chunks whose own end may be missing: no sound is lost with it
    b"LIST list INFO bext iXML axml _PMX smpl inst plst fact PEAK JUNK junk FLLR afsp DISP chna umid acid strc minf "
    b"elm1 regn levl cart MARK NAME AUTH ANNO COMT APPL INST MIDI CHAN info uuid free strg mark edct ovvw pakt".split()
) | {b"id3 ", b"ID3 ", b"cue ", b"PAD ", b"(c) "}
_TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN")
_ZEROS = bytes(1 << 16)
# What programs that write to a pipe, and cannot go back to fill the length in, leave in its place.
_STAND_INS = ((0x7EFF_F000, 0x7F00_1000), (0x7FFF_F000, 0x8000_1000), (0xFFFF_F000, 0x1_0000_0000))
_LONGEST = 1 << 62  # bytes; a 64-bit length above is a stand-in too
_LONGEST_FORMAT = 1 << 10  # bytes of a chunk "fmt "


@dataclass(frozen=True)
class ChunkGrammar:
    """How a container writes its chunks.

    Attributes:
        name: For messages.
        beginning: Pattern of the file's first bytes.
        first: Byte at which the first chunk begins.
        sound_id: First four bytes of the id of the chunk that holds the sound.
        byteorder: Of lengths.
        id_bytes: Bytes of a chunk's id.
        size_bytes: Bytes of a chunk's length.
        align: Chunks begin at multiples of so many bytes.
        counts_header: Whether a chunk's length includes its id and length.
        inner_bytes: Bytes at the beginning of the sound's chunk that are no sound.
    """

    name: str
    beginning: bytes
    first: int
    sound_id: bytes
    byteorder: Literal["little", "big"]
    id_bytes: int = 4
    size_bytes: int = 4
    align: int = 2
    counts_header: bool = False
    inner_bytes: int = 0


GRAMMARS = (
    ChunkGrammar("WAV", rb"(?s)RIFF....WAVE", 12, b"data", "little"),
    ChunkGrammar("WAV (RIFX)", rb"(?s)RIFX....WAVE", 12, b"data", "big"),
    ChunkGrammar("WAV (RF64)", rb"(?s)(RF64|BW64)....WAVE", 12, b"data", "little"),
    ChunkGrammar("Wave64", rb"riff\x2e\x91\xcf\x11", 40, b"data", "little", 16, 8, 8, counts_header=True),
    ChunkGrammar("AIFF", rb"(?s)FORM....AIF[FC]", 12, b"SSND", "big", inner_bytes=8),
    ChunkGrammar("8SVX", rb"(?s)FORM....(8SVX|16SV)", 12, b"BODY", "big"),
    ChunkGrammar("CAF", rb"caff\0\x01", 8, b"data", "big", size_bytes=8, align=1, inner_bytes=4),
)


@dataclass(frozen=True)
class SoundChunk:
    """The chunk that holds a file's sound.

    Attributes:
        start: Byte at which the sound begins.
        stated: Bytes of sound by the chunk's header; None where its writer left a stand-in for an unknown length.
        size_place: Byte at which that length is written, how many bytes the number has, and how many bytes it counts
            that are no sound.
        wav_head: The header of a WAV file with the same format and no other chunk, up to the length of its sound;
            empty for other containers.
    """

    start: int
    stated: int | None
    size_place: tuple[int, int, int]
    wav_head: bytes = b""


def sound_chunk(file: BinaryIO, grammar: ChunkGrammar, size: int) -> SoundChunk | None:
    """Find the sound of a file of `size` bytes; None where no chunk holds it."""
    place, wav_head = grammar.first, b""
    for _ in range(_MOST_CHUNKS):
        header = _chunk_header(file, grammar, place)
        if header is None:
            return None
        chunk_id, content, n_bytes = header
        if chunk_id == grammar.sound_id:
            break
        if chunk_id == b"fmt " and grammar.name.startswith("WAV"):
            wav_head = _wav_head(file, grammar, content, n_bytes)
        place = content + n_bytes + -n_bytes % grammar.align
    else:
        return None
    size_place = content - grammar.size_bytes, grammar.size_bytes
    if grammar.name == "WAV (RF64)" and n_bytes == 0xFFFF_FFFF:
        file.seek(grammar.first)
        long_sizes = file.read(24)  # of the file and of its sound, for which 32 bits are too few
        size_place = grammar.first + 16, 8
        n_bytes = int.from_bytes(long_sizes[16:24], "little") if long_sizes[:4] == b"ds64" else n_bytes
    inner = grammar.inner_bytes
    if grammar.sound_id == b"SSND":
        file.seek(content)
        inner += int.from_bytes(file.read(4), "big")
    start, stated = content + inner, max(0, n_bytes - inner)
    is_open = is_stand_in(n_bytes) or (not stated and tail_after(file, grammar, start, size, shortest=1) == "sound")
    n_uncounted = inner + (grammar.id_bytes + grammar.size_bytes) * grammar.counts_header
    return SoundChunk(start, None if is_open else stated, (*size_place, n_uncounted), wav_head)


def _wav_head(file: BinaryIO, grammar: ChunkGrammar, content: int, n_bytes: int) -> bytes:
    """Return the `SoundChunk.wav_head` of a format; its length of the whole file is a stand-in."""
    file.seek(content)
    format_chunk = file.read(min(n_bytes, _LONGEST_FORMAT))
    form = b"RIFF" if grammar.byteorder == "little" else b"RIFX"
    length = len(format_chunk).to_bytes(4, grammar.byteorder)
    return form + b"\xff" * 4 + b"WAVEfmt " + length + format_chunk + b"\0" * (n_bytes % 2) + b"data"


def is_stand_in(n_bytes: int) -> bool:
    """Whether a stated length is one that programs write in the place of an unknown length."""
    return n_bytes >= _LONGEST or any(low <= n_bytes < high for low, high in _STAND_INS)


def tail_after(
    file: BinaryIO, grammar: ChunkGrammar | None, place: int, size: int, *, shortest: int = SHORTEST_TAIL
) -> Tail:
    """Return what follows the sound from a byte on, chunk by chunk where the container has chunks."""
    while size - place >= shortest:
        header = None if grammar is None else _chunk_header(file, grammar, place)
        if grammar is None or header is None or not _ID.fullmatch(header[0]):
            return "metadata" if _is_tag_or_padding(file, place) else "sound"
        chunk_id, content, n_bytes = header
        if chunk_id in (grammar.sound_id, *_FORMS):
            return "another sound"
        if content + n_bytes > size:
            return "metadata" if chunk_id in _METADATA else "sound"
        place = content + n_bytes + -n_bytes % grammar.align
    return "metadata"


def _chunk_header(file: BinaryIO, grammar: ChunkGrammar, place: int) -> tuple[bytes, int, int] | None:
    """Return the first bytes of a chunk's id, the byte at which its content begins and the bytes of that content."""
    file.seek(min(place, _LONGEST))
    length = grammar.id_bytes + grammar.size_bytes
    header = file.read(length)
    if len(header) < length:
        return None
    n_bytes = int.from_bytes(header[grammar.id_bytes :], grammar.byteorder)
    return header[:4], place + length, max(0, n_bytes - length * grammar.counts_header)


def _is_tag_or_padding(file: BinaryIO, place: int) -> bool:
    """Whether tags of the MP3 kind, or nothing but zeros, follow."""
    file.seek(place)
    block = file.read(len(_ZEROS))
    if block.startswith(_TAGS):
        return True
    while block:
        if block != _ZEROS[: len(block)]:
            return False
        block = file.read(len(_ZEROS))
    return True
