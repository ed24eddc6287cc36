"""The folder of a sweep: a list of trials, and one folder per trial whose files state whether it is done or failed."""

import math
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from epanns.atomic import write_json
from epanns.errors import DataError, OutputError
from epanns.labels import DECISIVE_SCORES
from epanns.records import RunRecord, failure_in, read_record
from epanns.safe_text import path_name, printable
from epanns.sweeps.base import base_in_words
from epanns.sweeps.experiment import Experiment, Trial, amount_in_words
from epanns.text_files import read_json
from epanns.training.run.metrics import STEP_0_KEPT
from epanns.workfolder import Work, WorkFolder


@dataclass(frozen=True)
class TrialFolder:
    """``trials/<id>``: ``config.json`` before the run, ``result.json`` after it, ``error.json`` after a failure.

    ``result.json`` appears by an atomic rename and means that the trial is done.
    """

    path: Path

    @property
    def is_done(self) -> bool:
        """Whether the trial has its result."""
        return (self.path / "result.json").exists()

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
        for split, summary in reversed([*last.scores.items()]):
            task = "multi-label" if summary.get(DECISIVE_SCORES["single-label"]) is None else "single-label"
            scores.append(f"{split} {DECISIVE_SCORES[task]} {summary[DECISIVE_SCORES[task]]:.4f}")
        kept = f"; {STEP_0_KEPT}" if last.best_step == 0 else ""
        return f"{name} {words}: {', '.join(scores)}, {record.seconds:.1f} s{kept}"

    def succeed(self, record: RunRecord) -> None:
        """Write the result and remove the error of an earlier attempt."""
        write_json(self.path / "result.json", record.to_dict())
        (self.path / "error.json").unlink(missing_ok=True)

    def fail(self, error: Exception) -> None:
        """Write the error; the next run of the sweep retries the trial."""
        trace = "".join(traceback.format_exception(error))
        write_json(self.path / "error.json", {"kind": type(error).__name__, "message": str(error), "traceback": trace})

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Wait until no other process works on the trial, and keep other processes out for the duration of a block."""
        with WorkFolder(self.path).locked(wait=math.inf):
            yield


def _trial_in_words(request: Mapping[str, Any]) -> str:
    """Return the name of a trial: base, criterion, amount, recovery, fine-tuning and seed.

    Args:
        request: Content of the trial's ``config.json``.
    """
    config = request["config"]
    base = config.get("base", config)
    label, model, width = request.get("name", ""), base.get("model", ""), base.get("width", 1.0)
    parts = [base_in_words(label, model, width, request["checkpoint"])]
    if config["kind"] == "base":
        parts += ["unpruned"]
    elif config.get("ratio") == 0:
        parts += ["unpruned, trained on"]
    else:
        parts += [config["criterion"], amount_in_words(config)]
        parts += [] if config["recover"] == "none" else [config["recover"]]
    if "finetune" in config:
        parts += [f"{config['finetune']['iterations']:,} iterations"]
    return ", ".join([*parts, f"seed {config['seed']}"])


@dataclass(frozen=True)
class EarlierTrials:
    """Trials of the folder that the experiment no longer has.

    Attributes:
        left: Ids of the finished ones, which stay.
        replaced: Number of those without a result.
    """

    left: tuple[str, ...] = ()
    replaced: int = 0


class Sweep:
    """The folder of a sweep.

    Attributes:
        path: The folder.
        experiment: The experiment that is run in it.
    """

    def __init__(self, path: Path, experiment: Experiment) -> None:
        self.path = path
        self.experiment = experiment

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out of the folder for the duration of a block; a free folder becomes a sweep's.

        Raises:
            OutputError: If another process works in the folder, or it holds something else.
        """
        folder = WorkFolder(self.path, "sweep.json", Work("is no sweep", noun="a sweep"))
        folder.require_usable()
        with folder.locked():
            folder.require_usable()
            if not folder.is_begun:
                write_json(folder.first_file, {"experiment": self.experiment.name, "trials": []})
            yield

    def folder_of(self, trial: Trial) -> TrialFolder:
        """Return a trial's folder."""
        return TrialFolder(self.path / "trials" / trial.trial_id)

    @property
    def has_results(self) -> bool:
        """Whether any trial in the folder is finished."""
        return any(self.path.glob("trials/*/result.json"))

    def prepare(self, trial: Trial, packs: Mapping[str, list[str]]) -> TrialFolder:
        """Write ``config.json``, with which a trial can run in a process of its own."""
        folder = self.folder_of(trial)
        request = {"experiment": self.experiment.name, "config": dict(trial.config), "packs": dict(packs)}
        if trial.name:
            request["name"] = trial.name
        if trial.base is not None:
            request |= {"base": trial.base.trial_id, "checkpoint": trial.base.checkpoint}
        else:
            request |= {"checkpoint": trial.checkpoint, "yamnet": trial.yamnet}
        write_json(folder.path / "config.json", request)
        (folder.path / "error.json").unlink(missing_ok=True)  # of an earlier attempt
        return folder

    def set_trials(self, trials: Sequence[Trial]) -> EarlierTrials:
        """Write the list of trials to ``sweep.json`` and return the trials that it no longer holds.

        Trials without a result may be replaced, so that an experiment can be corrected. Finished trials that are no
        longer in the experiment stay, if they were run on the same data and scored alike.

        Args:
            trials: All trials of the experiment.

        Raises:
            OutputError: If finished trials were run on other data or scored in another way, or all belong to another
                experiment.
        """
        ids = [trial.trial_id for trial in trials]
        held = self._read_list()
        earlier = dict.fromkeys([*held.get("trials", ()), *held.get("left", ())])
        finished = [trial_id for trial_id in earlier if TrialFolder(self.path / "trials" / trial_id).is_done]
        left = tuple(trial_id for trial_id in finished if trial_id not in ids)
        for trial_id in left:
            record = TrialFolder(self.path / "trials" / trial_id).read_record()
            ours, theirs = (config.get("base", config) for config in (trials[0].config, record.config))
            for key, what in (("data", "run on other data"), ("evaluation", "scored in another way")):
                if ours.get(key) != theirs.get(key):
                    raise OutputError(
                        f"{self.path} holds finished trials that were {what}, first {trial_id}: set [{key}] as it was, "
                        "or choose another --out"
                    )
        if left and len(left) == len(finished) and held.get("experiment") != self.experiment.name:
            raise OutputError(
                f"{self.path} holds {len(left)} finished trials of the experiment {held.get('experiment')!r}, none of "
                f"which is one of {self.experiment.name!r}: choose another --out"
            )
        replaced = [trial_id for trial_id in held.get("trials", ()) if trial_id not in {*ids, *left}]
        listed = {"experiment": self.experiment.name, "trials": ids, **({"left": left} if left else {})}
        write_json(self.path / "sweep.json", listed)
        return EarlierTrials(left, len(replaced))

    def _read_list(self) -> dict[str, Any]:
        """Return the content of ``sweep.json``, whose trials are checked names of folders."""
        path = self.path / "sweep.json"
        held = read_json(path, error=OutputError)
        if not isinstance(held, dict):
            raise OutputError(f"{path}: is a {type(held).__name__}, must be a table: choose another --out")
        for key in ("trials", "left"):
            names = held.get(key, [])
            if not isinstance(names, list):
                raise OutputError(f"{path}: {key} is a {type(names).__name__}, must be a list: choose another --out")
            for name in names:
                path_name(name, f"{path}: {key}", OutputError)
        return held
