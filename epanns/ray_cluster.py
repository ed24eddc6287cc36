"""A connection to Ray: the cluster of an address, or one that is started on this machine."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from epanns.errors import ConfigError
from epanns.packages import install_command

if TYPE_CHECKING:
    from types import ModuleType

_CONNECT_SECONDS = 10


@contextmanager
def ray_cluster(address: str | None) -> Iterator["ModuleType"]:
    """Connect to a cluster for the duration of a block, and yield the module ``ray``.

    Args:
        address: Address of a cluster, or ``auto`` for the one of this machine; None starts one. A program that has
            connected before keeps its connection.

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
        place = {"address": "local", "include_dashboard": False} if address is None else {"address": address}
        try:
            _require_listener(address or "")
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **place)
        except (OSError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(
                f"--address {address}: no cluster of Ray answers ({reason}): start one with `ray start --head`, or "
                "leave --address out"
            ) from error
    try:
        yield ray
    finally:
        if is_ours:
            ray.shutdown()


def _require_listener(address: str) -> None:
    """Raise `OSError` if nothing listens at ``HOST:PORT``, where Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if port.isdecimal() and "://" not in address:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()


def require_resources(ray: "ModuleType", *, cpus: float, gpus: float = 0.0) -> None:
    """Raise `ConfigError` if no node has the cores or GPUs of a task, which would wait without end."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for option, wanted, name in (("--cpus-per-trial", cpus, "CPU"), ("--gpus-per-trial", gpus, "GPU")):
        most = max((node.get(name, 0.0) for node in nodes), default=0.0)
        if wanted > most:
            raise ConfigError(
                f"{option} {wanted:g}: no node of the cluster has more than {most:g}; give at most as many"
            )
