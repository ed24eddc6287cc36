"""One clip of a manifest -> one row of a pack; runs in the packer's worker processes, so it imports no HDF5."""

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from epanns import atomic
from epanns.audio.waveform import load_waveform, pad_or_truncate, to_int16
from epanns.data.manifest import Clip
from epanns.errors import DataError

_MARGIN_SECONDS = 1.0  # decoded beyond the row's end, so that cutting cannot disturb the resampler's last samples


@dataclass(frozen=True, slots=True)
class Source:
    """State of an audio file when it was packed: size in bytes, time of change in ns, sha256 of its bytes."""

    size: int
    mtime_ns: int
    sha256: str


@dataclass(frozen=True, slots=True)
class PackedClip:
    """A row of a pack, or the reason why there is none.

    Attributes:
        waveform: ``(clip_samples,)`` int16, or None where the clip is rejected.
        n_samples: Real samples before the padding.
        crc32: Of the waveform's bytes.
        n_clipped: Samples that were limited to [-1, 1].
        is_silent: Whether every sample is zero.
        reason: Why the clip is rejected; empty where it is not.
        source: The file that was read; None where there is none.
    """

    waveform: NDArray[np.int16] | None
    n_samples: int
    crc32: int
    n_clipped: int
    is_silent: bool
    reason: str
    source: Source | None


def convert_clip(clip: Clip, sample_rate: int, clip_samples: int) -> PackedClip:
    """Decode, downmix, resample, limit, cut or pad and quantise one clip."""
    source = None
    try:
        source = read_source(clip)
        loaded = load_waveform(
            Path(clip.path),
            sample_rate=sample_rate,
            start=clip.start,
            duration=clip.duration,
            limit=clip_samples / sample_rate + _MARGIN_SECONDS,
        )
    except DataError as error:
        return PackedClip(None, 0, 0, 0, False, str(error), source)
    waveform = np.ascontiguousarray(to_int16(pad_or_truncate(loaded.samples, clip_samples)))
    n_samples = min(len(loaded.samples), clip_samples)
    crc32, is_silent = zlib.crc32(waveform.data), not waveform.any()
    return PackedClip(waveform, n_samples, crc32, loaded.n_clipped, is_silent, "", source)


def read_source(clip: Clip) -> Source:
    """Return the state of a clip's file.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        status = Path(clip.path).stat()
        return Source(status.st_size, status.st_mtime_ns, atomic.sha256_of(Path(clip.path)))
    except OSError as error:
        raise DataError(
            f"{clip.path}: cannot be read ({error.strerror}); correct the path or remove the clip"
        ) from error
