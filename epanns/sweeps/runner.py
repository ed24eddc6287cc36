"""Run a sweep: prepare its data, check its trials, and run those without a result by a launcher."""

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from epanns.sweeps.experiment import Experiment, Trial
from epanns.sweeps.launchers.local import run_here, run_in_processes
from epanns.sweeps.preparation import prepare
from epanns.sweeps.shard import Shard
from epanns.sweeps.sweep_folder import Sweep
from epanns.sweeps.tracking import require_tracker, track
from epanns.sweeps.trial_queue import OnEnd, TrialQueue
from epanns.training.loop import Log, OnStep, no_log

OnTrial = Callable[[str, str, int, int], None]
"""Called with a trial's id, its outcome ("done", "skipped" or "failed"), and the numbers of ended and of all trials."""

Launcher = Callable[[TrialQueue], None]
"""Runs every trial of a queue."""


@dataclass(frozen=True)
class SweepSummary:
    """Trial ids by outcome.

    Attributes:
        done: Run by this call.
        skipped: Done before.
        failed: Those with an ``error.json``, of this or an earlier call, or whose base has one.
        left: Done before and no longer in the experiment; they stay.
        replaced: Number of trials without a result that are no longer in the experiment.
    """

    done: tuple[str, ...]
    skipped: tuple[str, ...]
    failed: tuple[str, ...]
    left: tuple[str, ...] = ()
    replaced: int = 0


def run_experiment(  # noqa: PLR0913 - one keyword for each option
    experiment: Experiment,
    out: Path,
    *,
    jobs: int = 1,
    launcher: Launcher | None = None,
    shard: Shard | None = None,
    retry_failed: bool = False,
    tracker: str | None = None,
    on_trial: OnTrial | None = None,
    on_step: OnStep | None = None,
    log: Log = no_log,
) -> SweepSummary:
    """Run every trial of an experiment that has no result yet.

    A trial that fails writes its ``error.json`` and does not stop the others. It is not run again without
    `retry_failed`.

    Args:
        experiment: The experiment.
        out: Folder of the sweep; finished trials in it are kept.
        jobs: Number of trials at the same time, each in a process with its share of the cores; with 1, trials run in
            this process.
        launcher: Instead of these processes, what runs the trials.
        shard: The part of the trials that is run, together with the bases that they prune; other processes may run
            other parts in the same folder at the same time.
        retry_failed: Whether trials that failed before are run again.
        tracker: Key of `tracking.TRACKERS`, to which each finished trial is sent once.
        on_trial: Called when a trial ends.
        on_step: Called after each training step (of trials in this process only).
        log: Called with one line about the point where the sweep and, with one job, its training runs resume.

    Raises:
        ConfigError: If a network that is given as a file is missing or another one, or a trial cannot run
            (`checks.refuse_impossible`); nothing has been trained.
        OutputError: If the folder is in use, is no sweep, or holds finished trials that contradict the experiment.
        Interrupted: If SIGINT, SIGTERM or SIGUSR1 was received; the next run resumes the sweep.
    """
    require_tracker(tracker)
    sweep = Sweep(out, experiment)
    log = cache(log)  # many trials may log the same text
    if launcher is None:
        launcher = partial(run_here, on_step=on_step, log=log) if jobs == 1 else partial(run_in_processes, jobs=jobs)
    with ExitStack() as held:
        # Shards share the folder: they prepare it in turn, and the lock of each trial keeps the others out.
        held.enter_context(sweep.locked(wait=0.0 if shard is None else math.inf))
        prepared = prepare(sweep, jobs=jobs, log=log)
        left, n_replaced = sweep.set_trials(prepared.trials)
        trials = prepared.trials if shard is None else shard.trials_of(prepared.trials)
        for trial in trials:
            sweep.prepare(trial, prepared.packs[trial.trial_id], retry_failed=retry_failed)
        if shard is not None:
            held.close()
            log(f"shard {shard.index}/{shard.count}: {len(trials)} of {len(prepared.trials)} trials, bases included")
        if n_done := sum(sweep.folder_of(trial).is_done for trial in trials):
            log(f"resume: {n_done} of {len(trials)} trials are done")
        queue = TrialQueue(trials, sweep.folder_of, _on_end(sweep, len(trials), tracker, on_trial))
        launcher(queue)
    done, skipped, failed = (
        tuple(trial_id for trial_id, found in queue.outcomes.items() if found == outcome)
        for outcome in ("done", "skipped", "failed")
    )
    return SweepSummary(done, skipped, failed, left, n_replaced)


def _on_end(sweep: Sweep, n_trials: int, tracker: str | None, on_trial: OnTrial | None) -> OnEnd:
    """Return the function that is called with each trial that has ended."""
    n_ended = 0

    def end(trial: Trial, outcome: str) -> None:
        nonlocal n_ended
        n_ended += 1
        folder = sweep.folder_of(trial)
        if outcome == "skipped":
            folder.rename(trial.name)
        if tracker is not None and folder.is_done:
            track(folder, tracker)
        if on_trial is not None:
            on_trial(trial.trial_id, outcome, n_ended, n_trials)

    return end
