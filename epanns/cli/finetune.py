"""``epanns finetune``: continue the training of a checkpoint, with its classes or new classes."""

from pathlib import Path
from typing import Any

import click

from epanns.cli.shared.options import CHECKPOINT, in_process_group
from epanns.cli.shared.packs import in_order_of
from epanns.cli.shared.terminal import log
from epanns.cli.shared.training_options import (
    Recipe,
    RecipeCommand,
    freeze_option,
    open_teacher,
    teacher_option,
    with_frozen_body,
    with_teacher_weight,
)
from epanns.cli.train import classes_of, open_training_packs, require_place, run, training_options
from epanns.errors import ConfigError
from epanns.training.config import TrainingConfig

_RECIPE = Recipe(without=("freeze_yamnet",), defaults={"iterations": 2_000})


@click.command("finetune", cls=RecipeCommand, recipe=_RECIPE)
@click.argument("checkpoint", metavar="CKPT", type=CHECKPOINT)
@click.option(
    "--new-classifier", is_flag=True, help="Random weights for all classes at the start, also for classes of CKPT."
)
@freeze_option("yes where CKPT was trained so, else no")
@teacher_option("with a weight: CKPT's unpruned network, if it is in the same folder")
@_RECIPE.options
@training_options
@in_process_group
def command(
    checkpoint: Path,
    new_classifier: bool,
    freeze_yamnet: bool | None,
    teacher: Path | None,
    config: TrainingConfig,
    **options: Any,
) -> None:
    """Continue the training of CKPT on the clips of packs.

    If the packs have other classes than the checkpoint, a new classifier replaces the old one and all other weights
    stay: transfer learning. Classes that CKPT has keep their weights; classes are matched by AudioSet identifier or,
    without one, by name, apart from case and the characters between words. --out keeps the weights of the step with the
    best validation mAP, or the best accuracy for a single-label network. OUT/training.json holds the settings.
    """
    import torch

    from epanns.models.files.load import load
    from epanns.models.warm_start import stays_frozen, use_labels
    from epanns.seeding import derive_seed

    if checkpoint.resolve() == options["out"].resolve():
        raise ConfigError(f"--out {options['out']} is the checkpoint itself: choose another --out")
    config = with_teacher_weight(config, teacher)
    require_place(config, unknown=["freeze_yamnet"], **options)  # the checkpoint may decide it
    model = load(checkpoint)
    for assumption in model.provenance.assumed:
        log(f"{checkpoint}: {assumption}")
    config = with_frozen_body(config, freeze_yamnet, by_default=stays_frozen(model.provenance))
    train = in_order_of(model, open_training_packs(model.spec.front_end.sample_rate, config=config, **options))
    known = model.labels
    if new_classifier or train.labels.names != known.names:
        torch.manual_seed(derive_seed("weights", config.seed))
        told = use_labels(model, train.labels, fresh=new_classifier)
        log(f"new classifier, {classes_of(len(train.labels))} in place of {len(known)}: {told.describe()}")
    run(model, train, config=config, teacher=open_teacher(checkpoint, teacher, config), **options)
