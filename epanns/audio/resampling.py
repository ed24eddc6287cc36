"""Conversions of decoded sound: mix down to mono, resample (soxr), quantise to int16."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

RESAMPLER_QUALITY = "HQ"  # soxr_hq, librosa's default since 0.10; PANNs' packs were made with resampy
INT16_MAX = 32_767  # the int16 value of 1.0


def mix_to_mono(frames: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean over the channels of ``(frames, channels)``; overflow gives infinity without a warning."""
    n_channels = frames.shape[1]
    mono = frames[:, 0]
    with np.errstate(over="ignore", invalid="ignore"):
        if n_channels > 1:
            mono = mono + frames[:, 1]
            for channel in range(2, n_channels):
                mono += frames[:, channel]
            mono /= n_channels
    return mono


def resample(
    blocks: Iterator[NDArray[np.float32]], source_rate: int, sample_rate: int
) -> Iterator[NDArray[np.float32]]:
    """Change the sample rate of a waveform that is given block by block.

    The result is, to the last bit, that of soxr for the whole waveform.

    Args:
        blocks: ``(samples,)`` float32 each.
        source_rate: Sample rate of the blocks in Hz.
        sample_rate: Sample rate of the result in Hz; if it is equal, the blocks are yielded unchanged.
    """
    if source_rate == sample_rate:
        yield from blocks
        return
    import soxr

    stream = soxr.ResampleStream(source_rate, sample_rate, 1, dtype="float32", quality=RESAMPLER_QUALITY)
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.empty(0, np.float32), last=True)


def to_int16(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    """Convert [-1, 1] to int16, rounding to the nearest; the error is at most half of 1/32767."""
    scaled = samples * np.float32(INT16_MAX)
    rounded: NDArray[np.int16] = np.rint(scaled, out=scaled).astype(np.int16)
    return rounded
