"""What a report shows beside run records: sensitivities, training runs, scores by class, agreements and checkpoints."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from epanns.errors import DataError, EpannsError
from epanns.feedback import note
from epanns.pruning.budgets.sensitivity_table import TABLE, Sensitivity, read_sensitivity
from epanns.records import RunRecord, read_record
from epanns.reporting.figures.learning_curve import Curve, read_curve
from epanns.reporting.rows import AGREEMENT
from epanns.strict import TEXT, is_finite, value_problems
from epanns.text_files import SHORT_LIST, read_csv_table, read_json, whole_number

T = TypeVar("T")


@dataclass(frozen=True)
class ClassScores:
    """Average precision by class of one evaluation: class, number of positive clips, and AP, None without positives."""

    name: str
    record: RunRecord
    rows: tuple[tuple[str, int, float | None], ...]


@dataclass(frozen=True)
class AgreementFile:
    """The means of an ``agreement.json`` by their names in run records; None where undefined."""

    name: str
    pruned: str
    dense: str
    dataset: str
    scores: Mapping[str, float | None]


@dataclass(frozen=True)
class Sources:
    """What was found below the folders of a report; names are paths from there."""

    sensitivities: tuple[tuple[str, Sensitivity], ...] = ()
    curves: tuple[Curve, ...] = ()
    classes: tuple[ClassScores, ...] = ()
    agreements: tuple[AgreementFile, ...] = ()
    checkpoints: tuple[Path, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.sensitivities or self.curves or self.classes or self.agreements or self.checkpoints)


def find_sources(folders: Iterable[Path]) -> Sources:
    """Read all sources below folders, in the order of their paths.

    A source that cannot be read gives a note and is left out: a report needs none of them. The training runs of a
    trial, which are below its ``result.json``, are left out too: its record has their curve.
    """
    below = [*_folders_below(folders)]
    readers: list[tuple[str, frozenset[str], Callable[[Path, str], object]]] = [
        ("sensitivities", frozenset({TABLE}), lambda folder, name: (name, read_sensitivity(folder / TABLE))),
        ("curves", frozenset({"training.json", "metrics.jsonl"}), lambda folder, _: read_curve(folder)),
        ("classes", frozenset({"per_class.csv", "result.json"}), read_class_scores),
        ("agreements", frozenset({"agreement.json"}), read_agreement),
    ]
    of_trials = {folder for folder, _, _ in below if any((up / "result.json").is_file() for up in folder.parents)}
    found = {
        kind: tuple(
            source
            for folder, name, files in below
            if needed <= files
            and not (kind == "curves" and folder in of_trials)
            and (source := _or_note(partial(read, folder, name))) is not None
        )
        for kind, needed, read in readers
    }
    checkpoints = tuple(folder for folder, _, files in below if {"config.json", "model.safetensors"} <= files)
    return Sources(**found, checkpoints=checkpoints)  # type: ignore[arg-type]


def read_class_scores(folder: Path, name: str) -> ClassScores:
    """Read ``per_class.csv`` and ``result.json`` of ``epanns evaluate --out``.

    Raises:
        DataError: If a file cannot be read, or holds something else.
    """
    path = folder / "per_class.csv"
    columns, rows = read_csv_table(path, SHORT_LIST)
    if not {"name", "ap", "n_positive"} <= set(columns):
        raise DataError(f"{path}: has no columns name, ap and n_positive: give the --out of `epanns evaluate`")
    found = []
    for number, row in enumerate(rows, start=2):
        count, ap = whole_number(row["n_positive"]), _number(row["ap"])
        if count is None or (row["ap"] and (ap is None or not 0 <= ap <= 1)):
            raise DataError(f"{path}, line {number}: n_positive and ap must be a count and a number in [0, 1]")
        found.append((row["name"], count, ap))
    return ClassScores(name, read_record(folder / "result.json"), tuple(found))


def read_agreement(folder: Path, name: str) -> AgreementFile:
    """Read ``agreement.json`` of ``epanns agree --out``.

    Raises:
        DataError: If the file cannot be read, or holds something else.
    """
    path = folder / "agreement.json"
    given = read_json(path, error=DataError)
    texts = ("pruned", "dense", "dataset")
    if not isinstance(given, dict) or not given.keys() >= {*texts} or value_problems(given, dict.fromkeys(texts, TEXT)):
        raise DataError(f"{path}: has no {', '.join(texts)}: give the --out of `epanns agree`")
    scores = {score: given.get(score.removeprefix("agreement_")) for score in AGREEMENT}
    if wrong := [score for score, value in scores.items() if value is not None and not is_finite(value)]:
        raise DataError(f"{path}: {wrong[0].removeprefix('agreement_')} must be a number or null")
    return AgreementFile(name, given["pruned"], given["dense"], given["dataset"], scores)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _or_note(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except EpannsError as error:
        note(f"{error}; left out of the report")
        return None


def _folders_below(folders: Iterable[Path]) -> Iterator[tuple[Path, str, frozenset[str]]]:
    """Yield each folder below the given ones, its path from there (its own name at the top), and its files."""
    seen = set[Path]()
    for top in folders:
        for parent, inner, files in os.walk(top):
            inner.sort()
            folder = Path(parent)
            if (resolved := folder.resolve()) not in seen:
                seen.add(resolved)
                name = resolved.name if folder == top else str(folder.relative_to(top))
                yield folder, name, frozenset(files)
