"""A sweep on disk: one folder per trial, and files that say what is done. The files are the truth."""

import json
import math
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from epanns.atomic import write_json
from epanns.errors import DataError, OutputError
from epanns.sweeps.experiment import Experiment, Trial
from epanns.sweeps.records import RunRecord
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
        try:
            config: dict[str, Any] = json.loads((self.path / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path}/config.json: cannot be read ({error}); run the sweep again") from error
        return config

    def read_record(self) -> RunRecord:
        """Return the result of a finished trial."""
        return RunRecord.from_dict(json.loads((self.path / "result.json").read_text(encoding="utf-8")))

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
        with WorkFolder(self.path, earlier_locks=["trial.lock"]).locked(wait=math.inf):
            yield


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
        if trial.base is not None:
            asked |= {"base": trial.base.trial_id, "checkpoint": trial.base.checkpoint}
        else:
            asked |= {"checkpoint": trial.checkpoint, "yamnet": trial.yamnet}
        write_json(folder.path / "config.json", asked)
        (folder.path / "error.json").unlink(missing_ok=True)  # of an earlier try; this one speaks for itself
        return folder

    def claim(self, trials: Sequence[Trial]) -> None:
        """Write which trials belong here; a sweep may grow by trials, but not lose or change one.

        Raises:
            OutputError: If the folder holds trials that are not among `trials`.
        """
        claimed, ids = self.path / "sweep.json", [trial.trial_id for trial in trials]
        if claimed.exists():
            held: list[str] = json.loads(claimed.read_text(encoding="utf-8"))["trials"]
            if lost := [trial_id for trial_id in held if trial_id not in ids]:
                raise OutputError(
                    f"{self.path} holds {len(lost)} of {len(held)} trials of another configuration, first {lost[0]}: "
                    "a sweep may gain trials but not change them; choose another --out"
                )
        write_json(claimed, {"experiment": self.experiment.name, "trials": ids})

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Keep other processes out of the folder, and make a folder that is free a sweep's.

        Raises:
            OutputError: If another process works in it, or it holds something else.
        """
        folder = WorkFolder(self.path, "sweep.json", _WORK, earlier_locks=[_EARLIER_LOCK])
        is_earlier = (self.path / _EARLIER_LOCK).exists()  # begun by a version that wrote sweep.json after the data
        if not is_earlier:
            folder.require_claimable()
        with folder.locked():
            if not folder.is_begun:
                if not is_earlier:
                    folder.require_claimable()
                write_json(folder.first_file, {"experiment": self.experiment.name, "trials": []})
            yield
