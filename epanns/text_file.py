"""Small text files of unknown origin, read whole within a limit."""

import os
import stat
from pathlib import Path

from epanns.errors import EpannsError


def read_text(path: Path, *, error: type[EpannsError], limit: int, remedy: str) -> str:
    """Return the text of a regular file in UTF-8, with or without a byte order mark.

    Nothing is read of a file that is longer than `limit` or no regular file: a FIFO would wait for ever, and a sparse
    file fills the memory with zeros.

    Args:
        path: The file.
        error: Class of the error to raise.
        limit: Largest length of the file, in bytes.
        remedy: The last words of each message: what to do.

    Raises:
        EpannsError: Of class `error`, in one line, if the file cannot be read, is no regular file, is longer than
            `limit` or is not UTF-8.
    """
    try:
        # Opening a FIFO waits for its writer, unless it is opened without blocking.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise error(f"{path}: no regular file: {remedy}")
            content = file.read(limit + 1) if status.st_size <= limit else b""
    except (OSError, ValueError) as failure:  # a path with a NUL character is a ValueError
        reason = getattr(failure, "strerror", None) or failure
        raise error(f"{path}: cannot be read ({reason}): {remedy}") from failure
    if (length := max(status.st_size, len(content))) > limit:
        raise error(f"{path}: {length:,} bytes, must be at most {limit:,}: {remedy}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as failure:
        raise error(f"{path}: byte {failure.start:,} is not UTF-8: {remedy}") from failure
