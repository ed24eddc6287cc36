"""Run trials as tasks of Ray, on this machine or on a cluster that shares the sweep's folder.

The folder is the only memory: Ray runs `run_trial` somewhere, and the outcome is what the trial's files hold. A task
whose node or process is lost is run again by Ray, on another node; its trial resumes from its own state, or is only
read if it had ended.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epanns.errors import ConfigError, Interrupted
from epanns.packages import install_command
from epanns.process import catching_signals
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
        _require_resources(ray, cpus_per_trial, gpus_per_trial)
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


@contextmanager
def ray_cluster(address: str | None) -> Iterator["ModuleType"]:
    """Connect to a cluster, or start one on this machine, for the duration of a block; yield the module ``ray``.

    Raises:
        ConfigError: If Ray is not installed, or the cluster cannot be reached.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise ConfigError(f"--runner ray: Ray is not installed: {install_command('ray')}") from error
    is_ours = not ray.is_initialized()
    if is_ours:
        given = {"include_dashboard": False} if address is None else {"address": address}
        try:
            ray.init(log_to_driver=False, configure_logging=False, **given)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ConfigError(f"--address {address}: {' '.join(str(error).split())[:200]}") from error
    try:
        yield ray
    finally:
        if is_ours:
            ray.shutdown()


def _require_resources(ray: "ModuleType", cpus: float, gpus: float) -> None:
    """Raise `ConfigError` if no node could ever run a trial, which would wait without end."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for option, wanted, name in (("--cpus-per-trial", cpus, "CPU"), ("--gpus-per-trial", gpus, "GPU")):
        most = max((node.get(name, 0.0) for node in nodes), default=0.0)
        if wanted > most:
            raise ConfigError(
                f"{option} {wanted:g}: no node of the cluster has more than {most:g}; give at most as many"
            )


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
