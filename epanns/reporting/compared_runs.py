"""The runs that `epanns compare` reads: folders with a record and the scores of all clips, selected and aligned."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from epanns.clip_scores import FILE, ClipScores, read_clip_scores
from epanns.errors import ConfigError, DataError, did_you_mean
from epanns.records import RunRecord, read_record, record_paths
from epanns.reporting.rows import flat, label_of, settings_of
from epanns.safe_text import printable
from epanns.strict import shown

_RECORD = "result.json"
# Fields of a record by which runs are selected, beside the settings of its configuration.
_FIELDS = ("trial_id", "name", "model", "width", "criterion", "ratio", "recover", "finetune_iterations", "seed")
_OF_DATA = frozenset({"data", "packs", "split", "fold", "folds"})  # settings that differ between the folds of a row
_LISTED = 5


@dataclass(frozen=True)
class Run:
    """One network that was scored: its folder, its record, and the scores of its clips."""

    folder: Path
    record: RunRecord
    scores: ClipScores


@dataclass(frozen=True)
class ComparedRow:
    """The runs of one configuration, which differ in their seed and their fold alone."""

    name: str
    runs: tuple[Run, ...]


def read_rows(texts: Sequence[str | Path]) -> list[ComparedRow]:
    """Read the runs of each row; all are put into the clips and classes of the first run on the same clips.

    A row is ``FOLDER`` of `epanns evaluate --out`, a folder of several such folders, or ``FOLDER:SELECTION``, the runs
    below a folder, such as a sweep, that are selected by a trial's id (or its beginning), or by settings such as
    ``criterion=l1,ratio=0.5``. Networks with equal weights count once.

    Raises:
        ConfigError: If a selection is not understood, or a row is given twice.
        DataError: If a folder is missing or holds no scores, no run is selected, the runs of a row are of several
            configurations, or rows differ in their clips, classes, labels or protocol.
    """
    rows = [_read_row(str(text)) for text in texts]
    names = [row.name for row in rows]
    rows = [
        replace(row, name=str(text)) if names.count(row.name) > 1 else row
        for row, text in zip(rows, texts, strict=True)
    ]
    if twice := [row.name for place, row in enumerate(rows) if row.name in [each.name for each in rows[:place]]]:
        raise ConfigError(f"{twice[0]} is given twice: give different rows")
    return _aligned(rows)


def clip_sets(rows: Sequence[ComparedRow]) -> list[list[list[Run]]]:
    """Return for each set of clips the runs of each row on it, in the order of the first row."""
    sets = list(dict.fromkeys(run.scores.clip_ids for run in rows[0].runs))
    return [[[run for run in row.runs if run.scores.clip_ids == clips] for row in rows] for clips in sets]


def _read_row(text: str) -> ComparedRow:
    folder, selection = Path(text), ""
    if not folder.exists():
        before, colon, after = text.rpartition(":")
        if not colon or not Path(before).is_dir():
            raise DataError(
                f"{text}: no such folder; give the --out of `epanns evaluate`, or FOLDER:TRIAL or "
                "FOLDER:criterion=l1,ratio=0.5 of a sweep"
            )
        folder, selection = Path(before), after
    if not folder.is_dir():
        raise DataError(f"{folder} is a file: give its folder, the --out of `epanns evaluate` or a sweep's")
    paths = sorted(path for path in record_paths(folder) if path.name == _RECORD)
    if not paths:
        raise DataError(f"{folder}: holds no {_RECORD}; give the --out of `epanns evaluate`, or of a finished sweep")
    records = {path.parent: read_record(path) for path in paths}
    chosen = _selected(records, selection, folder) if selection else records
    runs = [Run(each, record, _scores_in(each, record)) for each, record in chosen.items()]
    row = ComparedRow(_name_of(text, chosen.values()), tuple(_distinct(runs)))
    _refuse_several_rows(row, text)
    return row


def _selected(records: Mapping[Path, RunRecord], selection: str, folder: Path) -> dict[Path, RunRecord]:
    """Return the records with the id or the settings of a selection."""
    if "=" not in selection:
        found = {path: record for path, record in records.items() if record.trial_id.startswith(selection)}
        if len(found) == 1:
            return found
        ids = [record.trial_id for record in records.values()]
        listed = ", ".join(ids[:_LISTED]) + (f" and {len(ids) - _LISTED} more" if len(ids) > _LISTED else "")
        problem = f"{len(found)} trials begin so" if found else f"no such trial{did_you_mean(selection, ids)}"
        raise DataError(f"{folder}:{selection}: {problem}; give one of {listed}, or settings such as criterion=l1")
    wanted = dict(_pair(part, selection) for part in selection.split(","))
    values = {path: _values_of(record) for path, record in records.items()}
    known = set().union(*values.values())
    if unknown := [name for name in wanted if name not in known]:
        raise ConfigError(
            f"{selection}: no run below {folder} has a setting {unknown[0]!r}{did_you_mean(unknown[0], known)}"
        )
    found = {
        path: record
        for path, record in records.items()
        if all(_is_equal(values[path].get(name), value) for name, value in wanted.items())
    }
    if not found:
        name = next(iter(wanted))
        has = sorted({str(given.get(name)) for given in values.values()})
        raise DataError(f"{folder}:{selection}: none of {len(records)} runs; {name} is one of {', '.join(has)[:200]}")
    return found


def _pair(part: str, selection: str) -> tuple[str, str]:
    name, equals, value = part.partition("=")
    if not equals or not name.strip():
        raise ConfigError(f"{selection}: must be a trial's id, or settings such as criterion=l1,ratio=0.5")
    return name.strip(), value.strip()


def _values_of(record: RunRecord) -> dict[str, Any]:
    return {**flat(record.config), **{name: getattr(record, name) for name in _FIELDS}}


def _is_equal(value: Any, text: str) -> bool:
    """Return whether a setting has the value of a text: ``none`` is None, and 0.50 is 0.5."""
    if str(value) == text or (value is None and text == "none"):
        return True
    try:
        return float(value) == float(text)
    except (TypeError, ValueError):
        return False


def _scores_in(folder: Path, record: RunRecord) -> ClipScores:
    if not (folder / FILE).is_file():
        remedy = "score it with `epanns evaluate --out` and without --no-scores"
        if record.experiment != "evaluate":
            remedy = (
                f"set keep_scores = true under [evaluation], delete {folder / _RECORD} and run the sweep again, which "
                "resumes from what the trial has trained"
            )
        raise DataError(f"{folder}: holds no {FILE}, the scores of its clips; {remedy}")
    found = read_clip_scores(folder / FILE)
    if not found.target.any():
        raise DataError(f"{folder / FILE}: no clip has a class; a comparison by labels needs labelled clips")
    return found


def _distinct(runs: Iterable[Run]) -> list[Run]:
    """Return the runs without repetitions: the same weights, scored on the same clips under several seeds."""
    found: dict[tuple[object, ...], Run] = {}
    for run in runs:
        network = run.record.network or run.folder
        found.setdefault((network, frozenset(run.scores.clip_ids)), run)
    return list(found.values())


def _name_of(text: str, records: Iterable[RunRecord]) -> str:
    """Return the label of the records, or else the text without the end of a path."""
    labels = {label_of(record) for record in records}
    label = labels.pop() if len(labels) == 1 else ""
    is_whole = ":" not in text
    return printable(label if label and is_whole else text.rstrip("/"))


def _refuse_several_rows(row: ComparedRow, text: str) -> None:
    """Raise `DataError` if runs differ in more than seed and fold, or a seed has two networks on the same clips."""
    first = row.runs[0]
    for run in row.runs[1:]:
        same_clips = set(run.scores.clip_ids) == set(first.scores.clip_ids)
        one, other = (_identity(each.record, with_data=same_clips) for each in (first, run))
        if differing := [name for name in sorted({*one, *other}) if one.get(name) != other.get(name)]:
            name = differing[0]
            raise DataError(
                f"{text}: {len(row.runs)} runs of several configurations, {run.folder} has {name}="
                f"{shown(other.get(name))} and {first.folder} {shown(one.get(name))}: select one, as in "
                f"FOLDER:{name}={other.get(name)}"
            )
    for place, run in enumerate(row.runs):
        for before in row.runs[:place]:
            if before.record.seed == run.record.seed and before.scores.clip_ids == run.scores.clip_ids:
                raise DataError(
                    f"{text}: {before.folder} and {run.folder} are two networks of seed {run.record.seed} on the same "
                    "clips: select one of them"
                )


def _identity(record: RunRecord, *, with_data: bool) -> dict[str, Any]:
    """Return what runs of one row have in common."""
    names = ("model", "width", "criterion", "layers", "ratio", "recover", "finetune_iterations")
    settings = {
        name: value
        for name, value in settings_of(record).items()
        if with_data or _OF_DATA.isdisjoint(name.split(".")[:2])
    }
    return {**settings, **{name: getattr(record, name) for name in names}}


def _aligned(rows: Sequence[ComparedRow]) -> list[ComparedRow]:
    """Return the rows with equal clips and classes in the same order, or raise `DataError`."""
    reference: dict[frozenset[str], Run] = {}
    for run in rows[0].runs:
        reference.setdefault(frozenset(run.scores.clip_ids), run)
    first = rows[0].runs[0]
    found = []
    for row in rows:
        runs = []
        for run in row.runs:
            if run.record.protocol != first.record.protocol:
                raise DataError(
                    f"{first.folder} was scored by '{first.record.protocol}' and {run.folder} by "
                    f"'{run.record.protocol}': score both in the same way"
                )
            same = reference.get(frozenset(run.scores.clip_ids))
            if same is None:
                raise DataError(_other_clips(first, run))
            runs.append(replace(run, scores=_in_the_order_of(same, run)))
        covered = {frozenset(run.scores.clip_ids) for run in runs}
        if lacking := [same for clips, same in reference.items() if clips not in covered]:
            raise DataError(
                f"{row.name} has no run on the clips of {lacking[0].folder}: every row needs a run on each of "
                f"{len(reference)} sets of clips"
            )
        found.append(replace(row, runs=tuple(runs)))
    return found


def _other_clips(first: Run, run: Run) -> str:
    others = sorted(set(first.scores.clip_ids) ^ set(run.scores.clip_ids))
    return (
        f"{first.folder} has {len(first.scores.clip_ids):,} clips and {run.folder} {len(run.scores.clip_ids):,}: "
        f"{len(others):,} are in one of the two alone, first {others[0]!r}; score both on the same packs"
    )


def _in_the_order_of(same: Run, run: Run) -> ClipScores:
    """Return the scores of a run with the clips and classes in the order of another run's."""
    one, other = same.scores, run.scores
    if set(one.class_names) != set(other.class_names) or len(one.class_names) != len(other.class_names):
        differing = sorted(set(one.class_names) ^ set(other.class_names)) or ["a repeated name"]
        raise DataError(
            f"{same.folder} has {len(one.class_names)} classes and {run.folder} {len(other.class_names)}: they differ "
            f"in {len(differing)}, first {differing[0]!r}; compare networks of the same classes, or give --map to "
            "`epanns evaluate`"
        )
    clips = {clip: place for place, clip in enumerate(other.clip_ids)}
    classes = {name: place for place, name in enumerate(other.class_names)}
    rows = [clips[clip] for clip in one.clip_ids]
    chosen = np.ix_(rows, [classes[name] for name in one.class_names])
    aligned = ClipScores(
        one.clip_ids,
        one.class_names,
        other.scores[chosen],
        other.target[chosen],
        tuple(other.groups[row] for row in rows) if other.groups else (),
    )
    if len(differing_clips := np.flatnonzero((aligned.target != one.target).any(axis=1))):
        raise DataError(
            f"{same.folder} and {run.folder} have other labels for {len(differing_clips):,} of {len(rows):,} clips, "
            f"first {one.clip_ids[differing_clips[0]]!r}; score both on the same packs"
        )
    return aligned
