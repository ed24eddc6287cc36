"""Which clips become the validation set and the test set: drawn by class, whole groups at a time."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from epanns.seeding import numpy_generator

TRAIN, VAL, TEST = "train", "val", "test"


def draw_sides(
    groups: Sequence[str],
    labels: Sequence[Sequence[int]],
    fractions: Mapping[str, float],
    *,
    num_classes: int,
    seed: int,
) -> list[str]:
    """Return the split of each clip; clips of one group get the same.

    Stratification for several labels, after Sechidis, Tsoumakas and Vlahavas (2011): classes in the order of how few
    groups have them, the groups of a class in a random order, each to a held-out split that has not its share of the
    class yet, the rest to `TRAIN`. Then groups are moved, or two exchanged, as long as fewer classes then lack in
    a split.

    So a class with at least as many groups as there are splits is in each of them, wherever the clips of a group have
    all the same one class; with several classes in a group this may be impossible. The random order depends on the seed
    and the names of the groups alone, so a group that is added moves few others.

    Args:
        groups: Name of each clip's group.
        labels: Indices of each clip's classes; none for clips that must not count, such as missing ones.
        fractions: Share of each split, in (0, 1], `TRAIN` included; they sum to 1.
        num_classes: Number of classes.
        seed: Seed of the draw.
    """
    sides = sorted(fractions, key=lambda side: (side != TRAIN, side))
    shares = np.array([fractions[side] for side in sides])
    names = sorted(set(groups), key=lambda name: (_draw(name, seed), name))
    counts = _counts_by_group(groups, labels)
    holders: list[list[str]] = [[] for _ in range(num_classes)]
    for name in names:
        for index in counts[name]:
            holders[index].append(name)
    side_of = _assign(holders, counts, shares)
    _repair(side_of, holders, counts, len(sides))
    ends = np.cumsum(shares)
    for name in names:  # groups without a clip that counts
        if name not in side_of:
            side_of[name] = min(int(np.searchsorted(ends, _draw(name, seed), side="right")), len(sides) - 1)
    return [sides[side_of[name]] for name in groups]


def _draw(name: str, seed: int) -> float:
    """Return a number in [0, 1) that depends on the seed and the name alone."""
    return float(numpy_generator("folder split", seed, name).random())


def _counts_by_group(groups: Sequence[str], labels: Sequence[Sequence[int]]) -> dict[str, Counter[int]]:
    counts: dict[str, Counter[int]] = {name: Counter() for name in groups}
    for name, indices in zip(groups, labels, strict=True):
        counts[name].update(indices)
    return counts


def _assign(
    holders: Sequence[Sequence[str]], counts: Mapping[str, Counter[int]], shares: NDArray[np.float64]
) -> dict[str, int]:
    """Return the side of each group that has a clip that counts."""
    totals = np.zeros(len(holders))
    for counted in counts.values():
        for index, number in counted.items():
            totals[index] += number
    lacking = shares[:, None] * totals  # (sides, classes): clips that a side should still get
    present = np.zeros(lacking.shape, bool)
    rest = np.zeros(len(shares))  # of the classes before: what rounding left, so that the whole comes near its share
    side_of: dict[str, int] = {}
    for index in sorted(range(len(holders)), key=lambda index: (len(holders[index]), index)):
        waiting = [name for name in holders[index] if name not in side_of]
        for place, name in enumerate(waiting):
            absent = np.flatnonzero(~present[:, index]).tolist()
            # Where as many groups are left as sides without the class, each of these sides gets one.
            is_last_chance = bool(absent) and len(absent) >= len(waiting) - place
            sides = absent if is_last_chance else range(len(shares))
            side_of[name] = side = _side_for(counts[name][index], lacking[:, index] + rest, sides)
            for other, number in counts[name].items():
                lacking[side, other] -= number
                present[side, other] = True
        if len(holders[index]) >= len(shares):
            rest = np.clip(lacking[:, index] + rest, -0.5, 0.5)
    return side_of


def _side_for(clips: int, lacking: NDArray[np.float64], sides: Sequence[int]) -> int:
    """Return the first held-out side that comes nearer to its share by so many clips, or else `TRAIN`, side 0.

    Held-out sides fill up first: so one more group moves few others.
    """
    fitting = [side for side in sides if side and lacking[side] >= clips / 2]
    if fitting:
        return fitting[0]
    return 0 if 0 in sides else max(sides, key=lambda side: lacking[side])


def _repair(
    side_of: dict[str, int], holders: Sequence[Sequence[str]], counts: Mapping[str, Counter[int]], n_sides: int
) -> None:
    """Move groups to sides that lack one of their classes, alone or in exchange for another, while that helps."""
    n_groups = np.zeros((n_sides, len(holders)), np.int64)
    for name, side in side_of.items():
        n_groups[side, list(counts[name])] += 1
    possible = np.array([len(names) >= n_sides for names in holders])
    moved = True
    while moved:
        lacking = np.argwhere((n_groups == 0) & possible).tolist()
        moved = any(
            _moves(moves, side_of, counts, n_groups, possible)
            for side, index in lacking
            for moves in _ways_in(side, holders[index], side_of, holders, counts, n_groups)
        )


def _ways_in(
    side: int,
    names: Sequence[str],
    side_of: Mapping[str, int],
    holders: Sequence[Sequence[str]],
    counts: Mapping[str, Counter[int]],
    n_groups: NDArray[np.int64],
) -> Iterator[dict[str, int]]:
    """Yield moves, name of a group -> new side, that bring one of the groups to a side; small groups first."""
    for name in sorted(names, key=lambda name: counts[name].total()):
        there = side_of[name]
        yield {name: side}
        alone = [index for index in counts[name] if n_groups[there, index] == 1]
        for other in holders[alone[0]] if alone else ():
            if side_of[other] == side:
                yield {name: side, other: there}


def _moves(
    moves: Mapping[str, int],
    side_of: dict[str, int],
    counts: Mapping[str, Counter[int]],
    n_groups: NDArray[np.int64],
    possible: NDArray[np.bool_],
) -> bool:
    """Make the moves and return True if fewer classes are then lacking; else change nothing."""
    touched = sorted({index for name in moves for index in counts[name] if possible[index]})
    before = n_groups[:, touched].copy()
    for name, side in moves.items():
        n_groups[side_of[name], list(counts[name])] -= 1
        n_groups[side, list(counts[name])] += 1
    if (n_groups[:, touched] == 0).sum() < (before == 0).sum():
        side_of.update(moves)
        return True
    for name, side in moves.items():
        n_groups[side, list(counts[name])] -= 1
        n_groups[side_of[name], list(counts[name])] += 1
    return False
