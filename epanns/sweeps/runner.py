"""Run a sweep: each trial as soon as its base is there, in this process or in several."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from epanns.data.dataset import PackDataset
from epanns.errors import ConfigError, Interrupted
from epanns.models.checkpoint import load
from epanns.models.yamnet import Yamnet
from epanns.models.zoo import spec_of
from epanns.signals import noticing_signals
from epanns.sweeps.experiment import Experiment, Trial
from epanns.sweeps.journal import Sweep, TrialFolder
from epanns.sweeps.packs import prepare_packs
from epanns.sweeps.trial import refuse_too_many, run_trial
from epanns.training.run_options import OnStep, Tell, say_nothing

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
    """

    done: tuple[str, ...]
    skipped: tuple[str, ...]
    failed: tuple[str, ...]


def run_experiment(
    experiment: Experiment,
    out: Path,
    *,
    jobs: int = 1,
    on_trial: OnTrial | None = None,
    on_step: OnStep | None = None,
    tell: Tell = say_nothing,
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
        tell: Called with one line about where the sweep and, with one job only, its training runs resume.

    Raises:
        ConfigError: If a network that is given is not there, is not what it is given as, or hears another sample rate,
            or more clips are to calibrate than there are.
        OutputError: If the folder is in use or is no sweep.
        Interrupted: If SIGINT, SIGTERM or SIGUSR1 came; running again goes on.
    """
    sweep = Sweep(out, experiment)
    outcomes: dict[str, str] = {}
    trials: list[Trial] = []

    def note(trial: Trial, outcome: str) -> None:
        outcomes[trial.trial_id] = outcome
        if on_trial is not None:
            on_trial(trial.trial_id, outcome, len(outcomes), len(trials))

    with sweep.owned():
        _refuse_other_rates(experiment)
        weights = _weights_of(experiment)
        packs = prepare_packs(experiment.data, out / "data", jobs=jobs)
        open_packs = partial(PackDataset, sample_rate=experiment.data.sample_rate, seconds=experiment.data.seconds)
        opened = {part: open_packs([Path(path) for path in paths]) for part, paths in packs.items()}
        content = {part: dataset.content_digest for part, dataset in opened.items()}
        trials += experiment.trials(content, weights.__getitem__)
        for trial in trials:
            refuse_too_many(trial.config.get("calibration_clips", 0), opened["train"])
        sweep.claim(trials)
        done = [trial for trial in trials if sweep.folder_of(trial).is_done]
        _resume(done, len(trials), note, tell)
        waiting = [trial for trial in trials if trial not in done]
        for trial in waiting:
            sweep.prepare(trial, packs)
        queue = _Queue(waiting, outcomes, note)
        if jobs == 1:
            while (ready := queue.next_ready()) is not None:
                note(ready, "done" if attempt(sweep.folder_of(ready), on_step=on_step, tell=tell) else "failed")
        else:
            _run_in_processes(sweep, queue, note, jobs)
    return SweepSummary(*(tuple(name for name, found in outcomes.items() if found == outcome) for outcome in _OUTCOMES))


def _resume(done: list[Trial], n_trials: int, note: Callable[[Trial, str], None], tell: Tell) -> None:
    """Report the trials that were finished before."""
    if done:
        tell(f"resume: {len(done)} of {n_trials} trials are done")
    for trial in done:
        note(trial, "skipped")


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


def attempt(folder: TrialFolder, *, on_step: OnStep | None = None, tell: Tell = say_nothing) -> bool:
    """Run a trial; note its failure in ``error.json`` and return whether it succeeded."""
    try:
        run_trial(folder, on_step=on_step, tell=tell)
    except Interrupted:
        raise
    except Exception as error:  # a mistake in one trial must not cost the others; the traceback is kept
        folder.fail(error)
        return False
    return True


def _refuse_other_rates(experiment: Experiment) -> None:
    """Raise `ConfigError` if a network of the zoo hears another sample rate than the data have."""
    for number, base in enumerate(experiment.bases, start=1):
        asked, rate = experiment.data.sample_rate, spec_of(base.model).front_end.sample_rate if base.model else None
        if rate is not None and rate != asked:
            raise ConfigError(f"[base {number}] {base.model} hears {rate} Hz, [data] asks for sample_rate={asked}")


def _weights_of(experiment: Experiment) -> dict[str, str]:
    """Return the sha256 of the weights of every network that is given, by its path.

    Raises:
        ConfigError: If there is none, or a YAMNet is asked for and it is another network.
    """
    found = {}
    for number, base in enumerate(experiment.bases, start=1):
        for name, path in (("checkpoint", base.checkpoint), ("yamnet", base.yamnet)):
            if path and not Path(path).exists():
                raise ConfigError(f"[base {number}] {name}={path!r}: no such file or folder, seen from {Path.cwd()}")
            if path and path not in found:
                network = load(path)
                if name == "yamnet" and not isinstance(network, Yamnet):
                    raise ConfigError(f"[base {number}] yamnet={path!r}: holds a {network.spec.name}, not a YAMNet")
                found[path] = str(network.provenance["sha256"])
    return found


def _run_in_processes(sweep: Sweep, queue: _Queue, note: Callable[[Trial, str], None], jobs: int) -> None:
    threads = max(1, (os.cpu_count() or 1) // jobs)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    running = dict[subprocess.Popen[bytes], Trial]()
    with noticing_signals() as stop:
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
