"""Run a sweep: each trial as soon as its base is done, in this process or in several."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from epanns.atomic import write_json
from epanns.data.batches.dataset import PackDataset
from epanns.errors import Interrupted, OutputError
from epanns.feedback import note
from epanns.process import catching_signals
from epanns.safe_text import path_name
from epanns.sweeps.base import GivenNetwork, read_given
from epanns.sweeps.checks import DataFacts, refuse_impossible
from epanns.sweeps.data import prepare_manifest, prepare_packs, replace_unused_data
from epanns.sweeps.experiment import Experiment, Trial
from epanns.sweeps.journal import TrialFolder
from epanns.sweeps.trial import run_trial
from epanns.text_files import read_json
from epanns.training.loop import Log, OnStep, no_log
from epanns.workfolder import Work, WorkFolder

_POLL_SECONDS = 0.1
_STOP_SECONDS = 60

# Trial id, outcome ("done", "skipped" or "failed"), number of trials ended, number of all trials.
OnTrial = Callable[[str, str, int, int], None]


class Sweep:
    """The folder of a sweep."""

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
        if self.experiment.data.class_map:
            request["class_map"] = str(Path(self.experiment.data.class_map).resolve())
        if trial.name:
            request["name"] = trial.name
        if trial.base is not None:
            request |= {"base": trial.base.trial_id, "checkpoint": trial.base.checkpoint}
        else:
            request |= {"checkpoint": trial.checkpoint, "yamnet": trial.yamnet}
        write_json(folder.path / "config.json", request)
        (folder.path / "error.json").unlink(missing_ok=True)  # of an earlier attempt
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


@dataclass(frozen=True)
class SweepSummary:
    """Trial ids by outcome.

    Attributes:
        done: Run by this call.
        skipped: Done before.
        failed: Those with an ``error.json``, or whose base has one.
        left: Done before and no longer in the experiment; they stay.
        replaced: Number of trials without a result that are no longer in the experiment.
    """

    done: tuple[str, ...]
    skipped: tuple[str, ...]
    failed: tuple[str, ...]
    left: tuple[str, ...] = ()
    replaced: int = 0


def run_experiment(
    experiment: Experiment,
    out: Path,
    *,
    jobs: int = 1,
    on_trial: OnTrial | None = None,
    on_step: OnStep | None = None,
    log: Log = no_log,
) -> SweepSummary:
    """Run every trial of an experiment that has no result yet.

    A failed trial writes its ``error.json`` and does not stop the others; the next run retries it.

    Args:
        experiment: The experiment.
        out: Folder of the sweep; finished trials in it are kept.
        jobs: Number of trials at the same time, each in a process of its own with its share of the cores; with 1,
            trials run in this process.
        on_trial: Called when a trial ends.
        on_step: Called after each training step (with one job only).
        log: Called with one line about the point where the sweep and, with one job, its training runs resume.

    Raises:
        ConfigError: If a network that is given as a file is missing or another one, or a trial cannot run
            (`checks.refuse_impossible`); nothing has been trained.
        OutputError: If the folder is in use, is no sweep, or holds finished trials that contradict the experiment.
        Interrupted: If SIGINT, SIGTERM or SIGUSR1 was received; the next run resumes the sweep.
    """
    sweep = Sweep(out, experiment)
    outcomes: dict[str, str] = {}
    trials: list[Trial] = []

    def end(trial: Trial, outcome: str) -> None:
        outcomes[trial.trial_id] = outcome
        if on_trial is not None:
            on_trial(trial.trial_id, outcome, len(outcomes), len(trials))

    log = cache(log)  # many trials may log the same text
    with sweep.locked():
        given = read_given(experiment.bases)
        packs, content = _prepare_data(sweep, given, jobs, log)
        trials += experiment.trials(content, lambda path: given[path].digest)
        left, n_replaced = sweep.set_trials(trials)
        finished = [trial for trial in trials if sweep.folder_of(trial).is_done]
        if finished:
            log(f"resume: {len(finished)} of {len(trials)} trials are done")
        for trial in finished:
            sweep.folder_of(trial).rename(trial.name)
            end(trial, "skipped")
        queue = _Queue([trial for trial in trials if trial not in finished], outcomes, end)
        for trial in queue.pending:
            sweep.prepare(trial, packs)
        while jobs == 1 and (ready := queue.next_ready()):
            succeeded = attempt(sweep.folder_of(ready), on_step=on_step, log=log)
            queue.end(ready, "done" if succeeded else "failed")
        if jobs != 1:
            _run_in_processes(sweep, queue, jobs)
    done, skipped, failed = (
        tuple(trial_id for trial_id, found in outcomes.items() if found == outcome)
        for outcome in ("done", "skipped", "failed")
    )
    return SweepSummary(done, skipped, failed, left, n_replaced)


def _prepare_data(
    sweep: Sweep, given: Mapping[str, GivenNetwork], jobs: int, log: Log
) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Make the packs and check every trial; return the packs of each part, and the digest of each part's clips."""
    data, folder = sweep.experiment.data, sweep.path / "data"
    if data.kind != "packs" and not sweep.has_results and replace_unused_data(data, folder):
        note(f"{folder}: was made for other settings of [data] and no trial is finished, so it is made again")
    manifest = prepare_manifest(data, folder)
    if manifest is not None:  # find mistakes before packing, which may take hours
        clips = sum(clip.split in data.train for clip in manifest.clips)
        refuse_impossible(sweep.experiment, given, DataFacts(manifest.labels, clips))
    packs = prepare_packs(data, manifest, folder, jobs=jobs)
    opened = {
        part: PackDataset([Path(path) for path in paths], sample_rate=data.sample_rate, seconds=data.seconds)
        for part, paths in packs.items()
    }
    facts = DataFacts(opened["train"].labels, len(opened["train"]), opened)
    refuse_impossible(sweep.experiment, given, facts, log=log)
    return packs, {part: dataset.content_digest for part, dataset in opened.items()}


class _Queue:
    """The trials without a result, in order; a trial is ready when its base has a result."""

    def __init__(self, pending: list[Trial], outcomes: Mapping[str, str], end: Callable[[Trial, str], None]) -> None:
        self.pending, self._outcomes, self.end = pending, outcomes, end

    def next_ready(self) -> Trial | None:
        """Remove and return the first trial that is ready; trials whose base failed are removed as failed."""
        for trial in list(self.pending):
            base = "done" if trial.base is None else self._outcomes.get(trial.base.trial_id)
            if base is not None:
                self.pending.remove(trial)
                if base != "failed":
                    return trial
                self.end(trial, "failed")
        return None


def attempt(folder: TrialFolder, *, on_step: OnStep | None = None, log: Log = no_log) -> bool:
    """Run a trial and return whether it succeeded; write the error of a failure to ``error.json``."""
    try:
        run_trial(folder, on_step=on_step, log=log)
    except Interrupted:
        raise
    except Exception as error:  # one failed trial must not stop the others; the traceback is kept
        folder.fail(error)
        return False
    return True


def _run_in_processes(sweep: Sweep, queue: _Queue, jobs: int) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))}
    running = dict[subprocess.Popen[bytes], Trial]()
    with catching_signals() as stop:
        try:
            while queue.pending or running:
                while len(running) < jobs and (trial := queue.next_ready()):
                    command = [sys.executable, "-m", "epanns.sweeps.child", str(sweep.folder_of(trial).path)]
                    running[subprocess.Popen(command, env=environment)] = trial
                ended = [process for process in running if process.poll() is not None]
                if stop.signal_number is not None:  # the signal may have ended the processes: they have not failed
                    raise Interrupted(
                        stop.signal_number, f"the sweep in {sweep.path} was stopped; run the same command to resume it"
                    )
                for process in ended:
                    trial = running.pop(process)
                    folder = sweep.folder_of(trial)
                    if not folder.is_done and not (folder.path / "error.json").exists():
                        folder.fail(RuntimeError(f"the trial's process ended with code {process.returncode}"))
                    queue.end(trial, "done" if folder.is_done else "failed")
                time.sleep(_POLL_SECONDS)
        finally:
            for process in running:  # they save their state and end
                process.send_signal(signal.SIGTERM)
            for process in running:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=_STOP_SECONDS)
                process.kill()  # has no effect on a process that has ended
