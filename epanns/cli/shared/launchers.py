"""The options that choose where the trials of a sweep are run, and the launcher that they describe."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from epanns.errors import ConfigError

if TYPE_CHECKING:
    from epanns.sweeps.runner import Launcher

_OPTIONS = (
    click.option(
        "--runner",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="Run trials in processes of this machine, or on a cluster of Ray.",
    ),
    click.option("--address", help="Address of the cluster of Ray, or auto.  [default: a cluster of this machine]"),
    click.option(
        "--cpus-per-trial",
        type=click.FloatRange(0, min_open=True),
        default=1.0,
        show_default=True,
        help="With --runner ray, number of cores of a trial.",
    ),
    click.option(
        "--gpus-per-trial",
        type=click.FloatRange(0),
        default=0.0,
        show_default=True,
        help="Number of GPUs of a trial: 0 for the CPU, a fraction to share a GPU, several to train on all of them.",
    ),
    click.option(
        "--retries",
        type=click.IntRange(0),
        default=3,
        show_default=True,
        help="With --runner ray, number of times that a trial is run again whose node is lost.",
    ),
)


def launcher_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options, whose values the command passes to `launcher_of`."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def launcher_of(
    jobs: int, *, runner: str, address: str | None, cpus_per_trial: float, gpus_per_trial: float, retries: int
) -> "Launcher | None":
    """Return the launcher that the options describe; None for that of `run_experiment`.

    Raises:
        ConfigError: If options do not go together.
    """
    from epanns.sweeps.launchers.local import run_in_processes
    from epanns.sweeps.launchers.ray_tasks import run_with_ray

    if 1 < gpus_per_trial != round(gpus_per_trial):
        raise ConfigError(f"--gpus-per-trial {gpus_per_trial:g}: must be at most 1, or a whole number")
    if runner == "ray":
        return partial(
            run_with_ray,
            address=address,
            cpus_per_trial=cpus_per_trial,
            gpus_per_trial=gpus_per_trial,
            retries=retries,
        )
    if address is not None:
        raise ConfigError(f"--address {address}: is the address of a cluster of Ray; give --runner ray too")
    return partial(run_in_processes, jobs=jobs, gpus_per_trial=gpus_per_trial) if gpus_per_trial else None
