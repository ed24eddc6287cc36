"""``epanns train`` and what it shares with ``epanns finetune``."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from epanns.cli.options import EXISTING, Decorator, EpannsCommand, emit, json_option, log, out_option, torch_device
from epanns.cli.packs import in_order_of, open_packs, pack_options, tell_unknown_lengths
from epanns.models.tasks import DECISIVE_SCORES, TASKS
from epanns.training.config import TrainingConfig

if TYPE_CHECKING:
    from epanns.data.dataset import PackDataset
    from epanns.models.tagger import Tagger
    from epanns.training.loop import TrainingResult
    from epanns.training.running import OnStep

# Option -> help; names and defaults are those of TrainingConfig.
_HELP = {
    "batch_size": "Clips the loss sees in a step; with mixup twice as many are drawn.",
    "learning_rate": "Adam's rate at its highest.",
    "schedule": "constant, or cosine down to zero at the last step.",
    "warmup_iterations": "Steps over which the rate rises from zero.",
    "mixup_alpha": "Beta parameter of mixup; 0 switches it off.",
    "sampler": "balanced takes the classes in turn, shuffled the clips; weighted draws rare classes more often.",
    "short_clips": "What fills clips shorter than the crop or the row: pad (zeros) or repeat (the clip again).",
    "precision": "float32, or bfloat16 by autocast: faster on processors that multiply it; weights stay float32.",
    "validate_every": "Steps between validations; the state is saved at each.",
    "seed": "Seed of everything random.",
}
_DEFAULTS = TrainingConfig()


def training_options(*, iterations: int) -> Decorator:
    """Add the options both training commands share."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        options: list[Decorator] = [
            click.option(
                "--train",
                "train_packs",
                type=EXISTING,
                multiple=True,
                required=True,
                help="Pack to learn from; may be repeated.",
            ),
            click.option(
                "--val",
                "val_packs",
                type=EXISTING,
                multiple=True,
                required=True,
                help="Pack that chooses the best step; may be repeated.",
            ),
            out_option("Run folder; becomes a checkpoint. The same command goes on where it was."),
            click.option(
                "--task",
                type=click.Choice(list(TASKS)),
                help="Several classes at once (sigmoids), or one of all (softmax); decides the loss, and that the best "
                "step is chosen by mAP, or accuracy.  [default: the checkpoint's, else multi-label]",
            ),
            click.option("--iterations", default=iterations, show_default=True, help="Optimisation steps."),
            *[
                click.option(
                    f"--{name.replace('_', '-')}", default=getattr(_DEFAULTS, name), show_default=True, help=text
                )
                for name, text in _HELP.items()
            ],
            click.option(
                "--crop-seconds", type=float, help="Learn random windows of this length.  [default: whole clips]"
            ),
            pack_options,
            click.option(
                "--spec-augment/--no-spec-augment",
                default=True,
                show_default=True,
                help="Mask stripes of time and mel.",
            ),
            click.option(
                "--workers", type=click.IntRange(0), default=0, show_default=True, help="Processes that read clips."
            ),
            click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N."),
            click.option("--fresh", is_flag=True, help="Delete an earlier run in --out and start over."),
            json_option,
        ]
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


@click.command("train", cls=EpannsCommand)
@click.argument("model")
@click.option("--width", default=1.0, show_default=True, help="Factor on every layer's width.")
@training_options(iterations=10_000)
def command(model: str, width: float, **options: Any) -> None:
    """Train MODEL, a name of the zoo, from random weights.

    The checkpoint with the best validation mAP is kept in --out; of a single-label network (--task), that with the best
    accuracy.
    """
    import torch

    from epanns.models.zoo import build_model, spec_of
    from epanns.seeding import derive_seed

    train = open_training_packs(spec_of(model, width=width).front_end.sample_rate, **options)
    torch.manual_seed(derive_seed("weights", options["seed"]))
    run(build_model(model, width=width, labels=train.labels), train, freeze_backbone=False, **options)


def open_training_packs(
    sample_rate: int,
    *,
    train_packs: Sequence[Path],
    labels_file: Path | None,
    mp3_seconds: float,
    crop_seconds: float | None,
    **_: Any,
) -> "PackDataset":
    """Open what the options of the command line name; with a crop, rows may be of several lengths."""
    from epanns.data.crop import Crop

    crop = None if crop_seconds is None else Crop(crop_seconds)
    return open_packs(train_packs, labels_file=labels_file, mp3_seconds=mp3_seconds, sample_rate=sample_rate, crop=crop)


def run(
    model: "Tagger",
    train: "PackDataset",
    *,
    train_packs: Sequence[Path],
    val_packs: Sequence[Path],
    out: Path,
    labels_file: Path | None,
    mp3_seconds: float,
    workers: int,
    device: str,
    fresh: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Train a model with the options of the command line and print the result."""
    from epanns.data.task import refuse_leak, require_same_task
    from epanns.sweeps.trial import validation_on
    from epanns.training.folder import start_over
    from epanns.training.loop import finetune
    from epanns.training.running import Running

    config, place = TrainingConfig.from_dict(settings), torch_device(device)
    rate = model.spec.front_end.sample_rate
    if config.task is not None:
        model.set_task(config.task)
    val = open_packs(val_packs, labels_file=labels_file, mp3_seconds=mp3_seconds, sample_rate=rate)
    val = in_order_of(model, val)
    require_same_task(model, train)
    require_same_task(model, val)
    refuse_leak(train, val, part="validation")
    if fresh:
        start_over(out)
    log(f"training on {describe_clips(train)}, sampler {config.sampler}; validation on {describe_clips(val)}")
    if config.crop is not None:
        tell_unknown_lengths(train, "crops and repetitions")
    with progress_of(config, DECISIVE_SCORES[model.spec.task]) as on_step:
        result = finetune(
            model.to(place),
            train,
            config,
            out,
            validation=validation_on(val),
            running=Running(workers=workers, on_step=on_step, tell=log),
        )
    emit(
        {
            "out": str(out),
            "best_step": result.best_step,
            f"best_{result.chosen_by}": result.best_score,
            "seconds": result.seconds,
        },
        describe(result, out),
        as_json,
    )


def describe_clips(dataset: "PackDataset") -> str:
    """Return how many clips and classes a data set has, in words."""
    empty = int((dataset.targets.counts() == 0).sum())
    without = f", {empty} of them without clips" if empty else ""
    return f"{len(dataset):,} clips of {dataset.dataset_name} in {len(dataset.labels)} classes{without}"


def describe(result: "TrainingResult", out: Path) -> str:
    """Return the result in words."""
    best = f"best validation {result.chosen_by} {result.best_score:.4f} at step {result.best_step} of {result.steps}"
    return f"{out}: {best}, {result.seconds:.0f} s; metrics in {out / 'metrics.csv'}"


@contextmanager
def progress_of(config: TrainingConfig, score: str = "mAP") -> "Iterator[OnStep]":
    """Yield a function that draws steps, loss, the best score of that name and speed on stderr."""
    import sys

    from tqdm import tqdm

    with tqdm(total=config.iterations, unit="step", disable=not sys.stderr.isatty(), file=sys.stderr) as bar:

        def show(state: Any, loss: float) -> None:
            bar.update(state.step - bar.n)
            rate = config.drawn_clips * bar.format_dict["n"] / max(bar.format_dict["elapsed"], 1e-9)
            best = {f"best_{score}": f"{max(state.best_score, 0):.4f}"}
            bar.set_postfix(loss=f"{loss:.4f}", **best, clips_per_s=f"{rate:.0f}")

        yield show
