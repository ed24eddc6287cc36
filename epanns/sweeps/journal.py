"""A sweep on disk: one folder per trial, and files that say what is done. The files are the truth."""

import math
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from epanns.atomic import write_json
from epanns.errors import DataError, OutputError
from epanns.records import RunRecord, failure_in, read_record
from epanns.safe_text import path_name, printable
from epanns.sweeps.experiment import Experiment, Trial
from epanns.sweeps.naming import result_in_words, trial_in_words
from epanns.text_files import read_json
from epanns.workfolder import Work, WorkFolder

_WORK = Work("is no sweep", noun="a sweep")
_EARLIER_LOCK = "sweep.lock"


@dataclass(frozen=True)
class TrialFolder:
    """``trials/<id>``: ``config.json`` before, ``result.json`` after, ``error.json`` where it failed.

    ``result.json`` appears by an atomic rename and means that the trial is done.
    """

    path: Path

    @property
    def is_done(self) -> bool:
        """Whether the trial has its result."""
        return (self.path / "result.json").exists()

    def read_config(self) -> dict[str, Any]:
        """Return what the trial is asked to do: ``config``, and where its packs, base and other networks lie."""
        path = self.path / "config.json"
        asked: dict[str, Any] = read_json(path, error=DataError, remedy="run the sweep again")
        return asked

    def read_record(self) -> RunRecord:
        """Return the result of a finished trial."""
        return read_record(self.path / "result.json")

    def rename(self, name: str) -> None:
        """Give a finished trial another label."""
        record = self.read_record()
        if record.name != name:
            write_json(self.path / "result.json", replace(record, name=name).to_dict())

    def in_words(self, outcome: str) -> str:
        """Return one line about the trial after it ended.

        Args:
            outcome: ``done``, ``skipped`` (it was done before) or ``failed``.
        """
        try:
            name = f"trial {self.path.name} ({trial_in_words(self.read_config())})"
        except (DataError, LookupError, TypeError):
            name = f"trial {self.path.name}"
        if outcome == "failed":
            return f"{name} failed: {printable(failure_in(self.path))}"
        words = {"done": "done", "skipped": "done before"}.get(outcome, outcome)
        try:
            return f"{name} {words}: {result_in_words(self.read_record())}"
        except DataError as error:
            return f"{name} {words}, but {error}"

    def succeed(self, record: RunRecord) -> None:
        """Write the result; any earlier failure is forgotten."""
        write_json(self.path / "result.json", record.to_dict())
        (self.path / "error.json").unlink(missing_ok=True)

    def fail(self, error: Exception) -> None:
        """Note a failure; the trial is tried again when the sweep is run again."""
        trace = "".join(traceback.format_exception(error))
        write_json(self.path / "error.json", {"kind": type(error).__name__, "message": str(error), "traceback": trace})

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Wait until no other process works on the trial, and keep others out."""
        with WorkFolder(self.path).locked(wait=math.inf):
            yield


@dataclass(frozen=True)
class Claim:
    """What became of the trials that a folder was for before.

    Attributes:
        left: Finished trials that are no longer in the experiment, by id.
        replaced: Number of trials without a result that are no longer in the experiment.
    """

    left: tuple[str, ...] = ()
    replaced: int = 0


class Sweep:
    """The folder of a sweep.

    Attributes:
        path: The folder.
        experiment: What is run in it.
    """

    def __init__(self, path: Path, experiment: Experiment) -> None:
        self.path = path
        self.experiment = experiment

    def folder_of(self, trial: Trial) -> TrialFolder:
        """Return a trial's folder."""
        return TrialFolder(self.path / "trials" / trial.trial_id)

    def prepare(self, trial: Trial, packs: Mapping[str, list[str]]) -> TrialFolder:
        """Write what a trial needs to run in a process of its own."""
        folder = self.folder_of(trial)
        asked = {"experiment": self.experiment.name, "config": dict(trial.config), "packs": dict(packs)}
        if trial.name:
            asked["name"] = trial.name
        if trial.base is not None:
            asked |= {"base": trial.base.trial_id, "checkpoint": trial.base.checkpoint}
        else:
            asked |= {"checkpoint": trial.checkpoint, "yamnet": trial.yamnet}
        write_json(folder.path / "config.json", asked)
        (folder.path / "error.json").unlink(missing_ok=True)  # of an earlier try; this one speaks for itself
        return folder

    @property
    def has_results(self) -> bool:
        """Whether any trial in the folder is finished."""
        return any(self.path.glob("trials/*/result.json"))

    def claim(self, trials: Sequence[Trial]) -> "Claim":
        """Write which trials the folder is for.

        Trials without a result may be replaced by others, so that an experiment can be corrected. Finished trials that
        are no longer in the experiment stay where they are, as long as they were run on the same data and scored alike.

        Args:
            trials: All trials of the experiment.

        Raises:
            OutputError: If finished trials were run on other data or scored in another way, or belong to another
                experiment, none of whose finished trials is in this one.
        """
        claimed, ids = self.path / "sweep.json", [trial.trial_id for trial in trials]
        held = _claimed_in(claimed) if claimed.exists() else {}
        earlier = [*held.get("trials", ()), *held.get("left", ())]
        finished = [trial_id for trial_id in earlier if TrialFolder(self.path / "trials" / trial_id).is_done]
        left = tuple(trial_id for trial_id in dict.fromkeys(finished) if trial_id not in ids)
        for trial_id in left:
            self._refuse_contradiction(trial_id, trials[0])
        if left and len(left) == len(finished) and held.get("experiment") != self.experiment.name:
            raise OutputError(
                f"{self.path} holds {len(left)} finished trials of the experiment {held.get('experiment')!r}, none of "
                f"which is one of {self.experiment.name!r}: choose another --out"
            )
        replaced = [trial_id for trial_id in held.get("trials", ()) if trial_id not in {*ids, *left}]
        write_json(claimed, {"experiment": self.experiment.name, "trials": ids, **({"left": left} if left else {})})
        return Claim(left, len(replaced))

    def _refuse_contradiction(self, trial_id: str, trial: Trial) -> None:
        """Refuse a folder whose finished trial contradicts a trial of the experiment."""
        record = TrialFolder(self.path / "trials" / trial_id).read_record()
        ours, theirs = (config.get("base", config) for config in (trial.config, record.config))
        for key, what in (("data", "run on other data"), ("evaluation", "scored in another way")):
            if ours.get(key) != theirs.get(key):
                raise OutputError(
                    f"{self.path} holds finished trials that were {what}, first {trial_id}: set [{key}] as it was, or "
                    "choose another --out"
                )

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Keep other processes out of the folder, and make a folder that is free a sweep's.

        Raises:
            OutputError: If another process works in it, or it holds something else.
        """
        folder = WorkFolder(self.path, "sweep.json", _WORK)
        is_earlier = (self.path / _EARLIER_LOCK).exists()  # begun by a version that wrote sweep.json after the data
        if not is_earlier:
            folder.require_usable()
        with folder.locked():
            if not folder.is_begun:
                if not is_earlier:
                    folder.require_usable()
                write_json(folder.first_file, {"experiment": self.experiment.name, "trials": []})
            yield


def _claimed_in(path: Path) -> dict[str, Any]:
    """Return what a ``sweep.json`` holds; its trials are names of folders."""
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
