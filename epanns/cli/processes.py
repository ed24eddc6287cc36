"""Options that start processes or threads, bounded by the cores of the machine."""

import os

import click

from epanns.cli.options import Decorator, log


def bounded_option(name: str, help_text: str, *, least: int | None) -> Decorator:
    """Add an option that starts processes or threads, bounded by the cores.

    Args:
        name: Such as ``--jobs``.
        help_text: What the number counts; the bound is added.
        least: The smallest number and the default; None where the default is left to the library that computes.
    """
    settings = (
        {"type": int} if least is None else {"type": click.IntRange(least), "default": least, "show_default": True}
    )
    return click.option(name, **settings, callback=at_most_cores, help=f"{help_text}; at most the number of cores.")


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
