"""Random numbers of dropout and SpecAugment that depend on the clip, not on its batch.

PyTorch draws dropout masks for a whole batch, so they depend on how the batch is divided into parts and among
processes. Inside `clip_draws` each clip has a seed of its own::

    one process     | clip 0  clip 1  clip 2  clip 3 |
    two processes   | clip 0  clip 1 | clip 2  clip 3 |     the same masks
    two parts       | clip 0  clip 1 | clip 2  clip 3 |     the same masks
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from epanns.errors import ConfigError
from epanns.seeding import derive_seed, numpy_generator

MOST_UNIFORMS = 32  # per clip, for its stripes; drawn in advance, since a compiled network cannot draw them

_LEVELS = 2**16  # resolution of probabilities, since a mask uses 16 random bits per value


def clip_seeds(seed: int, step: int, places: Iterable[int]) -> list[int]:
    """Return the seeds of the clips at the given positions of the global batch of a step."""
    return [derive_seed("clip", seed, step, place) for place in places]


@contextmanager
def clip_draws(seeds: Sequence[int]) -> Iterator[None]:
    """Draw dropout masks and SpecAugment's stripes inside the block from the seeds of the clips.

    The stripes of a clip depend on its seed alone: all networks that read the batch inside the block, such as a
    teacher, have the same stripes. Dropout masks depend on the seed and on the number of dropouts before in the block,
    so the block should hold one forward pass in training mode.

    Args:
        seeds: One seed per clip of the batch, at least one; a mixed pair has the seed of its first clip.
    """
    global _current
    former, _current = _current, _ClipDraws(seeds)
    try:
        yield
    finally:
        _current = former


@contextmanager
def dropout_if(wanted: bool) -> Iterator[None]:
    """Enable or disable `dropout` inside the block."""
    global _drops
    former, _drops = _drops, wanted
    try:
        yield
    finally:
        _drops = former


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Zero each value of ``(batch, ...)`` with probability `p` and multiply the others by ``1 / (1 - p)``.

    Equals `torch.nn.functional.dropout`, but inside `clip_draws` the mask of a clip comes from its seed. On devices
    other than the CPU, and in a compiled network, all masks come from torch's generator, which is faster there.

    Raises:
        ConfigError: Inside `clip_draws`, if the number of clips is neither the number of seeds nor half of it.
    """
    draws, training = _current, training and _drops
    if draws is None or not training or not 0 < p < 1 or x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, p, training)
    return x * draws.kept(x, p).to(x.dtype).mul_(1 / (1 - p))


def clip_uniforms(n_clips: int, n: int) -> Tensor | None:
    """Return ``(n_clips, n)`` float64 in [0, 1) from the seeds of the clips; None outside `clip_draws`.

    Raises:
        ConfigError: If the number of clips is neither the number of seeds nor half of it, or `n` is too large.
    """
    if _current is None:
        return None
    if n > MOST_UNIFORMS:
        raise ConfigError(f"{n} random numbers of each clip: at most {MOST_UNIFORMS} are drawn")
    return _current.uniforms[:: _current.every(n_clips), :n]


class _ClipDraws:
    """Random numbers of the clips of a batch."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self._n_clips = len(seeds)
        if not self._n_clips:
            raise ConfigError("clip_draws without a seed: give one for each clip of the batch")
        self._seeds = list(seeds)
        # One per clip, continued from dropout to dropout, so that layers of equal shape have other masks.
        self._generators: list[np.random.Generator] = []
        numbers = [numpy_generator("uniforms", seed).random(MOST_UNIFORMS) for seed in seeds]
        self.uniforms = torch.from_numpy(np.stack(numbers))

    def every(self, n_clips: int) -> int:
        """Return 1 for a batch with one clip per seed, 2 for mixed pairs."""
        if n_clips == self._n_clips:
            return 1
        if 2 * n_clips == self._n_clips:
            return 2
        raise ConfigError(f"{n_clips} clips inside clip_draws of {self._n_clips} seeds: give one for each clip")

    def kept(self, x: Tensor, p: float) -> Tensor:
        """Return a bool mask in the shape of ``(batch, ...)``, each value true with probability ``1 - p``.

        The mask of maps is in channels-last order in memory, as in training; its values do not depend on the order.
        """
        self._generators = self._generators or [numpy_generator("dropout", seed) for seed in self._seeds]
        generators = self._generators[:: self.every(len(x))]
        n_values = x[0].numel()
        bits = np.empty((len(x), -(-n_values // 4)), np.uint64)
        for clip, generator in enumerate(generators):
            bits[clip] = generator.integers(0, 2**64 - 1, bits.shape[1], np.uint64, endpoint=True)
        # Read as signed integers, which torch can compare; the largest is 32767.
        first_dropped = min(round((1 - p) * _LEVELS), _LEVELS - 1) - _LEVELS // 2
        kept = torch.from_numpy(bits.view(np.int16))[:, :n_values] < first_dropped
        if x.dim() != 4:
            return kept.reshape(x.shape)
        return kept.reshape(len(x), *x.shape[2:], x.shape[1]).permute(0, 3, 1, 2)


_current: _ClipDraws | None = None
_drops = True
