"""The folder of a sweep: its lock, the list of its trials, and the folder of each trial."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from epanns.atomic import write_json
from epanns.errors import OutputError
from epanns.safe_text import path_name
from epanns.sweeps.experiment import Experiment, Trial
from epanns.sweeps.journal import TrialFolder
from epanns.text_files import read_json
from epanns.workfolder import Work, WorkFolder

_OF_A_FOLD = ("fold", "train", "val", "test", "content")  # keys of a trial's data that differ between folds


class Sweep:
    """The folder of a sweep."""

    def __init__(self, path: Path, experiment: Experiment) -> None:
        self.path = path
        self.experiment = experiment

    @contextmanager
    def locked(self, *, wait: float = 0.0) -> Iterator[None]:
        """Keep other processes out of the folder for the duration of a block; a free folder becomes a sweep's.

        `wait` is the longest wait for another process, in seconds.

        Raises:
            OutputError: If another process works in the folder, or it holds something else.
        """
        folder = WorkFolder(self.path, "sweep.json", Work("is no sweep", noun="a sweep"))
        folder.require_usable()
        with folder.locked(wait=wait):
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

    def prepare(self, trial: Trial, packs: Mapping[str, list[str]], *, retry_failed: bool = False) -> TrialFolder:
        """Write ``config.json``, with which a trial can run in a process of its own.

        With `retry_failed`, the error of an earlier attempt is removed, so that the trial is run again.
        """
        folder = self.folder_of(trial)
        request: dict[str, Any] = {
            "experiment": self.experiment.name,
            "config": dict(trial.config),
            "packs": dict(packs),
        }
        if self.experiment.data.class_map:
            request["class_map"] = str(Path(self.experiment.data.class_map).resolve())
        if self.experiment.evaluation.keep_scores:
            request["keep_scores"] = True
        if trial.name:
            request["name"] = trial.name
        if trial.base is not None:
            request |= {"base": trial.base.trial_id, "checkpoint": trial.base.checkpoint}
        else:
            request |= {"checkpoint": trial.checkpoint, "yamnet": trial.yamnet}
        folder.write_config(request)
        if retry_failed:
            (folder.path / "error.json").unlink(missing_ok=True)
        return folder

    def set_trials(self, trials: Sequence[Trial]) -> tuple[tuple[str, ...], int]:
        """Write all trials to ``sweep.json``; return the finished trials that it lost and the number of others.

        Trials without a result may be replaced, so that an experiment can be corrected. Finished trials that are no
        longer in the experiment stay, if they were run on the same data and scored alike.

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
                if _without_fold(ours.get(key)) != _without_fold(theirs.get(key)):
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
        return left, len(replaced)

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


def _without_fold(settings: Any) -> Any:
    """Return a table of a trial's configuration without the fold of its data; folds of one data set are alike."""
    if isinstance(settings, Mapping) and "fold" in settings:
        return {key: value for key, value in settings.items() if key not in _OF_A_FOLD}
    return settings
