"""One clip of a manifest -> one row of a pack; runs in the packer's worker processes, so it imports no HDF5."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from epanns.audio.resampling import to_int16
from epanns.audio.waveform import Waveform, load_waveform
from epanns.data.clip import Clip
from epanns.data.origin import Source, read_source
from epanns.data.system_limits import is_memory_short, is_want_of_resources
from epanns.errors import DataError

_BYTES_PER_BYTE = 16  # memory that decoding takes for a byte of a row, at most: floats, channels and a higher rate


@dataclass(frozen=True, slots=True)
class PackedClip:
    """What is known of a row of a pack beside its samples, or the reason why there is no row.

    Attributes:
        n_samples: Real samples before the padding.
        crc32: Of the row's bytes.
        notes: How the row differs from the clip: of each name of `NOTES` that holds, the number of samples, or 1.
        reason: Why the clip is rejected; empty where it is not.
        source: The file that was read; None where there is none.
        needs: Name of a package without which the clip could not be decoded; else empty.
        to_retry: Whether the reason may lie outside the file, so that the next run retries the clip.
    """

    n_samples: int
    crc32: int
    notes: Mapping[str, int]
    reason: str
    source: Source | None
    needs: str = ""
    to_retry: bool = False


def convert_clip(clip: Clip, row: NDArray[np.int16], sample_rate: int, min_seconds: float) -> PackedClip:
    """Decode, downmix, resample, limit, cut or pad and quantise one clip into ``(clip_samples,)``.

    A clip that is rejected leaves the row as it was, or half written. Whatever a decoder raises is a reason to reject,
    save the want of memory or of another resource of the system.

    Raises:
        MemoryError: If that is wanting.
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
        _refuse_short(clip, loaded, min_seconds)
        n_samples = len(loaded.samples)
        row[:n_samples] = to_int16(loaded.samples)
    except MemoryError:
        raise
    except Exception as error:  # a mistake in a decoder too: one clip must not cost the others
        is_unsure = error.__cause__ is not None and is_memory_short(_BYTES_PER_BYTE * row.nbytes)
        if is_unsure or is_want_of_resources(error):
            raise MemoryError(str(error)) from error
        return _rejection(clip, error, source)
    row[n_samples:] = 0
    notes = {
        "short": int(n_samples < len(row)),
        "cut": int(loaded.is_cut),
        "silent": int(not row.any()),
        "clipped": loaded.n_clipped,
        "beyond_header": loaded.n_beyond_header,
        "unstated_length": int(not loaded.states_length),
    }
    held = {name: number for name, number in notes.items() if number}
    return PackedClip(n_samples, zlib.crc32(row.data), held, "", source)


def crashing_clip(clip: Clip, how_it_ended: str) -> PackedClip:
    """Return the reject of a clip that ended two processes; its file is not read once more, which may hang.

    Args:
        clip: The clip.
        how_it_ended: How the second process ended, which worked on nothing else.
    """
    reason = (
        f"{clip.path}: two processes died at it (the second one, which worked on nothing else, {how_it_ended}); the "
        "same command retries it; if it stays, convert it to WAV or FLAC, or remove it"
    )
    return PackedClip(0, 0, {}, reason, None, to_retry=True)


def _rejection(clip: Clip, error: Exception, source: Source | None) -> PackedClip:
    reason = str(error)
    if not isinstance(error, DataError):
        met = " ".join(f"{type(error).__name__}: {error}".split())
        reason = f"{clip.path}: cannot be decoded ({met}); convert it to WAV or FLAC, or remove it"
    is_broken_off = source is not None and isinstance(error.__cause__, OSError)  # by the disk or the network
    return PackedClip(0, 0, {}, reason, source, _missing_package(error), to_retry=is_broken_off)


def _missing_package(error: Exception) -> str:
    cause = error.__cause__
    return (cause.name or "").partition(".")[0] if isinstance(cause, ImportError) else ""


def _refuse_short(clip: Clip, loaded: Waveform, min_seconds: float) -> None:
    seconds = len(loaded.samples) / loaded.sample_rate
    if seconds < min_seconds:
        raise DataError(
            f"{clip.path}: {seconds:.2f} s is shorter than min_seconds={min_seconds:g}; remove the clip or lower it"
        )
