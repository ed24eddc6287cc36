"""Run trials on this machine: in this process, or in several that each run one trial after the other."""

import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress

from epanns.errors import ConfigError, Interrupted
from epanns.process import catching_signals
from epanns.sweeps.experiment import Trial
from epanns.sweeps.trial import run_trial
from epanns.sweeps.trial_queue import TrialQueue
from epanns.training.loop import Log, OnStep, no_log

_COMMAND = (sys.executable, "-m", "epanns.sweeps.launchers.worker")
_POLL_SECONDS = 0.1  # between two looks at the signals
_STOP_SECONDS = 60


def run_here(queue: TrialQueue, *, on_step: OnStep | None = None, log: Log = no_log) -> None:
    """Run every trial of a queue in this process; the other arguments are those of `run_trial`."""
    while trial := queue.next_ready():
        run_trial(queue.folder_of(trial), on_step=on_step, log=log)
        queue.end_by_files(trial)


def run_in_processes(queue: TrialQueue, *, jobs: int, gpus_per_trial: float = 0.0) -> None:
    """Run every trial of a queue in `jobs` processes, each with its share of the cores and GPUs.

    A trial whose process dies has failed, and another process takes its place.

    Raises:
        ConfigError: If a trial needs more GPUs than this machine has.
        Interrupted: After SIGINT, SIGTERM or SIGUSR1; the trials that run save their state.
    """
    devices = visible_devices(os.environ) if gpus_per_trial else []
    workers = [_Worker(number, jobs, devices, gpus_per_trial) for number in range(jobs)]
    with catching_signals() as stop, selectors.DefaultSelector() as selector:
        try:
            while queue.pending or any(worker.trial for worker in workers):
                for worker in workers:
                    if worker.trial is None and (trial := queue.next_ready()):
                        worker.start(trial, queue, selector)
                answered = [key.data for key, _ in selector.select(_POLL_SECONDS)]
                if stop.signal_number is not None:  # the signal may have ended the processes: they have not failed
                    raise Interrupted(stop.signal_number, "the sweep was stopped; run the same command to resume it")
                for worker in answered:
                    worker.end(queue, selector)
        finally:
            for worker in workers:
                worker.stop()
            for worker in workers:
                worker.wait()


def gpus_of(job: int, devices: Sequence[str], per_trial: float) -> tuple[str, ...]:
    """Return the GPUs of one of the processes, which are assigned in turn.

    Args:
        job: Number of the process, from 0.
        devices: Names of the GPUs, as in ``CUDA_VISIBLE_DEVICES``.
        per_trial: Number of GPUs of a trial; below 1, several processes share one.

    Raises:
        ConfigError: If there are fewer GPUs than `per_trial`.
    """
    count = max(1, round(per_trial))
    if count > len(devices):
        raise ConfigError(f"--gpus-per-trial {per_trial:g}: this machine has {len(devices)} GPUs; give at most as many")
    return tuple(devices[(job * count + place) % len(devices)] for place in range(count))


def visible_devices(environment: Mapping[str, str]) -> list[str]:
    """Return the names of the GPUs that this process may use, as in ``CUDA_VISIBLE_DEVICES``."""
    import torch

    if (given := environment.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in given.split(",") if name.strip()]
    return [str(number) for number in range(torch.cuda.device_count())]


class _Worker:
    """A process that runs trials, started when it gets its first trial.

    Attributes:
        trial: The trial that it runs, or None.
    """

    def __init__(self, number: int, jobs: int, devices: Sequence[str], gpus: float) -> None:
        self.trial: Trial | None = None
        self._process: subprocess.Popen[str] | None = None
        self._command = [*_COMMAND, f"{gpus:g}"]
        self._environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))}
        if gpus:
            self._environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus_of(number, devices, gpus))

    def start(self, trial: Trial, queue: TrialQueue, selector: selectors.BaseSelector) -> None:
        """Run a trial; its end makes the selector return this worker."""
        if self._process is None:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            assert self._process.stdout is not None
            selector.register(self._process.stdout, selectors.EVENT_READ, self)
        assert self._process.stdin is not None
        self.trial = trial
        with suppress(BrokenPipeError):  # it has died, which the selector reports
            self._process.stdin.write(json.dumps(str(queue.folder_of(trial).path)) + "\n")
            self._process.stdin.flush()

    def end(self, queue: TrialQueue, selector: selectors.BaseSelector) -> None:
        """Add the outcome of the trial, after an answer or after the death of the process."""
        process, trial = self._process, self.trial
        assert process is not None and process.stdout is not None
        is_alive = bool(process.stdout.readline())
        if not is_alive:
            selector.unregister(process.stdout)
            code, self._process = _end_of(process), None
        self.trial = None
        if trial is not None:
            folder = queue.folder_of(trial)
            if not is_alive and not folder.is_done and not folder.has_failed:
                folder.fail(RuntimeError(f"the trial's process ended with code {code}"))
            queue.end_by_files(trial)

    def stop(self) -> None:
        """Make the process end: it saves the state of its trial."""
        if self._process is not None:
            assert self._process.stdin is not None
            with suppress(BrokenPipeError):
                self._process.stdin.close()
            if self.trial is not None:
                self._process.send_signal(signal.SIGTERM)

    def wait(self) -> None:
        """Wait until the process has ended, and kill it if that takes too long."""
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=_STOP_SECONDS)
            self._process.kill()  # has no effect on a process that has ended
            _end_of(self._process)


def _end_of(process: subprocess.Popen[str]) -> int:
    """Close the pipes of a process that has ended or ends, and return its exit code."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):
                pipe.close()
    return process.wait()
