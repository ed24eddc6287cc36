"""One clip of a manifest -> one row of a pack; runs in the packer's worker processes, so it imports no HDF5."""

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from epanns.audio.waveform import Waveform, load_waveform, to_int16
from epanns.data.clip import Clip
from epanns.data.origin import Source, read_source
from epanns.errors import DataError


@dataclass(frozen=True, slots=True)
class PackedClip:
    """What is known of a row of a pack beside its samples, or the reason why there is no row.

    Attributes:
        n_samples: Real samples before the padding.
        crc32: Of the row's bytes.
        n_clipped: Samples that were limited to [-1, 1].
        is_silent: Whether every sample is zero.
        is_short: Whether it ended before the row.
        reason: Why the clip is rejected; empty where it is not.
        source: The file that was read; None where there is none.
        needs: Name of a package without which the clip could not be decoded; else empty.
    """

    n_samples: int
    crc32: int
    n_clipped: int
    is_silent: bool
    is_short: bool
    reason: str
    source: Source | None
    needs: str = ""


def convert_clip(clip: Clip, row: NDArray[np.int16], sample_rate: int, min_seconds: float) -> PackedClip:
    """Decode, downmix, resample, limit, cut or pad and quantise one clip into ``(clip_samples,)``.

    A clip that is rejected leaves the row as it was, or half written. Whatever a decoder raises is a reason to reject.
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
    except DataError as error:
        return _rejected(str(error), source, _missing_package(error))
    except Exception as error:  # want of memory, or a mistake in a decoder: one clip must not cost the others
        met = " ".join(f"{type(error).__name__}: {error}".split())
        return _rejected(f"{clip.path}: cannot be decoded ({met}); convert it to WAV or FLAC, or remove it", source)
    n_samples = len(loaded.samples)
    row[:n_samples] = to_int16(loaded.samples)
    row[n_samples:] = 0
    crc32, is_short = zlib.crc32(row.data), n_samples < len(row)
    return PackedClip(n_samples, crc32, loaded.n_clipped, not row.any(), is_short, "", source)


def crashing_clip(clip: Clip) -> PackedClip:
    """Return what is said of a clip that ended two processes."""
    reason = (
        f"{clip.path}: crashes the decoder (its process died, and another that had nothing else to do); convert it to "
        "WAV or FLAC, or remove it"
    )
    try:
        return _rejected(reason, read_source(clip.path))
    except DataError:
        return _rejected(reason, None)


def _rejected(reason: str, source: Source | None, needs: str = "") -> PackedClip:
    return PackedClip(0, 0, 0, False, False, reason, source, needs)


def _missing_package(error: DataError) -> str:
    cause = error.__cause__
    return (cause.name or "").partition(".")[0] if isinstance(cause, ImportError) else ""


def _refuse_short(clip: Clip, loaded: Waveform, min_seconds: float) -> None:
    seconds = len(loaded.samples) / loaded.sample_rate
    if seconds < min_seconds:
        raise DataError(
            f"{clip.path}: {seconds:.2f} s is shorter than min_seconds={min_seconds:g}; remove the clip or lower it"
        )
