"""What becomes of memory that is freed."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # glibc's numbers of the two settings


def keep_freed_memory() -> bool:
    """Let this process keep the memory it frees, for what it needs next; return whether the C library can.

    glibc hands blocks above 32 MiB back to the system, and the system fills every page of the next one with zeros.
    Training makes maps and gradients of that size anew at each step, and in the same sizes, so that what the process
    holds at its most stays about the same; where blocks grow from step to step, holes stay between them and it can be
    more. It holds it to its end. For programs, which own their process: the commands that train or score call it, the
    library does not.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))
