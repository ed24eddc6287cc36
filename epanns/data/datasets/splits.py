"""Draw the train, validation and test splits of a data set: stratified by class, with groups of clips kept together.

Groups are clips that belong together: slices of one recording, sounds of one speaker or one place. They are more alike
than other clips, so results are too good if training and test split share a group.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from epanns.data.manifest import Manifest
from epanns.errors import ConfigError, DataError
from epanns.seeding import numpy_generator

TRAIN, VAL, TEST = "train", "val", "test"
UNSPLIT = "all"
"""The split of clips of a data set without splits."""


@dataclass(frozen=True)
class SplitSettings:
    """How clips without splits are split.

    Attributes:
        val_fraction: Fraction of the clips, 0..1, for the split ``val``.
        test_fraction: Fraction for ``test``; the rest is ``train``.
        seed: Seed of the draw.
        group_pattern: Regular expression that finds each clip's group, see `groups_by_pattern`; empty for no groups.
        group_column: Column of the CSV file with each clip's group; empty for no groups.
    """

    val_fraction: float = 0.0
    test_fraction: float = 0.0
    seed: int = 0
    group_pattern: str = ""
    group_column: str = ""

    def __post_init__(self) -> None:
        val, test = self.val_fraction, self.test_fraction
        if not (val >= 0 and test >= 0 and val + test < 1):  # refuses NaN too
            given = f"--val-fraction {val:g} and --test-fraction {test:g}"
            raise ConfigError(f"{given}: must not be negative and must leave clips to train on")
        if self.group_pattern and self.group_column:
            raise ConfigError("--group-pattern and --group-column both name the groups: give one of them")
        if (self.group_pattern or self.group_column) and not self.held_out:
            raise ConfigError("groups are used only to draw splits: give --val-fraction or --test-fraction too")

    @property
    def held_out(self) -> dict[str, float]:
        """Fraction of each held-out split; empty if no split is drawn."""
        fractions = {VAL: self.val_fraction, TEST: self.test_fraction}
        return {split: fraction for split, fraction in fractions.items() if fraction}


def draw_splits(manifest: Manifest, settings: SplitSettings, groups: Mapping[str, str]) -> Manifest:
    """Return the data set with splits drawn, and notes on the clips and classes of each split.

    Args:
        manifest: A data set whose clips are all in the split `UNSPLIT`.
        settings: Fractions, seed and groups.
        groups: Group of each clip id, if `settings` has a group column or clips are parts of files; else empty.

    Raises:
        ConfigError: If the data set has its own splits.
        DataError: If no file was found, or the group pattern finds no group for a clip.
    """
    if set(manifest.splits) != {UNSPLIT}:
        raise ConfigError(
            f"{manifest.dataset} has its own splits ({', '.join(manifest.splits)}): "
            "leave out --val-fraction and --test-fraction"
        )
    clips = (*manifest.clips, *manifest.missing)
    names, by = [clip.clip_id for clip in clips], ""
    if settings.group_pattern:
        names, found_in = groups_by_pattern(settings.group_pattern, names)
        by = f" and by group ({len(set(names))} groups, found in the {found_in} with {settings.group_pattern})"
    elif groups:
        names = [groups[name] for name in names]
        where = f"in the column {settings.group_column}" if settings.group_column else "the clips of a file"
        by = f" and by group ({len(set(names))} groups, {where})"
    if not manifest.clips:
        first = f"; the first would be {manifest.missing[0].path}" if manifest.missing else ""
        raise DataError(f"{manifest.dataset}: no file was found, so no splits can be drawn{first}; correct the paths")
    index_of = {name: index for index, name in enumerate(manifest.labels.names)}
    labels = [[index_of[label] for label in set(clip.labels)] for clip in manifest.clips]
    labels += [[] for _ in manifest.missing]
    fractions = {TRAIN: 1 - settings.val_fraction - settings.test_fraction, **settings.held_out}
    splits = stratify(names, labels, fractions, num_classes=len(index_of), seed=settings.seed)
    drawn = [replace(clip, split=split) for clip, split in zip(clips, splits, strict=True)]
    found, missing = tuple(drawn[: len(manifest.clips)]), tuple(drawn[len(manifest.clips) :])
    n_clips = Counter(clip.split for clip in found)
    listed = ", ".join(f"{split} {n_clips[split]} ({n_clips[split] / len(found):.1%})" for split in fractions)
    notes = [f"splits drawn by class{by}, seed {settings.seed}: {listed}"]
    for split in fractions:
        present = {label for clip in found if clip.split == split for label in clip.labels}
        absent = [name for name in manifest.labels.names if name not in present]
        if absent:
            listed = ", ".join(absent[:10]) + (", ..." if len(absent) > 10 else "")
            notes.append(f"{len(absent)} of {len(index_of)} classes have no clip in {split}: {listed}")
    return replace(manifest, clips=found, missing=missing, notes=(*manifest.notes, *notes))


def notes_on_groups(manifest: Manifest, groups: Mapping[str, str], group: str) -> tuple[str, ...]:
    """Return a note if clips of one group are in several splits, which makes scores too good.

    Args:
        manifest: A data set with splits.
        groups: Group of clip ids; clips that are not in it have no known group.
        group: What a group is, in the singular: ``recording``.
    """
    splits: dict[str, set[str]] = {}
    for clip in (*manifest.clips, *manifest.missing):
        if clip.clip_id in groups:
            splits.setdefault(groups[clip.clip_id], set()).add(clip.split)
    shared = sorted(name for name, found in splits.items() if len(found) > 1)
    if not shared:
        return ()
    first = f"{shared[0]} in {' and '.join(sorted(splits[shared[0]]))}"
    return (f"{group}s with clips in several splits: {len(shared)} of {len(splits)}, such as {first}; that is a leak",)


def groups_by_pattern(pattern: str, clip_ids: Sequence[str]) -> tuple[list[str], str]:
    """Find each clip's group in its id, which is the clip's path as the data set lists it.

    The pattern is searched in the last part of the id, the file name; if that fails for any clip, in the whole id of
    every clip.

    Args:
        pattern: Regular expression with one capturing group.
        clip_ids: Ids of the clips.

    Returns:
        Name of each clip's group, and where they were found: ``file name`` or ``clip id``.

    Raises:
        ConfigError: If the pattern is no regular expression with exactly one capturing group.
        DataError: If neither search finds a group for every clip.
    """
    try:
        compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ConfigError(f"group pattern {pattern!r}: is no regular expression ({error})") from error
    if compiled.groups != 1:
        raise ConfigError(
            f"group pattern {pattern!r}: has {compiled.groups} capturing groups, must have exactly one, around the "
            "name of the group, such as '^[0-9]-([0-9]+)-' for the recordings of ESC-50; write others as (?:...)"
        )
    tried = []
    for found_in, texts in (
        ("file name", [clip_id[clip_id.rfind("/") + 1 :] for clip_id in clip_ids]),
        ("clip id", clip_ids),
    ):
        groups = [match[1] if (match := compiled.search(text)) else None for text in texts]
        found = [group for group in groups if group]
        if len(found) == len(clip_ids):
            return found, found_in
        tried.append([clip_id for clip_id, group in zip(clip_ids, groups, strict=True) if not group])
    without = min(tried, key=len)
    raise DataError(
        f"group pattern {pattern!r}: finds no group for {len(without)} of {len(clip_ids)} clips, first {without[0]!r}; "
        "write one that fits every file name or every clip id"
    )


def stratify(
    groups: Sequence[str],
    labels: Sequence[Sequence[int]],
    fractions: Mapping[str, float],
    *,
    num_classes: int,
    seed: int,
) -> list[str]:
    """Return the split of each clip; all clips of a group get the same split.

    Iterative stratification after Sechidis, Tsoumakas and Vlahavas (2011): classes from the rarest to the most frequent
    by number of groups, the groups of a class in random order, each to a held-out split that still needs clips of the
    class, the rest to `TRAIN`. Then groups are moved, or two exchanged, as long as that reduces the number of classes
    without a clip in a split.

    A class with at least as many groups as there are splits gets clips in each of them if the clips of a group have one
    class; with several classes in a group this may be impossible. The random order depends on the seed and the names of
    the groups alone, so that an added group moves few others.

    Args:
        groups: Name of each clip's group.
        labels: Indices of each clip's classes; empty for clips that must not count, such as missing files.
        fractions: Fraction of each split, in (0, 1], `TRAIN` included; they sum to 1.
        num_classes: Number of classes.
        seed: Seed of the draw.
    """
    splits = sorted(fractions, key=lambda split: (split != TRAIN, split))
    shares = np.array([fractions[split] for split in splits])
    draw_of = {name: float(numpy_generator("folder split", seed, name).random()) for name in set(groups)}
    names = sorted(draw_of, key=lambda name: (draw_of[name], name))
    counts: dict[str, Counter[int]] = {name: Counter() for name in groups}
    for name, indices in zip(groups, labels, strict=True):
        counts[name].update(indices)
    groups_of: list[list[str]] = [[] for _ in range(num_classes)]
    for name in names:
        for index in counts[name]:
            groups_of[index].append(name)
    assignment = _Assignment(groups_of, counts, len(splits))
    assignment.fill(shares)
    assignment.repair()
    split_of, ends = assignment.split_of, np.cumsum(shares)
    for name in names:  # groups without a clip that counts
        if name not in split_of:
            split_of[name] = min(int(np.searchsorted(ends, draw_of[name], side="right")), len(splits) - 1)
    return [splits[split_of[name]] for name in groups]


class _Assignment:
    """The split of each group, as it is drawn and then repaired.

    Attributes:
        split_of: Index of the split of each group that has a clip that counts.
    """

    def __init__(self, groups_of: Sequence[Sequence[str]], counts: Mapping[str, Counter[int]], n_splits: int) -> None:
        """Begin without an assigned group.

        Args:
            groups_of: Names of the groups of each class, in random order.
            counts: Number of clips of each class, for each group.
            n_splits: Number of splits; the first is `TRAIN`.
        """
        self.split_of: dict[str, int] = {}
        self._groups_of, self._counts, self._n_splits = groups_of, counts, n_splits

    def fill(self, shares: NDArray[np.float64]) -> None:
        """Assign every group that has a clip that counts, the groups of the rarest class first."""
        totals = np.zeros(len(self._groups_of))
        for counted in self._counts.values():
            for index, n_clips in counted.items():
                totals[index] += n_clips
        needed = shares[:, None] * totals  # (splits, classes): clips that a split still needs
        present = np.zeros(needed.shape, bool)
        carried = np.zeros(len(shares))  # remainder of rounding the classes before, so that the whole gets its fraction
        for index, groups in sorted(enumerate(self._groups_of), key=lambda item: (len(item[1]), item[0])):
            pending = [name for name in groups if name not in self.split_of]
            for place, name in enumerate(pending):
                absent = np.flatnonzero(~present[:, index]).tolist()
                # If no more groups are left than splits without the class, each of these splits gets one.
                is_last_chance = bool(absent) and len(absent) >= len(pending) - place
                allowed = absent if is_last_chance else range(len(shares))
                lack = needed[:, index] + carried
                # Held-out splits are filled first, so that an added group moves few others; then `TRAIN`.
                fitting = [split for split in allowed if split and lack[split] >= self._counts[name][index] / 2]
                fallback = 0 if 0 in allowed else max(allowed, key=lack.__getitem__)
                self.split_of[name] = split = fitting[0] if fitting else fallback
                for other, n_clips in self._counts[name].items():
                    needed[split, other] -= n_clips
                    present[split, other] = True
            if len(groups) >= len(shares):
                carried = np.clip(needed[:, index] + carried, -0.5, 0.5)

    def repair(self) -> None:
        """Move groups to splits that lack one of their classes, alone or in exchange for another group."""
        n_groups = np.zeros((self._n_splits, len(self._groups_of)), np.int64)
        for name, split in self.split_of.items():
            n_groups[split, list(self._counts[name])] += 1
        possible = np.array([len(names) >= self._n_splits for names in self._groups_of])
        has_moved = True
        while has_moved:
            lacking = np.argwhere((n_groups == 0) & possible).tolist()
            has_moved = any(
                self.move_if_better(moves, n_groups, possible)
                for split, index in lacking
                for moves in self.moves_to(split, index, n_groups)
            )

    def moves_to(self, split: int, index: int, n_groups: NDArray[np.int64]) -> Iterator[dict[str, int]]:
        """Yield moves (name of a group -> new split) that bring a group of a class to a split; small groups first."""
        for name in sorted(self._groups_of[index], key=lambda name: self._counts[name].total()):
            old = self.split_of[name]
            yield {name: split}
            sole = [index for index in self._counts[name] if n_groups[old, index] == 1]
            for other in self._groups_of[sole[0]] if sole else ():
                if self.split_of[other] == split:
                    yield {name: split, other: old}

    def move_if_better(
        self, moves: Mapping[str, int], n_groups: NDArray[np.int64], possible: NDArray[np.bool_]
    ) -> bool:
        """Make the moves and return True if fewer classes are then without a clip in a split; else change nothing.

        Args:
            moves: New split of some groups.
            n_groups: ``(splits, classes)``, number of groups, updated by the moves.
            possible: ``(classes,)``, whether each split can have a group of the class.
        """
        touched = sorted({index for name in moves for index in self._counts[name] if possible[index]})
        before = n_groups.copy()
        for name, split in moves.items():
            n_groups[self.split_of[name], list(self._counts[name])] -= 1
            n_groups[split, list(self._counts[name])] += 1
        if (n_groups[:, touched] == 0).sum() < (before[:, touched] == 0).sum():
            self.split_of.update(moves)
            return True
        n_groups[:] = before
        return False


def groups_to_draw(pattern: str, clip_ids: Sequence[str]) -> list[str]:
    """Return the group of each clip, found by `groups_by_pattern`, for resamples of groups.

    Raises:
        ConfigError: If the pattern is invalid.
        DataError: If a clip has no group, or all clips have the same group.
    """
    groups, _ = groups_by_pattern(pattern, clip_ids)
    if len(set(groups)) < 2:
        raise DataError(
            f"group pattern {pattern!r}: all {len(groups)} clips are of one group, {groups[0]!r}; an interval needs "
            "at least two"
        )
    return groups
