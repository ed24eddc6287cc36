"""Random draws that belong to a clip, not to the batch it happens to stand in.

PyTorch draws the masks of dropout for a whole batch, so they depend on how it is cut into parts and on which process a
part is in. Inside `clip_draws` each clip draws from a seed of its own::

    one process     | clip 0  clip 1  clip 2  clip 3 |
    two processes   | clip 0  clip 1 | clip 2  clip 3 |     the same masks
    two parts       | clip 0  clip 1 | clip 2  clip 3 |     the same masks
"""

import functools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from epanns.errors import ConfigError
from epanns.seeding import derive_seed, numpy_generator

MOST_UNIFORMS = 32  # that a clip has for its stripes: drawn at once, for a compiled network can only read them

_LEVELS = 2**16  # chances are rounded to as many steps, since a mask takes 16 random bits of each value


def clip_seeds(seed: int, step: int, places: Iterable[int]) -> list[int]:
    """Return the seeds of the clips at some places of a step's global batch."""
    return [derive_seed("clip", seed, step, place) for place in places]


@contextmanager
def clip_draws(seeds: Sequence[int]) -> Iterator[None]:
    """Draw dropout masks and SpecAugment's stripes from the clips' own seeds.

    A clip's stripes depend on its seed alone: every network that hears the batch in the block, a teacher too, hears it
    with the same ones. Its dropout masks depend on its seed and on the dropouts before in the block: one forward pass
    that learns is meant, of a network that is the same each time.

    Args:
        seeds: One for each clip of the batch, at least one; once pairs are mixed, a pair has that of its first clip.
    """
    global _current
    former, _current = _current, _ClipDraws(seeds)
    try:
        yield
    finally:
        _current = former


@contextmanager
def dropout_if(wanted: bool) -> Iterator[None]:
    """Let `dropout` do its work in the block, or pass on all values as they are."""
    global _drops
    former, _drops = _drops, wanted
    try:
        yield
    finally:
        _drops = former


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Zero each value of ``(batch, ...)`` with probability `p` and multiply the others by ``1 / (1 - p)``.

    `torch.nn.functional.dropout`, but inside `clip_draws` each clip's mask is its own. On other devices than the CPU,
    and in a compiled network, the masks always come from torch's generator, which is faster there.

    Raises:
        ConfigError: Inside `clip_draws`, if the batch has neither as many clips as there are seeds nor half as many.
    """
    draws, training = _current, training and _drops
    if draws is None or not training or not 0 < p < 1 or x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, p, training)
    return x * draws.kept(x, p).to(x.dtype).mul_(1 / (1 - p))


def clip_uniforms(n_clips: int, n: int) -> Tensor | None:
    """Return ``(n_clips, n)`` float64 in [0, 1) that depend on the clips' seeds alone; None outside `clip_draws`.

    Raises:
        ConfigError: If there are neither as many clips as seeds nor half as many, or `n` is above `MOST_UNIFORMS`.
    """
    if _current is None:
        return None
    if n > MOST_UNIFORMS:
        raise ConfigError(f"{n} random numbers of each clip: at most {MOST_UNIFORMS} are drawn")
    return _current.uniforms[:: _current.every(n_clips), :n]


class _ClipDraws:
    """The random numbers of a batch's clips."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self._n_clips = len(seeds)
        if not self._n_clips:
            raise ConfigError("clip_draws without a seed: give one for each clip of the batch")
        self._seeds = list(seeds)
        numbers = [numpy_generator("uniforms", seed).random(MOST_UNIFORMS) for seed in seeds]
        self.uniforms = torch.from_numpy(np.stack(numbers))

    @functools.cached_property
    def _generators(self) -> list[np.random.Generator]:
        """One for each clip; it goes on where the dropout before ended, so that layers of one shape differ in masks."""
        return [numpy_generator("dropout", seed) for seed in self._seeds]

    def every(self, n_clips: int) -> int:
        """Return 1 where a batch has a clip for each seed, 2 where pairs were mixed."""
        if n_clips == self._n_clips:
            return 1
        if 2 * n_clips == self._n_clips:
            return 2
        raise ConfigError(f"{n_clips} clips inside clip_draws of {self._n_clips} seeds: give one for each clip")

    def kept(self, x: Tensor, p: float) -> Tensor:
        """Return a bool mask in the shape of ``(batch, ...)``, each value true with probability ``1 - p``.

        Maps have their mask in channels-last order in memory, in which networks learn; it is the same in any other.
        """
        generators = self._generators[:: self.every(len(x))]
        n_values = x[0].numel()
        bits = np.empty((len(x), -(-n_values // 4)), np.uint64)
        for clip, generator in enumerate(generators):
            bits[clip] = generator.integers(0, 2**64 - 1, bits.shape[1], np.uint64, endpoint=True)
        # Read as signed numbers, which torch compares: the lowest is -32768, and there is no 32768 to be below.
        first_dropped = min(round((1 - p) * _LEVELS), _LEVELS - 1) - _LEVELS // 2
        kept = torch.from_numpy(bits.view(np.int16))[:, :n_values] < first_dropped
        if x.dim() != 4:
            return kept.reshape(x.shape)
        return kept.reshape(len(x), *x.shape[2:], x.shape[1]).permute(0, 3, 1, 2)


_current: _ClipDraws | None = None
_drops = True
