"""Compare rows of runs by their scores of the same clips: differences with intervals and p values, and every class."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from epanns.data.datasets.splits import groups_to_draw
from epanns.errors import ConfigError, DataError
from epanns.reporting.compared_runs import ComparedRow, Run, clip_sets, read_rows
from epanns.statistics.accuracy import right_clips
from epanns.statistics.bootstrap import mean_average_precision, weighted_mean
from epanns.statistics.classes import ClassChanges, average_precisions, changes_between, mean_over_networks
from epanns.statistics.paired import Difference, Measure, Part, RowScore, compare_rows

SCORES = ("mAP", "accuracy")


@dataclass(frozen=True)
class ComparedClass:
    """Average precision of a class in each row, means over its networks.

    Attributes:
        index: Index of the class.
        name: Name of the class.
        n_positive: Number of positive clips, over all sets of clips.
        ap: In the order of the rows; None without positives.
    """

    index: int
    name: str
    n_positive: int
    ap: tuple[float | None, ...]


@dataclass(frozen=True)
class RowComparison:
    """Scores of rows on the same clips, and the differences of pairs of rows.

    Attributes:
        score: ``mAP`` or ``accuracy``.
        rows: The rows with their runs.
        scores: Score of each row.
        differences: Of each pair, the second row minus the first, with p values corrected for their number.
        changes: For each difference, the numbers of classes that gain and lose average precision.
        per_class: One row per class, in label order.
        dataset: Names of the scored data sets.
        protocol: Evaluation protocol in words.
        n_clips: Number of clips, over all sets of clips.
        n_parts: Number of sets of clips, such as the folds of a rotation.
        n_groups: Number of groups of clips, over all sets; None where clips were drawn.
        group_pattern: Regular expression that found the groups; empty for clips or for groups of the files.
        resamples: Number of resamples; 0 without intervals.
        seed: Seed of the resampling.
    """

    score: str
    rows: tuple[ComparedRow, ...]
    scores: tuple[RowScore, ...]
    differences: tuple[Difference, ...]
    changes: tuple[ClassChanges, ...]
    per_class: tuple[ComparedClass, ...]
    dataset: str
    protocol: str
    n_clips: int
    n_parts: int
    n_groups: int | None
    group_pattern: str
    resamples: int
    seed: int

    def changes_of(self, difference: Difference) -> list[tuple[ComparedClass, float]]:
        """Return the classes with an average precision in both rows and its change, the largest gain first."""
        found = []
        for each in self.per_class:
            before, after = each.ap[difference.first], each.ap[difference.second]
            if before is not None and after is not None:
                found.append((each, after - before))
        return sorted(found, key=lambda pair: (-pair[1], pair[0].index))

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, the content of ``comparison.json``."""
        names = [row.name for row in self.rows]
        rows = [
            {
                "name": row.name,
                "runs": [str(run.folder) for run in row.runs],
                "seeds": sorted({run.record.seed for run in row.runs}),
                **asdict(score),
            }
            for row, score in zip(self.rows, self.scores, strict=True)
        ]
        differences = [
            {
                **asdict(each),
                "first": names[each.first],
                "second": names[each.second],
                "classes": {
                    **{key: value for key, value in asdict(change).items() if key != "by"},
                    "by": [{"points": points, "higher": higher, "lower": lower} for points, higher, lower in change.by],
                },
            }
            for each, change in zip(self.differences, self.changes, strict=True)
        ]
        return {
            "score": self.score,
            "dataset": self.dataset,
            "protocol": self.protocol,
            "n_clips": self.n_clips,
            "n_parts": self.n_parts,
            "n_groups": self.n_groups,
            "group_pattern": self.group_pattern,
            "confidence": 0.95,
            "resamples": self.resamples,
            "seed": self.seed,
            "rows": rows,
            "differences": differences,
            "per_class": [asdict(each) for each in self.per_class],
        }


def compare(
    rows: Sequence[str | Path],
    *,
    score: str = "mAP",
    all_pairs: bool = False,
    group_pattern: str = "",
    bootstrap: int = 1000,
    seed: int = 0,
) -> RowComparison:
    """Compare networks, or configurations of several seeds, by their scores of the same clips.

    Args:
        rows: At least two rows, see `epanns.reporting.compared_runs.read_rows`: folders of ``epanns evaluate --out``,
            or ``FOLDER:SELECTION`` of a sweep.
        score: ``mAP``, or ``accuracy`` where every clip has one class.
        all_pairs: Whether every row is compared with every later one; else all are compared with the first.
        group_pattern: Regular expression that finds each clip's group in its id, as in `epanns.evaluate`; the resamples
            draw groups. By default the groups that the files hold, else clips.
        bootstrap: Number of resamples; 0 for no intervals and p values.
        seed: Seed of the resampling.

    Raises:
        ConfigError: If there are fewer than two rows, or the score, a selection or the pattern is invalid.
        DataError: If rows cannot be read or do not fit, see `read_rows`; or if accuracy is not defined.
    """
    if len(rows) < 2:
        raise ConfigError(f"{len(rows)} rows: a comparison needs at least two")
    if score not in SCORES:
        raise ConfigError(f"score={score!r}: must be one of {', '.join(SCORES)}")
    found = read_rows(rows)
    parts, n_groups = _parts_of(found, score, group_pattern)
    n_rows = len(found)
    pairs = [(0, second) for second in range(1, n_rows)]
    if all_pairs:
        pairs = [(first, second) for first in range(n_rows) for second in range(first + 1, n_rows)]
    scores, differences = compare_rows(parts, pairs, resamples=bootstrap, seed=seed)
    ap = [mean_over_networks([average_precisions(r.scores.target, r.scores.scores) for r in row.runs]) for row in found]
    sets = [of_rows[0][0] for of_rows in clip_sets(found)]
    n_positive = np.sum([run.scores.target.sum(axis=0) for run in sets], axis=0)
    return RowComparison(
        score=score,
        rows=tuple(found),
        scores=tuple(scores),
        differences=tuple(differences),
        changes=tuple(changes_between(ap[first], ap[second]) for first, second in pairs),
        per_class=tuple(
            ComparedClass(
                index, name, int(n_positive[index]), tuple(float(of[index]) if of[index] >= 0 else None for of in ap)
            )
            for index, name in enumerate(sets[0].scores.class_names)
        ),
        dataset=", ".join(dict.fromkeys(run.record.dataset for run in sets)),
        protocol=sets[0].record.protocol,
        n_clips=sum(len(run.scores.clip_ids) for run in sets),
        n_parts=len(sets),
        n_groups=n_groups,
        group_pattern=group_pattern,
        resamples=bootstrap,
        seed=seed,
    )


def _parts_of(rows: Sequence[ComparedRow], score: str, pattern: str) -> tuple[list[Part], int | None]:
    """Return the sets of clips with the networks on them, and the number of groups, None for clips."""
    parts, n_groups = [], 0
    for of_rows in clip_sets(rows):
        groups = _groups_of([run for runs in of_rows for run in runs], pattern)
        n_groups += len(set(groups or ()))
        measures = [{run.record.seed: _measure(run, score) for run in runs} for runs in of_rows]
        parts.append(Part(len(of_rows[0][0].scores.clip_ids), measures, groups))
    if any((part.groups is None) != (parts[0].groups is None) for part in parts):
        raise DataError("some sets of clips have groups and others have none: give --group-pattern")
    return parts, None if parts[0].groups is None else n_groups


def _groups_of(runs: Sequence[Run], pattern: str) -> list[str] | None:
    """Return the group of each clip, by a pattern or as all files hold them; None for clips."""
    if pattern:
        return groups_to_draw(pattern, runs[0].scores.clip_ids)
    groups = list(runs[0].scores.groups)
    if any(list(run.scores.groups) != groups for run in runs):
        raise DataError(
            f"{runs[0].folder} and another run hold different groups of the same clips: give --group-pattern"
        )
    return groups or None


def _measure(run: Run, score: str) -> Measure:
    found = run.scores
    if score == "mAP":
        return partial(mean_average_precision, found.target, found.scores)
    return partial(weighted_mean, right_clips(found.target, found.scores, found.clip_ids))
