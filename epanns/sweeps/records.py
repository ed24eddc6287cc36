"""The record of one run: what was done, what it cost, how well it scored. Plain JSON, read without torch.

Under one format fields may be added, with a default that says what was true of every run before. To remove a field or
to change its meaning takes a new format. So a record is read by its own epanns and by every later one of its format.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from epanns.errors import DataError, did_you_mean

FORMAT = "epanns-record/1"
# Packages whose versions a record keeps.
DECISIVE_PACKAGES = ("torch", "torchaudio", "torch-pruning", "numpy", "scikit-learn")
STAGES = ("dense", "pruned", "recovered", "finetuned", "evaluated")

# What a report cannot do without; the other keys of a summary may come and go.
_COST_KEYS = ("n_params", "param_bytes", "backbone_macs")
_SCORE_KEYS = ("mAP",)


@dataclass(frozen=True)
class Stage:
    """How well a network scored at one point of a run.

    Attributes:
        name: One of `STAGES`: the network as it came (`dense`), right after surgery (`pruned`), after recovery without
            labels (`recovered`), after training (`finetuned`), or a checkpoint scored by itself (`evaluated`).
        scores: Split name (``val``, ``test``, a pack's own) -> `Scores.summary()`, where a value that is undefined is
            None.
        seconds: Wall-clock time the stage took, without scoring.
        curve: Of training, step and validation score (mAP; accuracy of single-label networks) of every validation; left
            out of the JSON where there is none.
        best_step: Of training, the step whose weights were kept and scored; 0 for those from before the training. None,
            and left out of the JSON, where nothing was trained, and in records of earlier versions.
    """

    name: str
    scores: Mapping[str, Mapping[str, float | int | None]]
    seconds: float
    curve: Sequence[Sequence[float]] = ()
    best_step: int | None = None


@dataclass(frozen=True)
class RunRecord:
    """One trial: its configuration, cost before and after, and the scores of each stage.

    Attributes:
        trial_id: Unique name of the trial; records met under one id must tell of the same run.
        experiment: Name of the experiment it belongs to.
        model: Name of the network before pruning, and `width`, its share of the zoo's channels.
        criterion: Name of the importance rule; None where nothing was pruned.
        layers: Layers or blocks that were pruned.
        ratio: Fraction of channels removed from each of them, in [0, 1); None where ratios differ by layer or none is.
        recover: Name of the recovery step, ``none`` without one.
        finetune_iterations: Optimisation steps after pruning.
        dataset: Name of the data the scores were measured on, and `protocol`, how clips became scores.
        clip_seconds: Length of a clip, to which the MACs of both costs belong.
        config: The whole resolved configuration.
        cost_before: `ModelCost.summary()` of the unpruned network; `cost_after` of the network that was scored.
        stages: In the order they were run.
        seconds: Wall-clock time of the whole trial.
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

    def stage(self, name: str) -> Stage | None:
        """Return the stage of that name, or None where the run had none."""
        return next((stage for stage in self.stages if stage.name == name), None)

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON values, with its format version first."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self), allow_nan=False))
        for stage in values["stages"]:
            if not stage["curve"]:
                del stage["curve"]
            if stage["best_step"] is None:
                del stage["best_step"]
        return {"format": FORMAT, **values}

    @classmethod
    def from_dict(cls, given: Any) -> "RunRecord":
        """Return the record that `to_dict` wrote, here or in an earlier version: what it lacks takes its default.

        Raises:
            DataError: If it is no record of this format; every problem is listed.
        """
        problems = _problems(given, cls)
        if problems:
            raise DataError("not a usable run record: " + "; ".join(problems))
        values = {name: value for name, value in given.items() if name != "format"}
        stages = tuple(Stage(**stage) for stage in values["stages"])
        return cls(**(values | {"layers": tuple(values["layers"]), "stages": stages}))


def read_records(folders: Iterable[Path]) -> list[RunRecord]:
    """Read every ``result.json`` and ``records/*.json`` below the folders, sorted by path, each trial once.

    Two files of one trial may differ in seconds, device and versions: the run was repeated. The first is kept.

    Raises:
        DataError: If a folder is missing or holds no record, a file is broken, or two files tell different things
            about what one trial did or how it scored.
    """
    found: dict[str, tuple[Path, RunRecord]] = {}
    for folder in folders:
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; give the --out of a sweep, of evaluate or of quickstart")
        paths = sorted({*folder.rglob("result.json"), *folder.rglob("records/*.json"), *_own_records(folder)})
        if not paths:
            raise DataError(f"{folder}: no run record (**/result.json or records/*.json); is the run finished?")
        for path in paths:
            record = _read_record(path)
            first, known = found.setdefault(record.trial_id, (path, record))
            if differing := _differences(known, record):
                raise DataError(
                    f"{path} and {first} differ in {', '.join(differing)} but both are trial {record.trial_id}: "
                    "keep one of them"
                )
    return [record for _, record in found.values()]


def _differences(one: RunRecord, other: RunRecord) -> list[str]:
    """Return the fields in which two records differ, apart from what differs when a run is repeated."""
    first, second = (
        replace(
            record,
            seconds=0,
            device="",
            versions={},
            # Records of earlier versions lack the best step.
            stages=tuple(replace(stage, seconds=0, best_step=None) for stage in record.stages),
        )
        for record in (one, other)
    )
    return [field.name for field in fields(RunRecord) if getattr(first, field.name) != getattr(second, field.name)]


def _own_records(folder: Path) -> Iterable[Path]:
    """Records of a folder that is itself called ``records``."""
    return folder.glob("*.json") if folder.resolve().name == "records" else ()


def _read_record(path: Path) -> RunRecord:
    try:
        return RunRecord.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}); delete it and run the trial again") from error
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_count_or_null(value: object) -> bool:
    return value is None or _is_count(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_curve(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(map(_is_number, pair)) for pair in value
    )


def _has_numbers(*names: str) -> Callable[[object], bool]:
    return lambda value: isinstance(value, dict) and all(_is_number(value.get(name)) for name in names)


def _is_ratio_or_null(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1)


def _is_text_or_null(value: object) -> bool:
    return value is None or _is_text(value)


def _is_list_of_text(value: object) -> bool:
    return isinstance(value, list) and all(_is_text(item) for item in value)


def _is_mapping(value: object) -> bool:
    return isinstance(value, dict)


_TEXT = (_is_text, "text")
_COUNT = (_is_count, "a whole number >= 0")
_NUMBER = (_is_number, "a finite number")
_TEXT_OR_NULL = (_is_text_or_null, "text or null")
_MAPPING = (_is_mapping, "an object")
_COST = (_has_numbers(*_COST_KEYS), f"an object with the numbers {', '.join(_COST_KEYS)}")

_RULES: dict[str, tuple[Callable[[object], bool], str]] = {
    "trial_id": _TEXT,
    "experiment": _TEXT,
    "model": _TEXT,
    "width": _NUMBER,
    "criterion": _TEXT_OR_NULL,
    "layers": (_is_list_of_text, "a list of texts"),
    "ratio": (_is_ratio_or_null, "a number in [0, 1) or null"),
    "recover": _TEXT,
    "finetune_iterations": _COUNT,
    "seed": _COUNT,
    "dataset": _TEXT,
    "protocol": _TEXT,
    "clip_seconds": _NUMBER,
    "config": _MAPPING,
    "plan_digest": _TEXT_OR_NULL,
    "cost_before": _COST,
    "cost_after": _COST,
    "stages": (lambda value: isinstance(value, list), "a list"),
    "device": _TEXT,
    "versions": _MAPPING,
    "seconds": _NUMBER,
}


def _problems(given: object, kind: type[RunRecord]) -> list[str]:
    """Return everything that keeps a JSON value from being a record."""
    if not isinstance(given, dict):
        return [f"it is a {type(given).__name__}, not an object"]
    if given.get("format") != FORMAT:
        return [f"format={given.get('format')!r}: must be {FORMAT!r}; read it with the epanns that wrote it"]
    problems = _key_problems({key: value for key, value in given.items() if key != "format"}, kind, "")
    for name, (holds, rule) in _RULES.items():
        if name in given and not holds(given[name]):
            problems.append(f"{name}={given[name]!r}: must be {rule}")
    if isinstance(given.get("stages"), list):
        for index, stage in enumerate(given["stages"]):
            problems += _stage_problems(stage, f"stages[{index}]")
    return problems


def _key_problems(given: Mapping[str, Any], kind: type[RunRecord | Stage], where: str) -> list[str]:
    wanted = {field.name for field in fields(kind)}
    required = {field.name for field in fields(kind) if field.default is MISSING and field.default_factory is MISSING}
    unknown = [f"unknown key {where}{key}{did_you_mean(key, wanted)}" for key in given if key not in wanted]
    return unknown + [f"missing key {where}{key}" for key in sorted(required - given.keys())]


def _stage_problems(given: object, where: str) -> list[str]:
    if not isinstance(given, dict):
        return [f"{where} is a {type(given).__name__}, not an object"]
    problems = _key_problems(given, Stage, f"{where}.")
    if "name" in given and given["name"] not in STAGES:
        problems.append(f"{where}.name={given['name']!r}: must be one of {', '.join(STAGES)}")
    for key, holds, rule in (
        ("seconds", *_NUMBER),
        ("curve", _is_curve, "a list of pairs, step and score"),
        ("best_step", _is_count_or_null, "a whole number >= 0 or null"),
    ):
        if key in given and not holds(given[key]):
            problems.append(f"{where}.{key}={str(given[key])[:60]!r}: must be {rule}")
    scores = given.get("scores", {})
    if not isinstance(scores, dict):
        return [*problems, f"{where}.scores={scores!r}: must be an object, split -> scores"]
    for split, summary in scores.items():
        if not _has_numbers(*_SCORE_KEYS)(summary):
            problems.append(f"{where}.scores.{split}={summary!r}: must be an object with the number mAP")
    return problems
