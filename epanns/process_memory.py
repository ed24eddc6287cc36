"""The C library's handling of freed memory."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # numbers of the two settings in glibc


def keep_freed_memory() -> bool:
    """Make this process reuse the memory it frees instead of returning it to the system, until it ends.

    glibc returns blocks above 32 MiB to the system, which fills every page of the next block with zeros. Training
    allocates maps and gradients of this size at each step, in the same sizes, so the peak of the process hardly grows;
    if blocks grow from step to step, gaps remain between them and the peak can be larger. The commands that train or
    score call this function; the library does not, since it does not own the process.

    Returns:
        Whether the C library supports it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))
