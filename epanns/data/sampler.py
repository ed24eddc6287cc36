"""Which clips make a batch: pure functions of seed and position, so that nothing has to be saved to go on."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from epanns.data.targets import SparseTargets
from epanns.errors import ConfigError, PackError, did_you_mean
from epanns.seeding import numpy_generator


def sequential_batches(n_clips: int, batch_size: int) -> list[list[int]]:
    """Return all clips in order, the last batch as short as it comes."""
    return [list(range(first, min(first + batch_size, n_clips))) for first in range(0, n_clips, batch_size)]


class ShuffledStream:
    """All clips in random order, again and again, each pass in another order."""

    def __init__(self, targets: SparseTargets, seed: int) -> None:
        """Take the clips' targets; only their number matters."""
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
    """PANNs' balanced sampling: turns in which each class gives one clip.

    A turn goes through the classes in random order. A class gives its clips in random order, all of them before any
    comes again. Classes without clips are left out.

        turn 0: c2 c0 c1 | turn 1: c1 c2 c0 | turn 2: ...      position = turn * classes + place
        c0's clips:  a         d         b    ...                c0 has given one clip per turn

    Since a class gives exactly one clip a turn, the turn alone says where it is in its own order: no pointer is kept.

    Source: Kong et al. 2020, section III-B; `BalancedTrainSampler` in qiuqiangkong/audioset_tagging_cnn.
    """

    def __init__(self, targets: SparseTargets, seed: int) -> None:
        """Take the clips' targets.

        Raises:
            PackError: If no clip has a label.
        """
        self._clips = [clips for clips in targets.clips_by_class() if len(clips)]
        if not self._clips:
            raise PackError(
                "no clip of the training pack has a label, which balanced sampling needs; use sampler 'shuffled'"
            )
        self._seed = seed
        self._turn: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))
        self._orders: dict[int, tuple[int, NDArray[np.int64]]] = {}

    def __getitem__(self, position: int) -> int:
        """Return the clip at a position of the endless stream."""
        turn, place = divmod(position, len(self._clips))
        if self._turn[0] != turn:
            order = numpy_generator("balanced turn", self._seed, turn).permutation(len(self._clips))
            self._turn = (turn, order)
        return self._clip_of(int(self._turn[1][place]), turn)

    def _clip_of(self, number: int, turn: int) -> int:
        clips = self._clips[number]
        round_number, place = divmod(turn, len(clips))
        if number not in self._orders or self._orders[number][0] != round_number:
            order = numpy_generator("balanced class", self._seed, number, round_number).permutation(clips)
            self._orders[number] = (round_number, order)
        return int(self._orders[number][1][place])


SAMPLERS: dict[str, type[BalancedStream] | type[ShuffledStream]] = {
    "balanced": BalancedStream,
    "shuffled": ShuffledStream,
}


class StepBatches:
    """The batches of optimisation steps ``first_step`` to ``last_step - 1``.

    The batch of a step is a pure function of the targets, the seed and the step: a run that goes on at step k sees what
    it would have seen without the stop.
    """

    def __init__(
        self,
        targets: SparseTargets,
        *,
        sampler: str,
        batch_size: int,
        seed: int,
        first_step: int = 0,
        last_step: int,
    ) -> None:
        """Choose a sampler of `SAMPLERS` and the steps.

        Raises:
            ConfigError: If the sampler is unknown or the batch size is not positive.
            PackError: If there is nothing to draw.
        """
        if sampler not in SAMPLERS:
            raise ConfigError(f"sampler={sampler!r}{did_you_mean(sampler, SAMPLERS)}: must be {' or '.join(SAMPLERS)}")
        if batch_size < 1:
            raise ConfigError(f"batch_size={batch_size}: must be at least 1")
        self._stream: ShuffledStream | BalancedStream = SAMPLERS[sampler](targets, seed)
        self._batch_size = batch_size
        self._steps = range(first_step, last_step)

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[list[int]]:
        for step in self._steps:
            first = step * self._batch_size
            yield [self._stream[position] for position in range(first, first + self._batch_size)]
