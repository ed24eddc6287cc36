"""The folder of a trial, whose files state whether it is done or failed; failed trials, and trials in words."""

import math
import os
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from epanns.atomic import write_json
from epanns.errors import DataError
from epanns.labels import DECISIVE_SCORES
from epanns.records import RunRecord, read_record
from epanns.safe_text import is_path_name, path_name, printable
from epanns.text_files import read_json
from epanns.training.metrics import STEP_0_KEPT
from epanns.workfolder import WorkFolder


@dataclass(frozen=True)
class TrialFolder:
    """``trials/<id>``: ``config.json`` before the run, ``result.json`` after it, ``error.json`` after a failure.

    ``result.json`` appears by an atomic rename and means that the trial is done. A trial with an ``error.json`` is not
    run again until the file is removed.
    """

    path: Path

    @property
    def is_done(self) -> bool:
        """Whether the trial has its result."""
        return (self.path / "result.json").exists()

    @property
    def has_failed(self) -> bool:
        """Whether the trial has an error and no result."""
        return (self.path / "error.json").exists() and not self.is_done

    def write_config(self, request: Mapping[str, Any]) -> None:
        """Write the trial's ``config``, and what a process needs to run it; an equal file stays."""
        path = self.path / "config.json"
        if _table_in(path) != request:
            write_json(path, request)

    def read_config(self) -> dict[str, Any]:
        """Return the trial's ``config``, and the paths of its packs, its base and the networks that it is given."""
        request: dict[str, Any] = read_json(self.path / "config.json", error=DataError, remedy="run the sweep again")
        return request

    def read_record(self) -> RunRecord:
        """Return the result of a finished trial."""
        return read_record(self.path / "result.json")

    def rename(self, name: str) -> None:
        """Give a finished trial another label."""
        record = self.read_record()
        if record.name != name:
            write_json(self.path / "result.json", replace(record, name=name).to_dict())

    def describe(self, outcome: str) -> str:
        """Return one line about the trial after it ended.

        Args:
            outcome: ``done``, ``skipped`` (it was done before) or ``failed``.
        """
        try:
            name = f"trial {self.path.name} ({_trial_in_words(self.read_config())})"
        except (DataError, LookupError, TypeError):
            name = f"trial {self.path.name}"
        if outcome == "failed":
            return f"{name} failed: {printable(failure_in(self.path))}"
        words = {"done": "done", "skipped": "done before"}.get(outcome, outcome)
        try:
            record = self.read_record()
        except DataError as error:
            return f"{name} {words}, but {error}"
        last, scores = record.stages[-1], []
        is_zero_shot = "class_map_sha256" in record.config.get("base", record.config).get("data", {})
        for split, summary in reversed([*last.scores.items()]):
            is_single = not is_zero_shot and summary.get(DECISIVE_SCORES["single-label"]) is not None
            task = "single-label" if is_single else "multi-label"
            scores.append(f"{split} {DECISIVE_SCORES[task]} {summary[DECISIVE_SCORES[task]]:.4f}")
        kept = f"; {STEP_0_KEPT}" if last.best_step == 0 else ""
        return f"{name} {words}: {', '.join(scores)}, {record.seconds:.1f} s{kept}"

    def succeed(self, record: RunRecord) -> None:
        """Write the result, after which the trial is done."""
        write_json(self.path / "result.json", record.to_dict())

    def fail(self, error: Exception) -> None:
        """Write the error of an attempt."""
        trace = "".join(traceback.format_exception(error))
        write_json(self.path / "error.json", {"kind": type(error).__name__, "message": str(error), "traceback": trace})

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Wait until no other process works on the trial, and keep other processes out for the duration of a block."""
        with WorkFolder(self.path).locked(wait=math.inf):
            yield


def _trial_in_words(request: Mapping[str, Any]) -> str:
    """Return the name of a trial: base, criterion, amount, recovery, fine-tuning, seed and fold.

    Args:
        request: Content of the trial's ``config.json``.
    """
    config = request["config"]
    base = config.get("base", config)
    label, model, width = request.get("name", ""), base.get("model", ""), base.get("width", 1.0)
    fold = base["data"].get("fold")
    return ", ".join(
        [
            base_in_words(label, model, width, request["checkpoint"]),
            treatment_in_words(config),
            f"seed {config['seed']}",
            *([f"fold {fold}"] if fold else []),
        ]
    )


def treatment_in_words(config: Mapping[str, Any]) -> str:
    """Return in words what a trial does to its base, from its configuration."""
    if config["kind"] == "base":
        parts = ["unpruned"]
    elif config.get("ratio") == 0:
        parts = ["unpruned, trained on"]
    else:
        parts = [config["criterion"], amount_in_words(config)]
        parts += [] if config["recover"] == "none" else [config["recover"]]
    if "finetune" in config:
        parts += [f"{config['finetune']['iterations']:,} iterations"]
    return ", ".join(parts)


def base_in_words(label: str, model: str, width: float, checkpoint: str) -> str:
    """Return the label of a base, or else the name of its checkpoint, or else its model and width."""
    if label:
        return printable(label)
    if checkpoint:
        return printable(Path(checkpoint).name or checkpoint)
    return model if width == 1 else f"{model} x {width:g}"


def amount_in_words(config: Mapping[str, Any]) -> str:
    """Return the amount that a trial's configuration removes, in words."""
    if "ratios" in config:
        return printable("ratios " + ", ".join(f"{layer} {ratio:g}" for layer, ratio in config["ratios"].items()))
    amount = config["budget"] if "budget" in config else f"ratio {config['ratio']:g}"
    layers = config.get("layers")
    return printable(amount if layers is None else f"{amount} of {', '.join(layers)}")


@dataclass(frozen=True)
class Failure:
    """A trial of a sweep without a result: its folder, and the reason in one line."""

    folder: Path
    reason: str


def failures_in(folders: Iterable[Path]) -> list[Failure]:
    """Return the trials of every sweep below the folders that have a result in none of them, each once, by path.

    A trial that one sweep lacks and another has is no failure: shards may have folders of their own. Of several folders
    without its result, that with an error is returned.

    Raises:
        DataError: If a ``sweep.json`` cannot be read.
    """
    # Sweeps below a folder, and the sweep whose ``trials`` it is; `read_records` refuses a folder that cannot be read.
    places = [
        place
        for folder in folders
        for place in (
            *(
                [folder.parent]
                if folder.resolve().name == "trials" and (folder.parent / "sweep.json").is_file()
                else []
            ),
            *(Path(parent) for parent, _, names in os.walk(folder) if "sweep.json" in names),
        )
    ]
    sweeps = {sweep.resolve(): sweep for sweep in places}
    done: set[str] = set()
    lacking: dict[str, Path] = {}
    for sweep in sorted(sweeps.values()):
        given = read_json(sweep / "sweep.json", error=DataError, remedy="run the sweep again")
        trials = given.get("trials") if isinstance(given, dict) else None
        if not isinstance(trials, list):
            raise DataError(f"{sweep / 'sweep.json'}: trials must be a list of names; run the sweep again")
        for trial in trials:
            folder = sweep / "trials" / path_name(trial, f"{sweep / 'sweep.json'}: trials", DataError)
            if TrialFolder(folder).is_done:
                done.add(folder.name)
            elif folder.name not in lacking or TrialFolder(folder).has_failed:
                lacking[folder.name] = folder
    return [Failure(folder, failure_in(folder)) for name, folder in lacking.items() if name not in done]


def failure_in(trial: Path) -> str:
    """Return in one line why the trial of a folder has no result."""
    if (trial / "error.json").exists():
        if (found := _table_in(trial / "error.json")) is None:
            return "error.json cannot be read"
        message = found.get("message")
        first, *_ = (message.splitlines() if isinstance(message, str) else []) or [""]
        return first or str(found.get("kind") or "an error without a message")
    base = (_table_in(trial / "config.json") or {}).get("base")
    if is_path_name(base) and (trial.parent / str(base) / "error.json").exists():
        return "its base failed"
    return "it was not run to its end"


def _table_in(path: Path) -> dict[str, Any] | None:
    """Return the table of a small JSON file, or None where the file is missing or cannot be read."""
    try:
        found = read_json(path, error=DataError)
    except DataError:
        return None
    return found if isinstance(found, dict) else None


def failures_in_words(folder: Path) -> str:
    """Return the number of trials below a folder that have no result, and the first reason; empty if there is none."""
    failures = failures_in([folder])
    return (
        f" {len(failures)} trials have no result, first {failures[0].folder}: {failures[0].reason}" if failures else ""
    )
