"""``epanns finetune``: go on from a checkpoint, with its classes or new ones."""

from pathlib import Path
from typing import Any

import click

from epanns.cli.options import EXISTING, EpannsCommand, log
from epanns.cli.packs import in_order_of
from epanns.cli.train import open_training_packs, run, training_options
from epanns.errors import ConfigError


@click.command("finetune", cls=EpannsCommand)
@click.argument("checkpoint", metavar="CKPT", type=EXISTING)
@click.option("--freeze-backbone", is_flag=True, help="Train the classifier alone.")
@training_options(iterations=2_000)
def command(checkpoint: Path, freeze_backbone: bool, **options: Any) -> None:
    """Go on training CKPT on the clips of a pack.

    Where the pack's classes are not the checkpoint's, a new classifier takes the place of the old one and all other
    weights stay: transfer learning.
    """
    import torch

    from epanns.models.checkpoint import load
    from epanns.seeding import derive_seed

    if checkpoint.resolve() == options["out"].resolve():
        raise ConfigError(f"--out {options['out']} is the checkpoint itself: choose another --out")
    model = load(checkpoint)
    train = in_order_of(model, open_training_packs(model.spec.front_end.sample_rate, **options))
    labels = train.labels
    if labels.names != model.labels.names:
        log(f"new classifier: the pack has {len(labels)} other classes, {checkpoint} has {len(model.labels)}")
        torch.manual_seed(derive_seed("weights", options["seed"]))
        model.reset_classifier(len(labels), labels)
    run(model, train, freeze_backbone=freeze_backbone, **options)
