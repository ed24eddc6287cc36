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

from epanns.data.manifests.clip import Clip
from epanns.data.manifests.manifest import Manifest
from epanns.errors import ConfigError, DataError
from epanns.labels import LabelSet
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
        groups: Group of each clip id, if `settings` has a group column.

    Raises:
        ConfigError: If the data set has its own splits.
        DataError: If the group pattern finds no group for a clip.
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
        by = f" and by group ({len(set(names))} groups, in the column {settings.group_column})"
    index_of = {name: index for index, name in enumerate(manifest.labels.names)}
    labels = [[index_of[label] for label in set(clip.labels)] for clip in manifest.clips]
    labels += [[] for _ in manifest.missing]
    fractions = {TRAIN: 1 - settings.val_fraction - settings.test_fraction, **settings.held_out}
    splits = stratify(names, labels, fractions, num_classes=len(index_of), seed=settings.seed)
    drawn = [replace(clip, split=split) for clip, split in zip(clips, splits, strict=True)]
    found, missing = tuple(drawn[: len(manifest.clips)]), tuple(drawn[len(manifest.clips) :])
    notes = _notes_on_splits(found, manifest.labels, list(fractions), f"drawn by class{by}, seed {settings.seed}")
    return replace(manifest, clips=found, missing=missing, notes=(*manifest.notes, *notes))


def _notes_on_splits(clips: Sequence[Clip], labels: LabelSet, splits: Sequence[str], how: str) -> Iterator[str]:
    counts = Counter(clip.split for clip in clips)
    shares = ", ".join(f"{split} {counts[split]} ({counts[split] / len(clips):.1%})" for split in splits)
    yield f"splits {how}: {shares}"
    for split in splits:
        present = {label for clip in clips if clip.split == split for label in clip.labels}
        absent = [name for name in labels.names if name not in present]
        if absent:
            listed = ", ".join(absent[:10]) + (", ..." if len(absent) > 10 else "")
            yield f"{len(absent)} of {len(labels)} classes have no clip in {split}: {listed}"


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
    split_of = _assign(groups_of, counts, shares)
    _repair(split_of, groups_of, counts, len(splits))
    ends = np.cumsum(shares)
    for name in names:  # groups without a clip that counts
        if name not in split_of:
            split_of[name] = min(int(np.searchsorted(ends, draw_of[name], side="right")), len(splits) - 1)
    return [splits[split_of[name]] for name in groups]


def _assign(
    groups_of: Sequence[Sequence[str]], counts: Mapping[str, Counter[int]], shares: NDArray[np.float64]
) -> dict[str, int]:
    """Return the split of each group that has a clip that counts."""
    totals = np.zeros(len(groups_of))
    for counted in counts.values():
        for index, n_clips in counted.items():
            totals[index] += n_clips
    needed = shares[:, None] * totals  # (splits, classes): clips that a split still needs
    present = np.zeros(needed.shape, bool)
    carried = np.zeros(len(shares))  # remainder of rounding the classes before, so that the whole gets its fraction
    split_of: dict[str, int] = {}
    for index in sorted(range(len(groups_of)), key=lambda index: (len(groups_of[index]), index)):
        pending = [name for name in groups_of[index] if name not in split_of]
        for place, name in enumerate(pending):
            absent = np.flatnonzero(~present[:, index]).tolist()
            # If no more groups are left than splits without the class, each of these splits gets one.
            is_last_chance = bool(absent) and len(absent) >= len(pending) - place
            allowed = absent if is_last_chance else range(len(shares))
            lack = needed[:, index] + carried
            # Held-out splits are filled first, so that an added group moves few others; then `TRAIN`, which is split 0.
            fitting = [split for split in allowed if split and lack[split] >= counts[name][index] / 2]
            fallback = 0 if 0 in allowed else max(allowed, key=lack.__getitem__)
            split_of[name] = split = fitting[0] if fitting else fallback
            for other, n_clips in counts[name].items():
                needed[split, other] -= n_clips
                present[split, other] = True
        if len(groups_of[index]) >= len(shares):
            carried = np.clip(needed[:, index] + carried, -0.5, 0.5)
    return split_of


def _repair(
    split_of: dict[str, int], groups_of: Sequence[Sequence[str]], counts: Mapping[str, Counter[int]], n_splits: int
) -> None:
    """Move groups to splits that lack one of their classes, alone or in exchange for another group."""
    n_groups = np.zeros((n_splits, len(groups_of)), np.int64)
    for name, split in split_of.items():
        n_groups[split, list(counts[name])] += 1
    possible = np.array([len(names) >= n_splits for names in groups_of])
    has_moved = True
    while has_moved:
        lacking = np.argwhere((n_groups == 0) & possible).tolist()
        has_moved = any(
            _move_if_better(moves, split_of, counts, n_groups, possible)
            for split, index in lacking
            for moves in _moves_to(split, groups_of[index], split_of, groups_of, counts, n_groups)
        )


def _moves_to(
    split: int,
    names: Sequence[str],
    split_of: Mapping[str, int],
    groups_of: Sequence[Sequence[str]],
    counts: Mapping[str, Counter[int]],
    n_groups: NDArray[np.int64],
) -> Iterator[dict[str, int]]:
    """Yield moves (name of a group -> new split) that bring one of the groups to a split; small groups first."""
    for name in sorted(names, key=lambda name: counts[name].total()):
        old = split_of[name]
        yield {name: split}
        sole = [index for index in counts[name] if n_groups[old, index] == 1]
        for other in groups_of[sole[0]] if sole else ():
            if split_of[other] == split:
                yield {name: split, other: old}


def _move_if_better(
    moves: Mapping[str, int],
    split_of: dict[str, int],
    counts: Mapping[str, Counter[int]],
    n_groups: NDArray[np.int64],
    possible: NDArray[np.bool_],
) -> bool:
    """Make the moves and return True if fewer classes are then without a clip in a split; else change nothing."""
    touched = sorted({index for name in moves for index in counts[name] if possible[index]})
    before = n_groups.copy()
    for name, split in moves.items():
        n_groups[split_of[name], list(counts[name])] -= 1
        n_groups[split, list(counts[name])] += 1
    if (n_groups[:, touched] == 0).sum() < (before[:, touched] == 0).sum():
        split_of.update(moves)
        return True
    n_groups[:] = before
    return False
