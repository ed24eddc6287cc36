"""Run trials as tasks of Ray, on this machine or on a cluster that shares the sweep's folder.

The folder is the only memory: Ray runs `run_trial` somewhere, and the outcome is what the trial's files hold. A task
whose node or process is lost is run again by Ray, on another node; its trial resumes from its own state, or is only
read if it had ended.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from epanns.errors import Interrupted
from epanns.process import catching_signals
from epanns.ray_cluster import ray_cluster, require_resources
from epanns.sweeps.experiment import Trial
from epanns.sweeps.journal import TrialFolder
from epanns.sweeps.trial_queue import TrialQueue

if TYPE_CHECKING:
    from types import ModuleType

_POLL_SECONDS = 0.2  # between two looks at the signals
_STOP_SECONDS = 60


def run_with_ray(
    queue: TrialQueue,
    *,
    address: str | None = None,
    cpus_per_trial: float = 1.0,
    gpus_per_trial: float = 0.0,
    retries: int = 3,
) -> None:
    """Run every trial of a queue on a cluster of Ray.

    Args:
        queue: The trials.
        address: Address of a cluster, ``auto`` for the one of this machine; None starts one for this run.
        cpus_per_trial: Number of cores of a trial.
        gpus_per_trial: Number of GPUs of a trial; a fraction shares a GPU, several GPUs train by ``torchrun``.
        retries: Number of times that a trial is run again whose node or process is lost; -1 for any number.

    Raises:
        ConfigError: If Ray is not installed or cannot be reached, or no node has the cores or GPUs of a trial.
        Interrupted: After SIGINT, SIGTERM or SIGUSR1; the trials that run save their state.
    """
    with ray_cluster(address) as ray:
        require_resources(ray, cpus=cpus_per_trial, gpus=gpus_per_trial)
        task = ray.remote(_run).options(
            num_cpus=cpus_per_trial, num_gpus=gpus_per_trial, max_retries=retries, retry_exceptions=False
        )
        running: dict[Any, Trial] = {}
        with catching_signals() as stop:
            while queue.pending or running:
                while trial := queue.next_ready():
                    folder = str(queue.folder_of(trial).path.resolve())
                    running[task.remote(folder, cpus_per_trial, gpus_per_trial)] = trial
                ended = ray.wait([*running], timeout=_POLL_SECONDS)[0] if running else []
                if stop.signal_number is not None:
                    for reference in running:  # raises KeyboardInterrupt in a task, which saves its state
                        ray.cancel(reference)
                    ray.wait([*running], num_returns=len(running), timeout=_STOP_SECONDS)
                    raise Interrupted(stop.signal_number, "the sweep was stopped; run the same command to resume it")
                for reference in ended:
                    _end(ray, reference, running.pop(reference), queue)


def _run(folder: str, cpus: float, gpus: float) -> None:
    """Run a trial in a process of Ray."""
    import torch

    from epanns.process import keep_freed_memory
    from epanns.sweeps.launchers.several_gpus import run_trial_on

    keep_freed_memory()
    torch.set_num_threads(max(1, int(cpus)))
    run_trial_on(TrialFolder(Path(folder)), gpus)


def _end(ray: "ModuleType", reference: Any, trial: Trial, queue: TrialQueue) -> None:
    """Add the outcome of a task that has ended; a trial that left none has failed."""
    folder = queue.folder_of(trial)
    try:
        ray.get(reference)
    except ray.exceptions.RayError as error:
        if not folder.is_done and not folder.has_failed:
            folder.fail(error)
    queue.end_by_files(trial)
