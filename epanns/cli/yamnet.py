"""The options of networks that are built on YAMNet's body."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from epanns.cli.options import EXISTING, Decorator, log
from epanns.errors import ConfigError
from epanns.training.config import TrainingConfig
from epanns.training.frozen import frozen_in

if TYPE_CHECKING:
    from epanns.labels import LabelSet
    from epanns.models.tagger import Tagger

yamnet_option = click.option(
    "--yamnet",
    type=EXISTING,
    help="For LEAN's networks: a YAMNet whose body to build on, frozen: a checkpoint, yamnet.h5 or the folded .npz.",
)


def freeze_option(by_default: str) -> Decorator:
    """Return ``--freeze-yamnet``, of a command that without it does what these words say."""
    return click.option(
        "--freeze-yamnet/--no-freeze-yamnet",
        default=None,
        help=f"Leave the body of YAMNet in LEAN's networks as it is.  [default: {by_default}]",
    )


def built_on(name: str, checkpoint: Path, labels: "LabelSet") -> "Tagger":
    """Return a network of LEAN's rows with the body of a checkpoint."""
    from epanns.models.checkpoint import load
    from epanns.models.on_yamnet import build_on_yamnet

    yamnet = load(checkpoint)
    for assumption in yamnet.provenance.assumed:
        log(f"{checkpoint}: {assumption}")
    return build_on_yamnet(name, yamnet, labels=labels)


def frozen_and_told(
    config: TrainingConfig, asked: bool | None, *, by_default: bool, remedy: str = "--no-freeze-yamnet"
) -> TrainingConfig:
    """Return what `frozen_in` does, and say where a body stays frozen that nobody asked about."""
    config = frozen_in(config, asked, by_default=by_default)
    if config.freeze_yamnet and asked is None:
        log(f"YAMNet's body stays frozen; {remedy} lets it learn")
    return config


def refuse_contradictions(name: str, checkpoint: Path | None, *, width: float, freeze: bool | None) -> None:
    """Refuse a body where there is none, a width beside those it has, and to freeze one that knows nothing."""
    from epanns.models.on_yamnet import require_body

    if checkpoint is not None or freeze:
        require_body(name)
    if checkpoint is None and freeze:
        raise ConfigError(
            "--freeze-yamnet without --yamnet: a body of random weights would stay as it is; give --yamnet"
        )
    if checkpoint is not None and width != 1.0:
        raise ConfigError(
            f"--width {width:g} with --yamnet {checkpoint}: the body has its own widths, leave --width out"
        )
