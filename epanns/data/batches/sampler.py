"""Samplers: the clips of each batch as pure functions of seed and position, so that resuming needs no saved state.

A sampler is an endless stream of clips with random access. The batch of step k is the positions from k * batch_size on,
independent of earlier batches. Several processes share each batch: their parts together are the batch of one process.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from epanns.data.packs.any_pack import SparseTargets
from epanns.errors import ConfigError, PackError, did_you_mean
from epanns.seeding import numpy_generator


class Draw(NamedTuple):
    """A clip drawn by a sampler.

    Attributes:
        clip: Index of the clip in the data set.
        number: Position of the draw in the endless stream, from which a random crop is computed.
    """

    clip: int
    number: int


class Stream(Protocol):
    """An endless stream of clips."""

    def __getitem__(self, position: int) -> int:
        """Return the clip at a position."""
        ...


def sequential_batches(n_clips: int, batch_size: int, *, rank: int = 0, world_size: int = 1) -> list[range]:
    """Return batches of all clips in order; the last batch may be shorter.

    Each of several processes gets a contiguous share. Every clip is in exactly one share; no clip is repeated.
    """
    _check_rank(rank, world_size)
    first, end = n_clips * rank // world_size, n_clips * (rank + 1) // world_size
    return [range(start, min(start + batch_size, end)) for start in range(first, end, batch_size)]


class ShuffledStream:
    """All clips in random order, in every pass a new order."""

    def __init__(self, targets: SparseTargets, seed: int) -> None:
        """Store the number of clips.

        Raises:
            PackError: If there are no clips.
        """
        if not len(targets):
            raise PackError("the training pack holds no clips; pack a split that has some")
        self._n_clips = len(targets)
        self._seed = seed
        self._pass: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    def __getitem__(self, position: int) -> int:
        """Return the clip at a position of the endless stream."""
        number, place = divmod(position, self._n_clips)
        if self._pass[0] != number:
            order = numpy_generator("shuffled pass", self._seed, number).permutation(self._n_clips)
            self._pass = (number, order)
        return int(self._pass[1][place])


class BalancedStream:
    """PANNs' balanced sampling: in each turn, one clip of every class.

    A turn visits the classes in random order. The clips of a class are drawn in random order, all of them before one is
    repeated. Classes without clips are left out.

        turn 0: c2 c0 c1 | turn 1: c1 c2 c0 | turn 2: ...      position = turn * classes + place
        c0's clips:  a         d         b    ...                c0 has given one clip per turn

    Since each class gives exactly one clip per turn, its position in its own order is the turn: no state is needed.

    Source: Kong et al. 2020, section III-B; `BalancedTrainSampler` in qiuqiangkong/audioset_tagging_cnn.
    """

    def __init__(self, targets: SparseTargets, seed: int) -> None:
        """Index the clips by their targets.

        Raises:
            PackError: If no clip has a label.
        """
        self._clips = [clips for clips in targets.clips_by_class() if len(clips)]
        if not self._clips:
            raise PackError(_no_label("balanced"))
        self._seed = seed
        self._turn: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))
        self._orders: dict[int, tuple[int, NDArray[np.int64]]] = {}

    def __getitem__(self, position: int) -> int:
        """Return the clip at a position of the endless stream."""
        turn, place = divmod(position, len(self._clips))
        if self._turn[0] != turn:
            order = numpy_generator("balanced turn", self._seed, turn).permutation(len(self._clips))
            self._turn = (turn, order)
        number = int(self._turn[1][place])
        clips = self._clips[number]
        pass_number, place = divmod(turn, len(clips))
        if number not in self._orders or self._orders[number][0] != pass_number:
            order = numpy_generator("balanced class", self._seed, number, pass_number).permutation(clips)
            self._orders[number] = (pass_number, order)
        return int(self._orders[number][1][place])


class WeightedStream:
    """Independent draws with replacement, the probability of a clip proportional to its weight.

        weight of clip i = sum over its classes c of 1 / (100 + clips of c)

    Rare classes have larger weights, and clips with several classes. The source draws epochs of 100,000 clips without
    replacement. Clips without a label are never drawn.

    Source: `get_ft_cls_balanced_sample_weights` in kkoutini/PaSST and fschmid56/EfficientAT, with weights 1000 times as
    large, which does not matter.
    """

    _OFFSET = 100  # bounds the weight of the rarest classes
    _BLOCK = 4096  # positions drawn at once

    def __init__(self, targets: SparseTargets, seed: int) -> None:
        """Index the clips by their targets.

        Raises:
            PackError: If no clip has a label.
        """
        clips = np.repeat(np.arange(len(targets), dtype=np.int32), np.diff(targets.offsets))
        if not len(clips):
            raise PackError(_no_label("weighted"))
        of_class = 1.0 / (self._OFFSET + targets.counts())
        weights = np.bincount(clips, weights=of_class[targets.classes], minlength=len(targets))
        self._ends = np.cumsum(weights)
        self._last = int(clips[-1])
        self._seed = seed
        self._block: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    def __getitem__(self, position: int) -> int:
        """Return the clip at a position of the endless stream."""
        number, place = divmod(position, self._BLOCK)
        if self._block[0] != number:
            points = numpy_generator("weighted block", self._seed, number).random(self._BLOCK) * self._ends[-1]
            # The first clip whose interval ends after the point; rounding may put a point at the very end.
            drawn = np.searchsorted(self._ends, points, side="right")
            self._block = (number, np.minimum(drawn, self._last))
        return int(self._block[1][place])


SAMPLERS: dict[str, type[BalancedStream] | type[ShuffledStream] | type[WeightedStream]] = {
    "balanced": BalancedStream,
    "shuffled": ShuffledStream,
    "weighted": WeightedStream,
}


def make_stream(sampler: str, targets: SparseTargets, seed: int) -> Stream:
    """Return a sampler over the clips with the given targets.

    Args:
        sampler: A key of `SAMPLERS`.
        targets: Classes of each clip.
        seed: Seed of the order.

    Raises:
        ConfigError: If the name is unknown.
        PackError: If no clip can be drawn.
    """
    if sampler not in SAMPLERS:
        names = list(SAMPLERS)
        rule = f"must be {', '.join(names[:-1])} or {names[-1]}"
        raise ConfigError(f"sampler={sampler!r}{did_you_mean(sampler, SAMPLERS)}: {rule}")
    return SAMPLERS[sampler](targets, seed)


class StepBatches:
    """The batches of optimisation steps ``first_step`` to ``last_step - 1``.

    The batch of step k is the `batch_size` positions of the stream from ``k * batch_size`` on, or some of them for one
    of several processes.
    """

    def __init__(
        self,
        stream: Stream,
        *,
        batch_size: int,
        last_step: int,
        first_step: int = 0,
        places: Sequence[int] | None = None,
    ) -> None:
        """Store the steps and the share of this process.

        Args:
            stream: A sampler, see `make_stream`.
            batch_size: Clips of a step, over all processes.
            last_step: The step after the last batch.
            first_step: The step of the first batch.
            places: Positions of this process's clips in each batch, see `places_of_step`; None for all.
        """
        self._stream = stream
        self._batch_size = batch_size
        self._places = range(batch_size) if places is None else places
        self._steps = range(first_step, last_step)

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[list[Draw]]:
        for step in self._steps:
            first = step * self._batch_size
            yield [Draw(self._stream[first + place], first + place) for place in self._places]


def places_of_step(
    batch_size: int, *, together: int = 1, parts: int = 1, rank: int = 0, world_size: int = 1
) -> list[int]:
    """Return the positions of a process's clips in a step's batch, which all processes share.

    With gradient accumulation a batch is processed in parts. Each process gets a contiguous share of each part, so that
    the processes together have the same parts as a single process::

        batch of 16, 2 parts      | 0  1  2  3   4  5  6  7 | 8  9 10 11  12 13 14 15 |
                                    rank 0       rank 1       rank 0      rank 1

    Args:
        batch_size: Clips of a step, over all processes.
        together: Number of neighbours that must stay together: 2 with mixup.
        parts: Number of parts of the batch.
        rank: Rank of the process, in 0..world_size - 1.
        world_size: Number of processes.

    Raises:
        ConfigError: If the batch size is not positive or the batch cannot be divided equally.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size={batch_size}: must be at least 1")
    _check_rank(rank, world_size)
    if batch_size % (together * parts * world_size):
        groups = f" in groups of {together}" if together > 1 else ""
        groups += f" in {parts} parts" if parts > 1 else ""
        raise ConfigError(
            f"a batch of {batch_size} clips cannot be shared out to {world_size} processes{groups}: "
            f"take a multiple of {together * parts * world_size}"
        )
    share = batch_size // (parts * world_size)
    starts = [(part * world_size + rank) * share for part in range(parts)]
    return [place for start in starts for place in range(start, start + share)]


def _check_rank(rank: int, world_size: int) -> None:
    if not 0 <= rank < world_size:
        raise ConfigError(f"rank={rank} of world_size={world_size}: must be in 0..{world_size - 1}")


def _no_label(sampler: str) -> str:
    return f"no clip of the training pack has a label, which {sampler} sampling needs; use sampler 'shuffled'"
