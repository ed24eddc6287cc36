"""MP3s as libsndfile reads them whole, and how they are seen to be cut.

libsndfile takes an MP3's length from a note (Xing or Info) in its first frame. Without one it guesses from the size of
the first frames: where the bit rate varies it stops early or promises too much. So an MP3 whose note is missing, or
says too little, is given one that is true.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO

from epanns.audio.mpeg import FRAME_HEADERS, MONO, FileBytes, MpegFrames, mpeg_frames

_MIDDLE_BIT_RATE = 0x90  # its frames can hold a note at every sample rate
_TOLERANCE = 1  # frame: not all encoders count the note's alike
_HEAD = re.compile(rb"ID3|\xff[\xe2\xe3\xf2\xf3\xfa\xfb]|\0\0\0")  # zeros are padding, left by editors of tags


@dataclass(frozen=True)
class Mp3:
    """What an MP3 is read as.

    Attributes:
        pieces: Bytes, or ``(start, stop)`` of the file: its content with a note that promises all its frames.
        truncation: How it is seen to be cut short, or None where its frames do not show it.
        stated: Share of its frames that its own note promises, at most 1; None where no note states their number.
    """

    pieces: list[bytes | tuple[int, int]]
    truncation: str | None
    stated: Fraction | None


@dataclass(frozen=True)
class _Note:
    """What a first frame says of those that follow it.

    Attributes:
        n_frames: How many there are; None where it does not say.
        place: Byte of the frame at which libsndfile reads that number; None where it does not.
    """

    n_frames: int | None
    place: int | None


def read_mp3(file: BinaryIO) -> Mp3 | None:
    """Read an MP3 from its beginning; None for another file, and for frames that do not say their bit rate.

    The latter ("free format") have a constant one: libsndfile's guess is right.

    Raises:
        ValueError: If its sample rate or its channels change on the way, where libsndfile stops.
    """
    head = file.read(3)
    if not _HEAD.match(head):
        return None
    content = FileBytes(file)
    frames = mpeg_frames(content)
    if frames is None:
        return None
    if not frames.is_uniform:
        raise ValueError("its sample rate or its channels change on the way")
    note = _note_in(frames.first)
    n_frames = frames.n_frames - (note is not None)
    promised = None if note is None else note.n_frames
    return Mp3(
        pieces=_with_true_note(len(content), frames, note, n_frames),
        truncation=_truncation(n_frames, promised, frames.is_cut),
        stated=_stated_share(n_frames, promised),
    )


def _stated_share(n_frames: int, promised: int | None) -> Fraction | None:
    if not promised:  # a writer that could not go back left 0
        return None
    return Fraction(promised, n_frames) if promised < n_frames - _TOLERANCE else Fraction(1)


def _truncation(n_frames: int, promised: int | None, is_cut: bool) -> str | None:
    if is_cut and promised is None:
        return "truncated: the file ends inside an MPEG frame"
    if is_cut and promised is not None and n_frames < promised:
        return f"truncated: {n_frames} MPEG frames where its header promises {promised}"
    return None  # cut between frames: the length that libsndfile finds will tell, if there is a note


def _note_in(frame: bytes) -> _Note | None:
    if frame[36:40] == b"VBRI" and len(frame) >= 54:
        return _Note(int.from_bytes(frame[50:54], "big"), None)
    found = max(frame.find(b"Xing", 4, 46), frame.find(b"Info", 4, 46))  # after 9 to 32 bytes of zeros, or a checksum
    if found < 0:
        return None
    place = found + 8
    has_count = len(frame) >= place + 4 and frame[place - 1] & 1
    return _Note(int.from_bytes(frame[place : place + 4], "big"), place) if has_count else _Note(None, None)


def _with_true_note(size: int, frames: MpegFrames, note: _Note | None, n_frames: int) -> list[bytes | tuple[int, int]]:
    count = n_frames.to_bytes(4, "big")
    if note is None or note.place is None or note.n_frames is None:
        sound = frames.start + (len(frames.first) if note else 0)
        return [_note_frame(frames.first[:4], count), (sound, size)]
    if note.n_frames < n_frames - _TOLERANCE:
        place = frames.start + note.place
        return [(frames.start, place), count, (place + 4, size)]
    return [(frames.start, size)]


def _note_frame(header: bytes, count: bytes) -> bytes:
    """Return a frame without sound, of the kind of the given header, whose note says how many frames follow it."""
    header = bytes((0xFF, header[1] | 1, header[2] & 0x0C | _MIDDLE_BIT_RATE, header[3]))  # without checksum, padding
    is_mpeg_1, is_mono = header[1] & 8, header[3:] >= MONO
    n_zeros = (17 if is_mono else 32) if is_mpeg_1 else (9 if is_mono else 17)  # in place of side information
    note = header + bytes(n_zeros) + b"Xing" + (1).to_bytes(4, "big") + count
    return note.ljust(FRAME_HEADERS[header[:3]][0], b"\0")
