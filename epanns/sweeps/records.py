"""The record of one run: what was done, what it cost, how well it scored. Plain JSON, read without torch.

Under one format fields may be added, with a default that says what was true of every run before. To remove a field or
to change its meaning takes a new format. So a record is read by its own epanns and by every later one of its format.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from epanns.errors import DataError
from epanns.strict import shown
from epanns.sweeps.failures import failures_in
from epanns.sweeps.record_rules import record_problems
from epanns.text_files import read_json

FORMAT = "epanns-record/1"
# Packages whose versions a record keeps.
DECISIVE_PACKAGES = ("torch", "torchaudio", "torch-pruning", "numpy", "scikit-learn")
_LISTED = 10  # problems in one message


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
        trial_id: Unique name of the trial, which becomes the name of a file (`epanns.names`); records of one id must be
            of the same run.
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
        network: sha256 of the weights that were scored last; None, and left out of the JSON, in records of earlier
            versions.
        name: Label for people, such as the name of the sweep's base; empty, and left out of the JSON, where there is
            none.
        intervals: Split name -> `Scores.intervals()` of the last stage; empty, and left out of the JSON, where none
            were drawn.
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
        """Return the record as JSON values, with its format version first."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self), allow_nan=False))
        for stage in values["stages"]:
            if not stage["curve"]:
                del stage["curve"]
            if stage["best_step"] is None:
                del stage["best_step"]
        for name in ("network", "name", "intervals"):
            if not values[name]:
                del values[name]
        return {"format": FORMAT, **values}

    @classmethod
    def from_dict(cls, given: Any) -> "RunRecord":
        """Return the record that `to_dict` wrote, here or in an earlier version: what it lacks takes its default.

        Raises:
            DataError: If it is no record of this format; the first problems are listed and the rest is counted.
        """
        if not isinstance(given, dict):
            raise DataError(f"not a usable run record: it is a {type(given).__name__}, not an object")
        if given.get("format") != FORMAT:
            raise DataError(
                f"not a usable run record: format={shown(given.get('format'))}: must be {FORMAT!r}; read it with the "
                "epanns that wrote it"
            )
        values = {name: value for name, value in given.items() if name != "format"}
        if problems := record_problems(values, cls, Stage):
            more = len(problems) - _LISTED
            listed = [*problems[:_LISTED], *([f"and {more:,} more problems"] if more > 0 else [])]
            raise DataError("not a usable run record: " + "; ".join(listed))
        stages = tuple(Stage(**stage) for stage in values["stages"])
        return cls(**(values | {"layers": tuple(values["layers"]), "stages": stages}))


def read_records(folders: Iterable[Path]) -> list[RunRecord]:
    """Read every ``result.json`` and ``records/*.json`` below the folders, sorted by path, each trial once.

    Two files of one trial may differ in seconds, device and versions: the run was repeated. The first is kept.

    Raises:
        DataError: If a folder is missing, cannot be read or holds no record, a file is broken, or two files differ in
            what one trial did or how it scored.
    """
    found: dict[str, tuple[Path, RunRecord]] = {}
    for folder in folders:
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; give the --out of a sweep, of evaluate or of quickstart")
        paths = sorted(_record_paths(folder))
        if not paths:
            failed = failures_in([folder])
            more = (
                f" {len(failed)} trials have no result, first {failed[0].folder}: {failed[0].reason}" if failed else ""
            )
            raise DataError(f"{folder}: no run record (**/result.json or records/*.json); is the run finished?{more}")
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


def _record_paths(folder: Path) -> Iterator[Path]:
    """Yield the files of records below a folder, those of a folder that is itself called ``records`` included."""

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror}); give a folder that can") from error

    for parent, _, names in os.walk(folder, onerror=refuse):
        in_records = Path(parent).resolve().name == "records"
        for name in names:
            if name == "result.json" or (in_records and name.endswith(".json") and not name.startswith(".")):
                yield Path(parent) / name


def _differences(one: RunRecord, other: RunRecord) -> list[str]:
    """Return the fields in which two records differ, apart from what differs when a run is repeated."""
    first, second = (
        replace(
            record,
            seconds=0,
            name="",
            intervals={},
            # Records of earlier versions lack the network.
            network=record.network if one.network and other.network else None,
            device="",
            versions={},
            # Records of earlier versions lack the best step.
            stages=tuple(replace(stage, seconds=0, best_step=None) for stage in record.stages),
        )
        for record in (one, other)
    )
    return [each.name for each in fields(RunRecord) if getattr(first, each.name) != getattr(second, each.name)]
