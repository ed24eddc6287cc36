"""Sound is read from regular files only: opening a pipe waits for ever, and a device never ends."""

import os
import stat
from pathlib import Path

from epanns.errors import DataError

_KINDS = {
    stat.S_IFIFO: "a named pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFDIR: "a folder",
}


def require_regular_file(path: str | Path) -> os.stat_result:
    """Return the status of a regular file, or of the one that a symbolic link leads to, without opening it.

    Raises:
        DataError: If there is anything else at `path`, or the file is empty, as files of the kernel seem to be, whose
            reading may not end.
        OSError: If there is nothing, or it cannot be reached.
    """
    status = os.stat(path)  # noqa: PTH116 - path may be text, of which there are millions
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "no file")
        raise DataError(f"{path}: is {kind}, must be a regular file; correct the path or remove the clip")
    if not status.st_size:
        raise DataError(f"{path}: is empty, must hold sound; fetch the file again or remove the clip")
    return status
