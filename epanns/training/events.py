"""The metrics of a run as event files of TensorBoard, where it was asked for."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from epanns.errors import ConfigError
from epanns.packages import install_command, is_installed

FOLDER = "tensorboard"
EVENT_FILES = "events.out.tfevents.*"


def require_tensorboard() -> None:
    """Raise `ConfigError` where the package is missing; nothing is imported."""
    if not is_installed("tensorboard"):
        raise ConfigError(
            f"--tensorboard needs the package tensorboard: {install_command('tensorboard')}; or leave the option out"
        )


@contextmanager
def event_log(run: Path, first_step: int, *, wanted: bool) -> Iterator[Callable[[Mapping[str, float]], None]]:
    """Yield a function that writes a row of metrics, a scalar for each number; it is on the disk when it returns.

    Args:
        run: Folder of the run; the files go to ``tensorboard`` in it.
        first_step: First step of which rows may come. What a killed call wrote of it and of later ones is hidden by
            TensorBoard: those steps are done again.
        wanted: Whether to write at all.
    """
    if not wanted:
        yield lambda row: None
        return
    from torch.utils.tensorboard import SummaryWriter  # it brings protobuf and half a second

    with SummaryWriter(str(run / FOLDER), purge_step=first_step) as writer:

        def add(row: Mapping[str, float]) -> None:
            for name, value in row.items():
                if name != "step" and math.isfinite(value):
                    writer.add_scalar(name, value, int(row["step"]))
            writer.flush()

        yield add
