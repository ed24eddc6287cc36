"""Stand-ins for `data.packing.conversion.convert_clip` in which one clip fails; importing them in a process is quick.

The clip is ``clip-000005.wav`` of the fixture `made`, or any whose name begins with ``bad``.
"""

import os
import signal
import time
from pathlib import Path

from epanns.data.packing import conversion
from epanns.errors import DataError


def is_bad(clip):
    name = Path(clip.path).name
    return name == "clip-000005.wav" or name.startswith("bad")


def divide(clip, row, sample_rate, min_seconds):
    return _with_loader(clip, row, sample_rate, min_seconds, ZeroDivisionError("by\nzero"))


def lack_memory(clip, row, sample_rate, min_seconds):
    return _with_loader(clip, row, sample_rate, min_seconds, MemoryError("much\ntoo much"))


def lack_open_files(clip, row, sample_rate, min_seconds):
    error = DataError("cannot be decoded")
    error.__cause__ = OSError(24, "Too many open files")
    return _with_loader(clip, row, sample_rate, min_seconds, error)


def lack_memory_once(clip, row, sample_rate, min_seconds):
    """Lack memory once; a file beside the clip marks the first attempt."""
    mark = Path(clip.path + ".tried")
    if not is_bad(clip) or mark.exists():
        return conversion.convert_clip(clip, row, sample_rate, min_seconds)
    mark.touch()
    return lack_memory(clip, row, sample_rate, min_seconds)


def die(clip, row, sample_rate, min_seconds):
    if is_bad(clip):
        os._exit(9)
    return conversion.convert_clip(clip, row, sample_rate, min_seconds)


def be_killed(clip, row, sample_rate, min_seconds):
    if is_bad(clip):
        os.kill(os.getpid(), signal.SIGKILL)
    return conversion.convert_clip(clip, row, sample_rate, min_seconds)


def hang(clip, row, sample_rate, min_seconds):
    if is_bad(clip):
        time.sleep(1_000)
    return conversion.convert_clip(clip, row, sample_rate, min_seconds)


def _with_loader(clip, row, sample_rate, min_seconds, error):
    """Convert as usual, but let the decoder raise an error at the bad clip."""

    def raise_it(path, **options):
        raise error

    whole = conversion.load_waveform
    conversion.load_waveform = raise_it if is_bad(clip) else whole
    try:
        return conversion.convert_clip(clip, row, sample_rate, min_seconds)
    finally:
        conversion.load_waveform = whole


def hang_for_ever():
    """Wait for ever, also after a signal."""
    while True:
        time.sleep(0.1)
