"""Options that start processes or threads, bounded by the cores of the machine."""

import os

import click

from epanns.cli.options import log


def at_most_cores(context: click.Context, parameter: click.Parameter, value: int | None) -> int | None:
    """Return the number of an option such as ``--jobs``, at most the cores that this process may use.

    A bound that changes the number is reported on stderr in one line. It is the `callback` of every option that
    starts processes or threads.
    """
    cores = len(os.sched_getaffinity(0))
    if value is None or value <= cores:
        return value
    name = max(parameter.opts, key=len)
    log(f"{name} {value}: bounded to {cores}, the number of cores that this process may use")
    return cores
