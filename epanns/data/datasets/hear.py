"""Read a task of HEAR 2021 into a manifest.

The folder of a task, such as ``tasks/esc50-v2.0.0-full``, holds ``task_metadata.json``; the classes in
``labelvocabulary.csv`` (``idx,label``); the labels of each split in ``train.json``, ``valid.json``, ``test.json`` or
``fold00.json``, ...; and the sound at one or several rates, ``48000/train/*.wav``.

Only scene tasks are read, in which a clip has labels as a whole. The labels of an event task have times, and its scores
(onset F-measure, error rate of segments) compare times; tags of segments would give other scores under the task's name,
and segments without an event could not be listed, since a clip needs a label.

Source: Turian et al., "HEAR: Holistic Evaluation of Audio Representations", 2022; the task folders are those that
hear-preprocess 2021.1 writes.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from epanns.data.clip import Clip
from epanns.data.datasets.folds import require_columns, with_fold_splits
from epanns.data.datasets.sound_files import SoundsByStem, folders_holding
from epanns.data.manifest import Manifest
from epanns.errors import ConfigError, DataError
from epanns.labels import LabelSet
from epanns.safe_text import path_name
from epanns.strict import shown
from epanns.text_files import SHORT_LIST, read_csv_table, read_json, whole_number

_METADATA, _VOCABULARY = "task_metadata.json", "labelvocabulary.csv"
_SPLITS = {"train": "train", "valid": "val", "test": "test"}  # HEAR's name -> ours
_FOLD = re.compile(r"fold([0-9]{1,9})")
_LONGEST_LIST = 1 << 28  # bytes of a split's labels: the 289,000 clips of NSynth take 17 million
_REMEDY = "extract it from the archive again"


def read_hear(
    root: Path,
    *,
    name: str | None = None,
    sample_rate: int | None = None,
    val_fold: int | None = None,
    test_fold: int | None = None,
) -> Manifest:
    """Read a scene task of HEAR: the splits ``train``, ``val`` and ``test``, or ``fold1`` (``fold00``), ``fold2``, ...

    Args:
        root: The task's folder, or a folder at most two levels above it with no other task.
        name: Name of the data set in results; default: the folder's name.
        sample_rate: Rate in Hz whose sound is read; default: the highest that the folder holds.
        val_fold: Fold that becomes the split ``val``.
        test_fold: Fold that becomes the split ``test``; the other folds are ``train``.

    Raises:
        DataError: If there is not one task, it is an event task, or a file is invalid.
        ConfigError: If the folder does not hold the sample rate, or a fold does not exist.
    """
    found = folders_holding(root.resolve(), _METADATA)
    if len(found) != 1:
        tasks = ", ".join(folder.name for folder in found[:10])
        remedy = f"it holds {len(found)} tasks, name one of them: {tasks}" if found else "name the folder of a task"
        raise DataError(f"{root}: must be the folder of one HEAR task, with {_METADATA}: {remedy}")
    folder = found[0]
    is_multiclass, splits = _read_metadata(folder)
    labels = _read_vocabulary(folder / _VOCABULARY)
    rates = sorted(rate for path in folder.iterdir() if path.is_dir() and (rate := whole_number(path.name)))
    rate = sample_rate or max(rates, default=0)
    if rate not in rates:
        wanted = f", {rate}" if sample_rate else ""
        held = ", ".join(map(str, rates)) or "none"
        message = f"{folder}: must hold the sound in a folder of its sample rate{wanted}; it holds {held}"
        raise ConfigError(message) if sample_rate else DataError(message)
    clips: list[Clip] = []
    missing: list[Clip] = []
    n_ignored = 0
    for hear_split in splits:
        fold = _FOLD.fullmatch(hear_split)
        number = int(fold[1]) + 1 if fold else None  # folds count from 1, as in other data sets
        split = f"fold{number}" if fold else _SPLITS.get(hear_split, hear_split)
        audio = folder / str(rate) / hear_split
        sounds = SoundsByStem(audio)
        used = set()
        for filename, names, where in _read_labels(folder / f"{hear_split}.json", labels, is_multiclass):
            path = sounds.find(filename, where)
            used.add(path)
            clip = Clip(filename, path or f"{audio}/{filename}", names, split, fold=number)
            (clips if path else missing).append(clip)
        n_ignored += sounds.n_files - len(used - {None})
    manifest = Manifest(name or folder.name, labels, tuple(clips), tuple(missing), n_ignored)
    return with_fold_splits(manifest, val_fold, test_fold)


def _read_metadata(folder: Path) -> tuple[bool, list[str]]:
    """Return whether each clip has exactly one class, and the names of the splits."""
    path = folder / _METADATA
    given = read_json(path, error=DataError, remedy=_REMEDY)
    if not isinstance(given, dict):
        raise DataError(f"{path}: must be an object, is {shown(given)}; {_REMEDY}")
    kind = given.get("embedding_type")
    if kind == "event":
        raise DataError(
            f"{path}: embedding_type 'event': only scene tasks are read; the labels of an event task have times, and "
            "its scores compare times, which tags of clips do not have"
        )
    rules = {"embedding_type": ("scene",), "prediction_type": ("multiclass", "multilabel")}
    for key, choices in rules.items():
        if given.get(key) not in choices:
            raise DataError(f"{path}: {key} is {shown(given.get(key))}, must be {' or '.join(choices)}")
    splits = given.get("splits") or sorted(
        path.stem for path in folder.glob("*.json") if path.stem in _SPLITS or _FOLD.fullmatch(path.stem)
    )
    if not isinstance(splits, list) or not splits or not all(isinstance(split, str) for split in splits):
        raise DataError(f"{path}: splits is {shown(splits)}, must be a list of names; {_REMEDY}")
    return given["prediction_type"] == "multiclass", [
        path_name(split, f"{path}: splits", DataError) for split in splits
    ]


def _read_vocabulary(path: Path) -> LabelSet:
    columns, rows = read_csv_table(path, SHORT_LIST)
    require_columns(path, columns, ("idx", "label"), "HEAR's")
    names = []
    for number, row in enumerate(rows):
        if row["idx"] != str(number) or not row["label"]:
            given = shown(f"{row['idx']},{row['label']}")
            raise DataError(f"{path}, row {number + 1}: {given} must be {number},<label>; {_REMEDY}")
        names.append(row["label"])
    return LabelSet.of(names)


def _read_labels(path: Path, labels: LabelSet, is_multiclass: bool) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """Yield file name, labels, and the file and entry for messages, of each clip of a split."""
    given: Any = read_json(path, error=DataError, limit=_LONGEST_LIST, remedy=_REMEDY)
    if not isinstance(given, Mapping):
        raise DataError(f"{path}: must be an object of file names and labels, is {shown(given)}; {_REMEDY}")
    known = frozenset(labels.names)
    for filename, listed in given.items():
        where = f"{path}, {shown(filename)}"
        # Labels that are whole numbers, such as numbers of speakers, are numbers in these files.
        names = tuple(map(str, listed)) if isinstance(listed, list) else ()
        if not names or (is_multiclass and len(names) != 1):
            rule = "exactly one label" if is_multiclass else "labels"
            raise DataError(f"{where}: labels {shown(listed)} must be a list of {rule}")
        unknown = [name for name in names if name not in known]
        if unknown:
            raise DataError(f"{where}: label {shown(unknown[0])} is not among the {len(labels)} of {_VOCABULARY}")
        yield filename, names, where
