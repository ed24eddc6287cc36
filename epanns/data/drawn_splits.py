"""Splits of a data set that has none: what is drawn, by which groups, and what each split got."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from epanns.data.clip import Clip
from epanns.data.groups import groups_by_pattern
from epanns.data.manifest import Manifest
from epanns.data.stratify import TEST, TRAIN, VAL, draw_sides
from epanns.errors import ConfigError
from epanns.labels import LabelSet

WHOLE = "all"
"""The split of clips that nobody has split."""


@dataclass(frozen=True)
class SplitDraw:
    """How clips without splits are split.

    Attributes:
        val_fraction: Share of the clips, 0..1, drawn for the split ``val``.
        test_fraction: Share drawn for ``test``; the rest is ``train``.
        seed: Of the draw.
        group_pattern: Regular expression that finds each clip's group, see `epanns.data.groups`; no group is in two
            splits. Empty for none.
        group_column: Column of the CSV file that names each clip's group. Empty for none.
    """

    val_fraction: float = 0.0
    test_fraction: float = 0.0
    seed: int = 0
    group_pattern: str = ""
    group_column: str = ""

    def __post_init__(self) -> None:
        val, test = self.val_fraction, self.test_fraction
        if not (val >= 0 and test >= 0 and val + test < 1):  # NaN neither
            given = f"--val-fraction {val:g} and --test-fraction {test:g}"
            raise ConfigError(f"{given}: must not be negative and must leave clips to train on")
        if self.group_pattern and self.group_column:
            raise ConfigError("--group-pattern and --group-column both name the groups: give one of them")
        if (self.group_pattern or self.group_column) and not self.is_asked_for:
            raise ConfigError("groups decide only how clips are split: give --val-fraction or --test-fraction too")

    @property
    def is_asked_for(self) -> bool:
        """Whether any clip is to be drawn."""
        return self.val_fraction > 0 or self.test_fraction > 0

    @property
    def fractions(self) -> dict[str, float]:
        """Share of each split that gets clips."""
        drawn = {VAL: self.val_fraction, TEST: self.test_fraction}
        rest = 1 - self.val_fraction - self.test_fraction
        return {TRAIN: rest, **{split: share for split, share in drawn.items() if share}}


def draw_splits(manifest: Manifest, draw: SplitDraw, groups: Mapping[str, str]) -> Manifest:
    """Return the data set with its clips in the splits that are drawn, and notes on what each split got.

    Args:
        manifest: A data set whose clips are all in the split `WHOLE`.
        draw: What to draw.
        groups: Group of each clip id, where `draw` has a group column.

    Raises:
        ConfigError: If the data set has splits of its own.
        DataError: If the group pattern finds no group for a clip.
    """
    if set(manifest.splits) != {WHOLE}:
        raise ConfigError(
            f"{manifest.dataset} has its own splits ({', '.join(manifest.splits)}): "
            "leave out --val-fraction and --test-fraction"
        )
    clips = (*manifest.clips, *manifest.missing)
    names, by = [clip.clip_id for clip in clips], ""
    if draw.group_pattern:
        names, found_in = groups_by_pattern(draw.group_pattern, names)
        by = f" and by group ({len(set(names))} groups, found in the {found_in} with {draw.group_pattern})"
    elif groups:
        names = [groups[name] for name in names]
        by = f" and by group ({len(set(names))} groups, in the column {draw.group_column})"
    place = {name: index for index, name in enumerate(manifest.labels.names)}
    labels = [[place[label] for label in set(clip.labels)] for clip in manifest.clips]
    labels += [[] for _ in manifest.missing]
    sides = draw_sides(names, labels, draw.fractions, num_classes=len(place), seed=draw.seed)
    split = [replace(clip, split=side) for clip, side in zip(clips, sides, strict=True)]
    n_found = len(manifest.clips)
    notes_on_draw = _notes_on_draw(split[:n_found], manifest.labels, draw, f"drawn by class{by}")
    notes = (*manifest.notes, *notes_on_draw)
    return replace(manifest, clips=tuple(split[:n_found]), missing=tuple(split[n_found:]), notes=notes)


def _notes_on_draw(clips: Sequence[Clip], labels: LabelSet, draw: SplitDraw, how: str) -> Iterator[str]:
    counts = Counter(clip.split for clip in clips)
    shares = ", ".join(f"{split} {counts[split]} ({counts[split] / len(clips):.1%})" for split in draw.fractions)
    yield f"splits {how}, seed {draw.seed}: {shares}"
    for split in draw.fractions:
        there = {label for clip in clips if clip.split == split for label in clip.labels}
        absent = [name for name in labels.names if name not in there]
        if absent:
            listed = ", ".join(absent[:10]) + (", ..." if len(absent) > 10 else "")
            yield f"{len(absent)} of {len(labels)} classes have no clip in {split}: {listed}"
