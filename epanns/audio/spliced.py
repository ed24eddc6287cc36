"""A file for decoders, put together from parts of another file and bytes that replace its wrong length fields."""

import io
from typing import BinaryIO


class Spliced(io.RawIOBase):
    """A file of several pieces, read in place; nothing is copied.

    Args:
        file: The file that the pieces are parts of.
        pieces: Bytes of their own, or ``(start, stop)`` of the file.
    """

    def __init__(self, file: BinaryIO, pieces: list[bytes | tuple[int, int]]) -> None:
        super().__init__()
        self._file, self._pieces = file, pieces
        self._lengths = [len(piece) if isinstance(piece, bytes) else piece[1] - piece[0] for piece in pieces]
        self._place = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the byte that is read next."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a byte and return its number."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: sum(self._lengths)}[whence]
        self._place = max(0, base + offset)
        return self._place

    def readinto(self, buffer: object) -> int:
        """Fill a buffer as far as there are bytes and return how many there were."""
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        filled, begin = 0, 0
        for piece, length in zip(self._pieces, self._lengths, strict=True):
            skipped = self._place - begin
            begin += length
            if not 0 <= skipped < length or filled == len(view):
                continue
            wanted = min(length - skipped, len(view) - filled)
            if isinstance(piece, bytes):
                content = piece[skipped : skipped + wanted]
            else:
                self._file.seek(piece[0] + skipped)
                content = self._file.read(wanted)
            view[filled : filled + len(content)] = content
            filled += len(content)
            self._place += len(content)
        return filled
