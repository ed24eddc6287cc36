"""Crop a clip to a window of fixed length; a shorter clip is padded with zeros or repeated."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from epanns.errors import ConfigError, did_you_mean
from epanns.seeding import derive_seed

PLACES = ("random", "start", "center")
SHORT_CLIPS = ("pad", "repeat")
SHORTEST_SECONDS, LONGEST_SECONDS = 0.01, 3600  # other lengths are errors of the unit


@dataclass(frozen=True)
class Crop:
    """How to cut a waveform of fixed length out of a row of a pack.

    Only a clip's own samples are used, not the padding of the pack::

        row     |---------------------|000000|      n_samples, then zeros
        random      |----------|                    anywhere within the clip; a function of (seed, number of the draw)
        start   |----------|
        center       |----------|
        a clip shorter than the window:  |------|0000|  "pad"        |------|----|  "repeat"

    Attributes:
        seconds: Length of the window, 0.01 to 3600; None for the length of the pack's rows.
        where: One of `PLACES`.
        short: One of `SHORT_CLIPS`: pad a clip that is shorter than the window with zeros, or repeat it.
        seed: Seed of the random positions.

    Raises:
        ConfigError: If a value is out of range.
    """

    seconds: float | None
    where: str = "random"
    short: str = "pad"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.seconds is not None and not SHORTEST_SECONDS <= self.seconds <= LONGEST_SECONDS:
            rule = f"must be a length in seconds, {SHORTEST_SECONDS} to {LONGEST_SECONDS}"
            raise ConfigError(f"crop of {self.seconds} s: {rule}")
        for name, choices in (("where", PLACES), ("short", SHORT_CLIPS)):
            value = getattr(self, name)
            if value not in choices:
                hint = did_you_mean(str(value), choices)
                raise ConfigError(f"crop {name}={value!r}{hint}: must be one of {', '.join(choices)}")

    def samples(self, sample_rate: int) -> int | None:
        """Return the window's length in samples, at least 1; None for the length of the rows."""
        return None if self.seconds is None else max(1, round(self.seconds * sample_rate))

    def start(self, spare: int, number: int) -> int:
        """Return the window's first sample, in 0..spare, for the draw with a number; a pure function."""
        if self.where == "random":
            return derive_seed("crop", self.seed, number) % (spare + 1)
        return 0 if self.where == "start" else spare // 2

    def fill(self, out: NDArray[np.int16], clip: NDArray[np.int16], number: int) -> int:
        """Write the window of one draw to `out`.

        Args:
            out: ``(window,)``, filled completely.
            clip: ``(n_samples,)``, the clip's own samples, at least one.
            number: Number of the draw.

        Returns:
            Number of samples of `out` that are not padding.
        """
        window, n_samples = len(out), len(clip)
        if n_samples >= window:
            first = self.start(n_samples - window, number)
            out[:] = clip[first : first + window]
            return window
        if self.short == "pad":
            out[:n_samples] = clip
            out[n_samples:] = 0
            return n_samples
        out[:] = np.tile(clip, math.ceil(window / n_samples))[:window]
        return window
