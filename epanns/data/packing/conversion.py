"""One clip of a manifest -> one row of a pack, and the state of the audio file that it is read from.

It runs in the decoding processes, so it imports no HDF5.
"""

import errno
import functools
import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from epanns import atomic
from epanns.audio.resampling import to_int16
from epanns.audio.waveform import load_waveform, require_regular_file
from epanns.data.clip import Clip
from epanns.errors import DataError

_BYTES_PER_BYTE = 16  # memory that decoding takes for a byte of a row, at most: floats, channels and a higher rate
_ERRNOS = frozenset({errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE})
# libsndfile's: no memory; no FLAC decoder could be made; the FLAC decoder could not be initialised, for want of memory.
_LIBSNDFILE_CODES = frozenset({17, 156, 157})
_WORDS = re.compile(r"\bmalloc\b|out of memory|cannot allocate|can't start new thread|bad_alloc", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class SourceState:
    """State of an audio file when it was packed: size in bytes, time of change in ns, sha256 of its bytes."""

    size: int
    mtime_ns: int
    sha256: str


@dataclass(frozen=True, slots=True)
class PackedClip:
    """A row of a pack without its samples, or the reason why there is no row.

    Attributes:
        n_samples: Samples before the padding.
        crc32: Of the row's bytes.
        notes: How the row differs from the clip: for each name of `NOTES` that applies, the number of samples, or 1.
        reason: Why the clip is rejected; empty for a row.
        source: State of the file that was read; None where there is no file.
        needs: Name of the package that is missing to decode the clip; empty otherwise.
        to_retry: Whether the cause may be outside the file, so that the next run retries the clip.
    """

    n_samples: int
    crc32: int
    notes: Mapping[str, int]
    reason: str
    source: SourceState | None
    needs: str = ""
    to_retry: bool = False


def convert_clip(clip: Clip, row: NDArray[np.int16], sample_rate: int, min_seconds: float) -> PackedClip:
    """Decode, downmix, resample, limit, cut or pad and quantise one clip into ``(clip_samples,)``.

    The row of a rejected clip is undefined. Any exception of a decoder is a reason to reject the clip, except a lack of
    memory or of another resource of the system.

    Raises:
        MemoryError: If the system lacks memory or another resource.
    """
    source = None
    try:
        source = read_source(clip.path)
        loaded = load_waveform(
            Path(clip.path),
            sample_rate=sample_rate,
            start=clip.start,
            duration=clip.duration,
            limit=len(row) / sample_rate,
        )
        n_samples = len(loaded.samples)
        if n_samples / loaded.sample_rate < min_seconds:
            raise DataError(
                f"{clip.path}: {n_samples / loaded.sample_rate:.2f} s is shorter than min_seconds={min_seconds:g}; "
                "remove the clip or lower it"
            )
        row[:n_samples] = to_int16(loaded.samples)
    except MemoryError:
        raise
    except Exception as error:  # a mistake in a decoder too: one clip must not cost the others
        is_unsure = error.__cause__ is not None and _is_memory_short(_BYTES_PER_BYTE * row.nbytes)
        if is_unsure or is_resource_shortage(error):
            raise MemoryError(str(error)) from error
        reason, cause = str(error), error.__cause__
        if not isinstance(error, DataError):
            text = " ".join(f"{type(error).__name__}: {error}".split())
            reason = f"{clip.path}: cannot be decoded ({text}); convert it to WAV or FLAC, or remove it"
        needs = (cause.name or "").partition(".")[0] if isinstance(cause, ImportError) else ""
        is_broken_off = source is not None and isinstance(cause, OSError)  # by the disk or the network
        return PackedClip(0, 0, {}, reason, source, needs, to_retry=is_broken_off)
    row[n_samples:] = 0
    notes = {
        "short": int(n_samples < len(row)),
        "cut": int(loaded.is_cut),
        "silent": int(not row.any()),
        "clipped": loaded.n_clipped,
        "beyond_header": loaded.n_beyond_header,
        "unstated_length": int(not loaded.states_length),
    }
    applying = {name: number for name, number in notes.items() if number}
    return PackedClip(n_samples, zlib.crc32(row.data), applying, "", source)


def crashing_clip(clip: Clip, how_it_ended: str) -> PackedClip:
    """Return the reject of a clip that crashed two processes; its file is not read again, which may hang."""
    reason = (
        f"{clip.path}: two processes died at it (the second one, which decoded nothing else, {how_it_ended}); the same "
        "command retries it; if it stays, convert it to WAV or FLAC, or remove it"
    )
    return PackedClip(0, 0, {}, reason, None, to_retry=True)


def is_resource_shortage(error: BaseException) -> bool:
    """Return whether an error or one of its causes is a lack of memory, processes, threads or open files."""
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        if isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno in _ERRNOS):
            return True
        has_code = getattr(cause, "code", None) in _LIBSNDFILE_CODES
        if isinstance(cause, RuntimeError) and (has_code or _WORDS.search(str(cause))):
            return True
        seen.append(cause)
        cause = cause.__cause__
    return False


def _is_memory_short(n_bytes: int) -> bool:
    """Return whether this process cannot allocate a number of bytes."""
    try:
        np.empty(n_bytes, np.uint8)  # never written, so it takes address space only
    except MemoryError:
        return True
    return False


def read_source(path: str) -> SourceState:
    """Return the state of an audio file.

    Raises:
        DataError: If it cannot be read, or is no regular file.
    """
    try:
        status = require_regular_file(path)
        return SourceState(status.st_size, status.st_mtime_ns, _sha256_of(path, status.st_size, status.st_mtime_ns))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); correct the path or remove the clip") from error


def is_readable(path: str) -> bool:
    """Whether a path is a regular file that may be read."""
    return _size_and_time_of(path) is not None


def is_unchanged(path: str, source: SourceState | None) -> bool:
    """Whether a file still has a state; None is the state of a file that cannot be read.

    A file with another time of change, as copies and checkouts have it, is hashed.
    """
    found = _size_and_time_of(path)
    if source is None or found is None:
        return source is None and found is None
    size, mtime_ns = found
    if size != source.size or mtime_ns == source.mtime_ns:
        return size == source.size
    try:
        return _sha256_of(path, size, mtime_ns) == source.sha256
    except OSError:
        return False


def _size_and_time_of(path: str) -> tuple[int, int] | None:
    try:
        status = require_regular_file(path)
    except (OSError, DataError):
        return None
    return (status.st_size, status.st_mtime_ns) if os.access(path, os.R_OK) else None


@functools.lru_cache(16)
def _sha256_of(path: str, _size: int, _mtime_ns: int) -> str:
    """Return the sha256 of a file; clips that are cut from one recording share one reading of it."""
    return atomic.sha256_of(Path(path))
