"""The record of a run: its settings, its cost and its scores, as JSON that is read without torch.

The format changes by new optional fields alone, whose default is true of every earlier record, so every later version
of epanns reads a record.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from epanns.errors import DataError
from epanns.safe_text import LONGEST_NAME, is_path_name
from epanns.strict import (
    ANY_TEXT,
    FINITE,
    POSITIVE,
    TABLE,
    TEXT,
    Rule,
    integer,
    is_finite,
    list_of,
    number,
    one_of,
    or_none,
    required_fields,
    shown,
    table_problems,
)
from epanns.text_files import read_json

FORMAT = "epanns-record/1"
# Packages whose versions a record holds.
DECISIVE_PACKAGES = ("torch", "torchaudio", "torch-pruning", "numpy", "scikit-learn")
STAGES = ("dense", "pruned", "recovered", "finetuned", "evaluated")

_LISTED = 10  # problems in one message
_MOST = 1e18  # parameters, bytes and multiply-adds
_TEXT_OR_NULL = replace(or_none(TEXT), text="text or null")
_SCORE = number("a number in [0, 1]", lambda value: 0 <= value <= 1)
_SIZE = number(f"a number in [1, {_MOST:g}]", lambda value: 1 <= value <= _MOST)
_RECORD_RULES: Mapping[str, Rule] = {
    "trial_id": Rule(
        f"a name of 1 to {LONGEST_NAME} of the characters A-Z a-z 0-9 . _ - and not . or ..", is_path_name
    ),
    "experiment": TEXT,
    "model": TEXT,
    "width": POSITIVE,
    "criterion": _TEXT_OR_NULL,
    "layers": list_of(TEXT, "texts"),
    "ratio": replace(or_none(number("", lambda value: 0 <= value < 1)), text="a number in [0, 1) or null"),
    "recover": TEXT,
    "finetune_iterations": integer(0),
    "seed": integer(0),
    "dataset": TEXT,
    "protocol": TEXT,
    "clip_seconds": POSITIVE,
    "config": TABLE,
    "plan_digest": _TEXT_OR_NULL,
    "cost_before": TABLE,
    "cost_after": TABLE,
    "stages": Rule("a list", lambda value: isinstance(value, list)),
    "device": TEXT,
    "versions": TABLE,
    "seconds": FINITE,
    "network": _TEXT_OR_NULL,
    "name": ANY_TEXT,
    "intervals": TABLE,
}
_CURVE_POINT = Rule(
    "a pair, step and score", lambda pair: isinstance(pair, list) and len(pair) == 2 and all(map(is_finite, pair))
)
_STAGE_RULES: Mapping[str, Rule] = {
    "name": one_of(STAGES),
    "scores": TABLE,
    "seconds": FINITE,
    "curve": list_of(_CURVE_POINT, "pairs, step and score"),
    "best_step": replace(or_none(integer(0)), text="a whole number >= 0 or null"),
    "recovery": TABLE,
}
# What reports need of a summary; its other keys may come and go.
_COST_RULES: Mapping[str, Rule] = dict.fromkeys(("n_params", "param_bytes", "backbone_macs"), _SIZE)
_SCORE_RULES = {"mAP": _SCORE, "accuracy": replace(or_none(_SCORE), text="a number in [0, 1] or null")}
_OTHER_SCORE = Rule("a finite number or null", lambda value: value is None or is_finite(value))


@dataclass(frozen=True)
class Stage:
    """The scores of a network at one point of a run.

    Attributes:
        name: One of `STAGES`: the unpruned network (`dense`), the network after surgery (`pruned`), after recovery
            without labels (`recovered`), after training (`finetuned`), or a checkpoint by itself (`evaluated`).
        scores: Split (``val``, ``test``, a pack's own) -> `Scores.summary()`, where an undefined value is None.
        seconds: Wall-clock time of the stage without scoring.
        curve: Of a training, step and validation score (mAP; accuracy of single-label networks) of every validation;
            left out of the JSON where it is empty.
        best_step: Of a training, the step whose weights were kept and scored; 0 for the weights before training. None,
            and left out of the JSON, where nothing was trained, and in some early records.
        recovery: Of a recovery, the report of `epanns.recover`: errors of each layer, losses of gradient steps; left
            out of the JSON where it is empty, and in some early records.
    """

    name: str
    scores: Mapping[str, Mapping[str, float | int | None]]
    seconds: float
    curve: Sequence[Sequence[float]] = ()
    best_step: int | None = None
    recovery: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunRecord:
    """One trial: its configuration, its cost before and after, and the scores of each stage.

    Attributes:
        trial_id: Unique name of the trial and of its file (`epanns.safe_text.is_path_name`).
        model: Name of the network before pruning.
        width: Factor on the channels of the model's row in the zoo.
        criterion: Name of the criterion; None where nothing was pruned.
        layers: Pruned layers or blocks.
        ratio: Fraction of channels removed from each of them, in [0, 1); None where ratios differ or nothing was
            pruned.
        recover: Name of the recovery, ``none`` without one.
        finetune_iterations: Optimisation steps after pruning.
        dataset: Name of the scored data set.
        protocol: How clips are scored, in words.
        clip_seconds: Length of a clip, to which the MACs of both costs belong.
        config: The whole resolved configuration.
        plan_digest: Digest of the pruning plan; None where nothing was pruned.
        cost_before: `ModelCost.summary()` of the unpruned network.
        cost_after: `ModelCost.summary()` of the scored network.
        stages: In the order of the run.
        device: Device of the run, in words.
        versions: Package -> version.
        seconds: Wall-clock time of the whole trial.
        network: Digest of the weights that were scored last; None, and left out of the JSON, in some early records.
        name: Label for reports; left out of the JSON where it is empty.
        intervals: Split -> `Scores.intervals()` of the last stage; left out of the JSON where it is empty.
    """

    trial_id: str
    experiment: str
    model: str
    width: float
    criterion: str | None
    layers: tuple[str, ...]
    ratio: float | None
    recover: str
    finetune_iterations: int
    seed: int
    dataset: str
    protocol: str
    clip_seconds: float
    config: Mapping[str, Any]
    plan_digest: str | None
    cost_before: Mapping[str, Any]
    cost_after: Mapping[str, Any]
    stages: tuple[Stage, ...]
    device: str
    versions: Mapping[str, str]
    seconds: float
    network: str | None = None
    name: str = ""
    intervals: Mapping[str, Any] = field(default_factory=dict)

    def stage(self, name: str) -> Stage | None:
        """Return the stage of that name, or None where the run had none."""
        return next((stage for stage in self.stages if stage.name == name), None)

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON values, with its format first."""
        given = vars(self) | {"stages": [vars(stage) for stage in self.stages]}
        values: dict[str, Any] = json.loads(json.dumps(given, allow_nan=False))
        for stage in values["stages"]:
            for name in ("curve", "recovery"):
                if not stage[name]:
                    del stage[name]
            if stage["best_step"] is None:
                del stage["best_step"]
        for name in ("network", "name", "intervals"):
            if not values[name]:
                del values[name]
        return {"format": FORMAT, **values}

    @classmethod
    def from_dict(cls, given: Any) -> "RunRecord":
        """Return the record in the JSON values of `to_dict`; missing optional fields take their defaults.

        Raises:
            DataError: If it is no record of this format; the first problems are listed, the rest is counted.
        """
        if not isinstance(given, dict):
            raise DataError(f"not a usable run record: it is a {type(given).__name__}, not an object")
        if given.get("format") != FORMAT:
            raise DataError(
                f"not a usable run record: format={shown(given.get('format'))}: must be {FORMAT!r}; read it with the "
                "epanns that wrote it"
            )
        values = {name: value for name, value in given.items() if name != "format"}
        if problems := _problems_in(values):
            more = len(problems) - _LISTED
            listed = [*problems[:_LISTED], *([f"and {more:,} more problems"] if more > 0 else [])]
            raise DataError("not a usable run record: " + "; ".join(listed))
        stages = tuple(Stage(**stage) for stage in values["stages"])
        return cls(**(values | {"layers": tuple(values["layers"]), "stages": stages}))


def _problems_in(given: Mapping[str, Any]) -> list[str]:
    """Return one line for everything that keeps a JSON object from being a record."""
    problems = table_problems(given, _RECORD_RULES, required=required_fields(RunRecord))
    for name in ("cost_before", "cost_after"):
        if isinstance(cost := given.get(name), dict):
            decisive = {key: cost[key] for key in _COST_RULES if key in cost}
            problems += table_problems(decisive, _COST_RULES, required=_COST_RULES.keys(), prefix=f"{name}.")
    stages = given.get("stages")
    for place, stage in enumerate(stages if isinstance(stages, list) else ()):
        where = f"stages[{place}]"
        if not isinstance(stage, dict):
            problems.append(f"{where} is a {type(stage).__name__}, not an object")
            continue
        problems += table_problems(stage, _STAGE_RULES, required=required_fields(Stage), prefix=f"{where}.")
        scores = stage.get("scores")
        for split, summary in (scores if isinstance(scores, dict) else {}).items():
            name = f"{where}.scores.{shown(split)[1:-1]}"
            if not isinstance(summary, dict):
                problems.append(f"{name}={shown(summary)}: must be an object with the number mAP")
                continue
            printable = {shown(key)[1:-1]: value for key, value in summary.items()}
            rules = dict.fromkeys(printable, _OTHER_SCORE) | _SCORE_RULES
            problems += table_problems(printable, rules, required=("mAP",), prefix=f"{name}.")
    return problems


def read_records(folders: Iterable[Path], *, remark: Callable[[Path], str] = lambda folder: "") -> list[RunRecord]:
    """Read every ``result.json`` and ``records/*.json`` below the folders, sorted by path, each trial once.

    Of several files of one trial the first is returned; they may differ in seconds, device and versions.

    Args:
        folders: Folders with records at any depth.
        remark: Returns the end of the error message for a folder without a record.

    Raises:
        DataError: If a folder is missing, cannot be read or holds no record, a file is broken, or two files of one
            trial differ in settings or scores.
    """
    found: dict[str, tuple[Path, RunRecord]] = {}
    for folder in folders:
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; give the --out of a sweep, of evaluate or of quickstart")
        paths = sorted(record_paths(folder))
        if not paths:
            missing = f"{folder}: no run record (**/result.json or records/*.json); is the run finished?"
            raise DataError(missing + remark(folder))
        for path in paths:
            record = read_record(path)
            first, known = found.setdefault(record.trial_id, (path, record))
            if differing := _differences(known, record):
                raise DataError(
                    f"{path} and {first} differ in {', '.join(differing)} but both are trial {record.trial_id}: "
                    "keep one of them"
                )
    return [record for _, record in found.values()]


def read_record(path: Path) -> RunRecord:
    """Read one record.

    Raises:
        DataError: If the file cannot be read or holds no record.
    """
    given = read_json(path, error=DataError, remedy="delete it and run the trial again")
    try:
        return RunRecord.from_dict(given)
    except DataError as error:
        raise DataError(f"{path}: {error}; delete it and run the trial again") from error


def record_paths(folder: Path) -> Iterator[Path]:
    """Yield the files of records below a folder; the folder itself may be called ``records``."""

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror}); give a folder that can") from error

    for parent, _, names in os.walk(folder, onerror=refuse):
        in_records = Path(parent).resolve().name == "records"
        for name in names:
            if name == "result.json" or (in_records and name.endswith(".json") and not name.startswith(".")):
                yield Path(parent) / name


def _differences(one: RunRecord, other: RunRecord) -> list[str]:
    """Return the fields in which two records differ, apart from those that differ between repetitions of a run."""
    first, second = (
        replace(
            record,
            seconds=0,
            name="",
            intervals={},
            network=record.network if one.network and other.network else None,  # some early records lack it
            device="",
            versions={},
            stages=tuple(replace(stage, seconds=0, best_step=None, recovery={}) for stage in record.stages),
        )
        for record in (one, other)
    )
    return [each.name for each in fields(RunRecord) if getattr(first, each.name) != getattr(second, each.name)]
