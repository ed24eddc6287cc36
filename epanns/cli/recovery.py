"""What commands that recover a pruned network share: the options of the recoveries, the run over a pack, the report."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from epanns.cli.options import progress_bar
from epanns.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from epanns.data.dataset import PackDataset
    from epanns.models.tagger import Tagger
    from epanns.pruning.plan import PruningPlan

_CALIBRATION_BATCH = 16


def recovery_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add ``--fit-to`` and ``--ridge`` of ``--recover ls``; they come as None where they are not given."""
    command = click.option(
        "--ridge",
        type=click.FloatRange(min=0, min_open=True),
        help="How strongly ls holds weights to the plain ones.  [default: 0.001]",
    )(command)
    return click.option(
        "--fit-to",
        type=click.Choice(["dense", "current"]),
        help="What ls reproduces: the unpruned network's outputs (dense), or those of the repaired one if the channels "
        "that a layer reads were whole (current).  [default: dense]",
    )(command)


def refuse_idle_options(method: str, options: Mapping[str, Any]) -> None:
    """Refuse options that the recovery has no use for."""
    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]
    if given and "ls" not in method:
        raise ConfigError(f"{' and '.join(given)}: only for --recover ls; --recover {method} has no use for it")


def recover_on(
    dataset: "PackDataset",
    method: str,
    settings: Mapping[str, Any],
    pruned: "Tagger",
    dense: "Tagger",
    plan: "PruningPlan",
) -> dict[str, Any] | None:
    """Recover a network in place on every clip of a pack; `settings` are those of `RecoverySettings`."""
    from epanns.data.loader import make_loader
    from epanns.data.sampler import sequential_batches
    from epanns.pruning.recovery import RecoverySettings, recover

    order = sequential_batches(len(dataset), _CALIBRATION_BATCH)

    def waveforms() -> "Iterator[Tensor]":
        batches = progress_bar(make_loader(dataset, order), description="calibrate", total=len(order), unit="batch")
        return (batch.float_waveform() for batch in batches)

    return recover(method, pruned, dense, plan, waveforms, RecoverySettings.from_dict(settings))


def recovery_lines(recovery: Mapping[str, Any] | None) -> list[str]:
    """Return a line for each refitted reader."""
    errors = (recovery or {}).get("errors", {})
    return [
        f"{reader}: error {error['plain']:.1%} plain, {error['refit']:.1%} refitted"
        f"{'' if error['refit'] < error['plain'] else ': plain weights kept'}"
        for reader, error in errors.items()
    ]
