"""Run a sweep: each trial as soon as its base is there, in this process or in several."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from epanns.data.dataset import PackDataset
from epanns.errors import Interrupted
from epanns.feedback import note
from epanns.signals import catching_signals
from epanns.sweeps.checks import DataFacts, refuse_impossible
from epanns.sweeps.experiment import Experiment, Trial
from epanns.sweeps.given import GivenNetwork, read_given
from epanns.sweeps.journal import Sweep, TrialFolder
from epanns.sweeps.packs import prepare_manifest, prepare_packs, replace_unused_data
from epanns.sweeps.trial import run_trial
from epanns.training.run_options import Log, OnStep, no_log

_POLL_SECONDS = 0.1

# Trial id, outcome ("done", "skipped" or "failed"), trials ended, trials in all.
OnTrial = Callable[[str, str, int, int], None]


@dataclass(frozen=True)
class SweepSummary:
    """How a sweep ended: trial ids by outcome.

    Attributes:
        done: Run now.
        skipped: Found finished.
        failed: Have an ``error.json``, or wait for a base that has.
        left: Finished before and no longer in the experiment; they stay.
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

    A trial that fails is noted in its ``error.json`` and does not stop the others; running again tries it again.

    Args:
        experiment: What to run.
        out: Folder of the sweep; trials finished in it before are kept.
        jobs: Trials at the same time, each in a process of its own with its share of the cores; with 1, trials run in
            this process.
        on_trial: Called when a trial ends.
        on_step: Called after each training step (with one job only).
        log: Called with one line about where the sweep and, with one job only, its training runs resume.

    Raises:
        ConfigError: If a network that is given is not there or is not what it is given as, or a trial could not do what
            the experiment requests (`checks.refuse_impossible`); nothing has been trained then.
        OutputError: If the folder is in use, is no sweep, or holds finished trials that contradict the experiment.
        Interrupted: If SIGINT, SIGTERM or SIGUSR1 came; running again resumes the sweep.
    """
    sweep = Sweep(out, experiment)
    outcomes: dict[str, str] = {}
    trials: list[Trial] = []

    def note_end(trial: Trial, outcome: str) -> None:
        outcomes[trial.trial_id] = outcome
        if on_trial is not None:
            on_trial(trial.trial_id, outcome, len(outcomes), len(trials))

    log = _once(log)
    with sweep.owned():
        given = read_given(experiment.bases)
        packs, content = _prepared(sweep, given, jobs, log)
        trials += experiment.trials(content, lambda path: given[path].digest)
        claim = sweep.claim(trials)
        finished = [trial for trial in trials if sweep.folder_of(trial).is_done]
        if finished:
            log(f"resume: {len(finished)} of {len(trials)} trials are done")
        for trial in finished:
            sweep.folder_of(trial).rename(trial.name)
            note_end(trial, "skipped")
        waiting = [trial for trial in trials if trial not in finished]
        for trial in waiting:
            sweep.prepare(trial, packs)
        queue = _Queue(waiting, outcomes, note_end)
        if jobs == 1:
            while (ready := queue.next_ready()) is not None:
                ended_well = attempt(sweep.folder_of(ready), on_step=on_step, log=log)
                note_end(ready, "done" if ended_well else "failed")
        else:
            _run_in_processes(sweep, queue, note_end, jobs)
    done, skipped, failed = (
        tuple(name for name, found in outcomes.items() if found == outcome) for outcome in _OUTCOMES
    )
    return SweepSummary(done, skipped, failed, claim.left, claim.replaced)


def _prepared(
    sweep: Sweep, given: Mapping[str, GivenNetwork], jobs: int, log: Log
) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Make the packs and check every trial; return the packs of each part, and the digest of each part's clips."""
    data, folder = sweep.experiment.data, sweep.path / "data"
    if data.kind != "packs" and not sweep.has_results and replace_unused_data(data, folder):
        note(f"{folder}: was made for other settings of [data] and no trial is finished, so it is made again")
    manifest = prepare_manifest(data, folder)
    if manifest is not None:
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


def _once(log: Log) -> Log:
    """Return a function that passes each text on once: many trials may have the same to report."""
    told = set[str]()

    def tell_new(text: str) -> None:
        if text not in told:
            told.add(text)
            log(text)

    return tell_new


_OUTCOMES = ("done", "skipped", "failed")


class _Queue:
    """Trials that wait, in their order; one is ready when its base has a result."""

    def __init__(self, waiting: list[Trial], outcomes: Mapping[str, str], note: Callable[[Trial, str], None]) -> None:
        self.waiting, self._outcomes, self._note = waiting, outcomes, note

    def next_ready(self) -> Trial | None:
        """Take the first trial that can run now; those whose base failed are noted as failed on the way."""
        for trial in list(self.waiting):
            base = "done" if trial.base is None else self._outcomes.get(trial.base.trial_id)
            if base is not None:
                self.waiting.remove(trial)
                if base != "failed":
                    return trial
                self._note(trial, "failed")
        return None


def attempt(folder: TrialFolder, *, on_step: OnStep | None = None, log: Log = no_log) -> bool:
    """Run a trial; note its failure in ``error.json`` and return whether it succeeded."""
    try:
        run_trial(folder, on_step=on_step, log=log)
    except Interrupted:
        raise
    except Exception as error:  # a mistake in one trial must not cost the others; the traceback is kept
        folder.fail(error)
        return False
    return True


def _run_in_processes(sweep: Sweep, queue: _Queue, note: Callable[[Trial, str], None], jobs: int) -> None:
    threads = max(1, (os.cpu_count() or 1) // jobs)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    running = dict[subprocess.Popen[bytes], Trial]()
    with catching_signals() as stop:
        try:
            while queue.waiting or running:
                while len(running) < jobs and (trial := queue.next_ready()):
                    command = [sys.executable, "-m", "epanns.sweeps.child", str(sweep.folder_of(trial).path)]
                    running[subprocess.Popen(command, env=environment)] = trial
                ended = [process for process in running if process.poll() is not None]
                if stop.signal_number is not None:  # which may have ended them: they have not failed
                    raise Interrupted(
                        stop.signal_number, f"the sweep in {sweep.path} was stopped; run the same command to go on"
                    )
                for process in ended:
                    trial = running.pop(process)
                    folder = sweep.folder_of(trial)
                    if not folder.is_done and not (folder.path / "error.json").exists():
                        folder.fail(RuntimeError(f"the trial's process ended with code {process.returncode}"))
                    note(trial, "done" if folder.is_done else "failed")
                time.sleep(_POLL_SECONDS)
        finally:
            _stop_all(running)


def _stop_all(running: dict[subprocess.Popen[bytes], Trial]) -> None:
    """Let the children save their state and leave."""
    for process in running:
        process.send_signal(signal.SIGTERM)
    for process in running:
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
