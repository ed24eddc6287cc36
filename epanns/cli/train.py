"""``epanns train``, and the options and the run that it shares with ``epanns finetune``."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from epanns.cli.shared.options import (
    EXISTING,
    Decorator,
    bounded_option,
    device_option,
    in_process_group,
    json_option,
    out_option,
    resuming_command,
)
from epanns.cli.shared.packs import in_order_of, log_unknown_lengths, open_packs, pack_options
from epanns.cli.shared.terminal import emit, log, report_once
from epanns.cli.shared.training_options import (
    Recipe,
    RecipeCommand,
    build_on_checkpoint,
    check_yamnet_options,
    freeze_option,
    open_teacher,
    teacher_option,
    with_frozen_body,
    with_teacher_weight,
    yamnet_option,
)
from epanns.cli.shared.training_progress import training_progress
from epanns.distributed import rank
from epanns.errors import EpannsError, Interrupted, TrainingError
from epanns.training.config import TrainingConfig
from epanns.training.loop import SAVE_EVERY
from epanns.training.metrics import CURVE, STEP_0_KEPT, TABLE
from epanns.workfolder import DRAWING_SECONDS, WorkFolder

if TYPE_CHECKING:
    from epanns.data.batches.dataset import PackDataset
    from epanns.models.tagger import Tagger
    from epanns.training.finetune import TrainingResult
    from epanns.training.teacher_scores import TeacherScores

# Random weights have no trained backbone to freeze, and no embedding channels in common with a teacher.
_RECIPE = Recipe(
    without=(
        *("freeze_backbone", "freeze_yamnet", "head_iterations", "backbone_rate"),
        "feature_weight",
    ),
    unset={"task": "multi-label"},
)


def training_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of both training commands that are not settings of the training."""
    options: list[Decorator] = [
        click.option(
            "--train",
            "train_packs",
            type=EXISTING,
            multiple=True,
            required=True,
            help="Pack of training clips; may be repeated.",
        ),
        click.option(
            "--val",
            "val_packs",
            type=EXISTING,
            multiple=True,
            required=True,
            help="Pack of validation clips, whose score chooses the best step; may be repeated.",
        ),
        pack_options,
        bounded_option("--workers", "Number of processes that read clips", least=0),
        device_option,
        out_option("Run folder; becomes a checkpoint when the run ends. The same command resumes the run."),
        click.option(
            "--save-every",
            type=click.IntRange(1),
            default=SAVE_EVERY,
            show_default=True,
            help="Number of steps between saved states, beside those at validations; a killed run repeats the steps "
            "since the last state.",
        ),
        click.option("--tensorboard", is_flag=True, help="Also write the metrics for TensorBoard, to OUT/tensorboard."),
        click.option("--fresh", is_flag=True, help="Delete an earlier run in --out and start over."),
        json_option,
    ]
    for option in reversed(options):
        function = option(function)
    return function


@click.command("train", cls=RecipeCommand, recipe=_RECIPE)
@click.argument("model")
@click.option("--width", default=1.0, show_default=True, help="Factor on every layer's width.")
@yamnet_option
@freeze_option("yes with --yamnet, else no")
@teacher_option("none")
@_RECIPE.options
@training_options
@in_process_group
def command(
    model: str,
    width: float,
    yamnet: Path | None,
    freeze_yamnet: bool | None,
    teacher: Path | None,
    config: TrainingConfig,
    **options: Any,
) -> None:
    """Train MODEL, a name of the zoo, from random weights, or a network of LEAN on a YAMNet (--yamnet).

    With --teacher it learns from the labels and from the teacher's scores. --out keeps the checkpoint with the best
    validation mAP, or the best accuracy for a single-label network (--task), or the last (--keep).
    OUT/training.json holds the settings.
    """
    import torch

    from epanns.models.zoo import build_model, spec_of
    from epanns.seeding import derive_seed

    config = with_teacher_weight(config, teacher)
    check_yamnet_options(model, yamnet, width=width, freeze=freeze_yamnet)
    spec = spec_of(model, width=width)
    known: dict[str, Any] = {"name": spec.name} if yamnet else {"name": spec.name, "widths": dict(spec.widths)}
    config = with_frozen_body(config, freeze_yamnet, by_default=yamnet is not None)
    require_place(config, model=known, **options)
    train = open_training_packs(spec.front_end.sample_rate, config=config, **options)
    torch.manual_seed(derive_seed("weights", config.seed))
    if yamnet is None:
        network = build_model(model, width=width, labels=train.labels)
    else:
        network = build_on_checkpoint(model, yamnet, train.labels)
    run(network, train, config=config, teacher=open_teacher(None, teacher, config), **options)


def require_place(
    config: TrainingConfig,
    *,
    out: Path,
    fresh: bool,
    model: Mapping[str, Any] | None = None,
    unknown: Collection[str] = (),
    **_: Any,
) -> None:
    """Raise `OutputError` if ``--out`` holds something else, before data and network are read."""
    from epanns.training.run_folder import require_run_folder

    require_run_folder(out, None if fresh else config, model=model, unknown=unknown)


def open_training_packs(
    sample_rate: int,
    *,
    config: TrainingConfig,
    train_packs: Sequence[Path],
    labels_file: Path | None,
    mp3_seconds: float,
    **_: Any,
) -> "PackDataset":
    """Open the packs of ``--train``; with a crop, clips may differ in length."""
    from epanns.data.batches.crop import Crop

    crop = None if config.crop_seconds is None else Crop(config.crop_seconds)
    return open_packs(train_packs, labels_file=labels_file, mp3_seconds=mp3_seconds, sample_rate=sample_rate, crop=crop)


def run(
    model: "Tagger",
    train: "PackDataset",
    *,
    config: TrainingConfig,
    val_packs: Sequence[Path],
    out: Path,
    labels_file: Path | None,
    mp3_seconds: float,
    workers: int,
    device: str,
    save_every: int,
    tensorboard: bool,
    fresh: bool,
    as_json: bool,
    teacher: "Tagger | TeacherScores | None" = None,
    **_: Any,
) -> None:
    """Train a network with the options of the command line and print the result."""
    from epanns.stages.finetune import require_clips, require_trainable, validation_on
    from epanns.training.finetune import finetune
    from epanns.training.metrics import require_tensorboard

    if tensorboard:
        require_tensorboard()
    rate = model.spec.front_end.sample_rate
    require_trainable(model, config, teacher)
    val = open_packs(val_packs, labels_file=labels_file, mp3_seconds=mp3_seconds, sample_rate=rate)
    val = in_order_of(model, val)
    require_clips(model, train, val)
    log(f"training on {describe_clips(train)}, sampler {config.sampler}; validation on {describe_clips(val)}")
    if config.drawn_clips > len(train):
        drawn = f"{config.drawn_clips:,} clips{' (--batch-size, in pairs)' if config.mixup_alpha > 0 else ''}"
        log(f"each step takes {drawn}, more than the {len(train):,} there are: clips repeat within a step")
    if config.crop is not None:
        log_unknown_lengths(train, "crops and repetitions")
    with curve_drawn(out), training_progress(config) as display:
        result = finetune(
            model.to(device),
            train,
            config,
            out,
            validation=validation_on(val),
            options=display.run_options(
                workers=workers,
                save_every=save_every,
                tensorboard=tensorboard,
                fresh=fresh,
                command=resuming_command(),
            ),
            teacher=teacher,
        )
    emit(
        {
            "out": str(out),
            "best_step": result.best_step,
            f"best_{result.chosen_by}": result.best_score,
            "seconds": result.seconds,
        },
        describe(result, out, keep=config.keep),
        as_json,
    )


@contextmanager
def curve_drawn(out: Path) -> Iterator[None]:
    """Draw the learning curve after a run; if the run was stopped or failed, as SVG alone, and raise its error."""
    from epanns.reporting.figures.learning_curve import is_run, write_learning_curves

    draws = rank() == 0
    try:
        yield
    except (Interrupted, TrainingError) as stopped:
        try:
            if draws and is_run(out):
                report_once(stopped)  # before drawing, which takes a while
                with WorkFolder(out).locked(wait=DRAWING_SECONDS):
                    write_learning_curves([out], out, stem=CURVE, images=False)
        except (EpannsError, OSError) as error:
            log(f"no learning curve could be drawn: {error}")
        raise
    if draws:
        with WorkFolder(out).locked(wait=DRAWING_SECONDS):
            write_learning_curves([out], out, stem=CURVE)


def describe_clips(dataset: "PackDataset") -> str:
    """Return the numbers of clips and classes of a data set, in words."""
    empty = int((dataset.targets.counts() == 0).sum())
    without = f", {empty} of them without clips" if empty else ""
    clips = "1 clip" if len(dataset) == 1 else f"{len(dataset):,} clips"
    return f"{clips} of {dataset.dataset_name} in {classes_of(len(dataset.labels))}{without}"


def classes_of(count: int) -> str:
    """Return a number of classes in words."""
    return "1 class" if count == 1 else f"{count} classes"


def describe(result: "TrainingResult", out: Path, *, keep: str = "best") -> str:
    """Return the result in words; `keep` is the setting of the run."""
    best = f"validation {result.chosen_by} {result.best_score:.4f} at step {result.best_step} of {result.steps}"
    best = f"best {best}" if keep == "best" else f"{best}, the last step"
    best += "" if result.best_step else f" ({STEP_0_KEPT})"
    took = f"{result.seconds:.0f} s" if result.seconds >= 1 else "under 1 s"
    return f"{out}: {best}, {took}; see {TABLE} and {CURVE}.svg"
