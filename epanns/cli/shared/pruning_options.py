"""Options of `epanns prune`: how much is removed, from where, by which criterion, and the recovery."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from epanns.cli.shared.options import EXISTING, SEED
from epanns.cli.shared.packs import in_order_of
from epanns.cli.shared.terminal import log, progress_bar
from epanns.errors import ConfigError

if TYPE_CHECKING:
    from epanns.data.batches.dataset import PackDataset
    from epanns.models.tagger import Tagger
    from epanns.pruning.calibration_clips import CalibrationClips
    from epanns.pruning.config import PruningConfig

_OF = "a number in (0, 1) is a fraction of CHECKPOINT's"
_HOW_MUCH = (
    click.option("--ratio", type=float, help="Fraction of the channels removed, in (0, 1)."),
    click.option("--ratios", type=EXISTING, help="TOML or JSON file with `layer = ratio`, layers or blocks."),
    click.option("--target-params", metavar="N", help=f"Largest number of parameters, such as 22M; {_OF}."),
    click.option(
        "--target-macs", metavar="N", help=f"Largest number of multiply-adds for 10 s of sound, such as 5.02G; {_OF}."
    ),
    click.option(
        "--target-bytes",
        metavar="N",
        help=f"Largest size of the parameters in float32, such as 4.5MB or 4.5MiB; {_OF}.",
    ),
    click.option(
        "--target-latency",
        metavar="TIME",
        help=f"Longest median time of a clip of 10 s, measured on this machine, such as 20ms or 0.5ms; {_OF}.",
    ),
)
_WHERE = (
    click.option(
        "--layers", help="Comma-separated layers or blocks to prune, with one ratio or a target.  [default: all]"
    ),
    click.option(
        "--allocate",
        type=click.Choice(["uniform", "global", "distortion", "sensitivity"]),
        default="uniform",
        show_default=True,
        help="Distribution of one ratio or a target over the layers. uniform: the same ratio in every layer. global: "
        "the lowest filters of one ranking of all layers. distortion: more where the tags of --calibration clips "
        "change less, measured layer by layer. sensitivity: more where less mAP is lost, by --sensitivity.",
    ),
    click.option(
        "--minimum",
        type=float,
        help="Smallest fraction of a layer's channels that is kept, not by uniform.  [default: 0.1]",
    ),
    click.option("--sensitivity", type=EXISTING, help="CSV file of `epanns sensitivity`, for --allocate sensitivity."),
    click.option(
        "--round-to",
        type=click.IntRange(1),
        default=1,
        show_default=True,
        help="Divisor of the number of channels that a pruned layer keeps.",
    ),
    click.option(
        "--int8",
        is_flag=True,
        help="Count the bytes of --target-bytes in int8: 1 per weight, float32 scale and bias per channel, batch norms "
        "folded.",
    ),
)
_WHICH = (
    click.option(
        "--criterion",
        default="l1",
        show_default=True,
        help="Ranking of the filters, by weights: l1, l2, opnorm, opnorm_invariant, fpgm, cosine, centrality, bn or "
        "random; by --calibration clips: activation, interpolative, elimination; by clips and their labels: taylor.",
    ),
    click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of criteria that draw random numbers."),
)
_TARGETS = ("params", "macs", "bytes", "latency")
AMOUNT_SECTIONS = {
    "How much is removed (one option; targets: 0 to 1 % below, latency within 10 %)": (
        "ratio",
        "ratios",
        *(f"target-{kind}" for kind in _TARGETS),
    ),
    "From which layers": ("layers", "allocate", "minimum", "sensitivity", "round-to", "int8"),
}


_NAMES = ("ratio", "ratios", *(f"target_{kind}" for kind in _TARGETS), "layers", "allocate", "minimum", "sensitivity")
_NAMES += ("round_to", "int8", "criterion", "seed")


def pruning_config(amount: Mapping[str, Any]) -> "PruningConfig":
    """Return the settings of the pruning; options that contradict each other are refused before files are read.

    Args:
        amount: The options of `amount_options`, as given.
    """
    from epanns.pruning.budgets.allocators import BySensitivity
    from epanns.pruning.config import PruningConfig

    table = dict(amount)
    if (layers := table["layers"]) is not None:
        table["layers"] = [name.strip() for name in layers.split(",") if name.strip()]
    config = PruningConfig.from_table(
        table, names=lambda key: "--ratios FILE" if key == "ratios" else f"--{key.replace('_', '-')}"
    )
    allocator = config.allocator
    if isinstance(allocator, BySensitivity) and not allocator.table.network:
        log(
            f"{table['sensitivity']} does not record which weights it was measured on, only how many: the same "
            "`epanns sensitivity` command adds it without measuring again"
        )
    return config


def amount_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options; the command receives them as one dictionary named `amount`."""

    @functools.wraps(function)
    def command(**values: Any) -> Any:
        return function(amount={name: values.pop(name) for name in _NAMES}, **values)

    for option in reversed((*_WHICH[:1], *_HOW_MUCH, *_WHERE, *_WHICH[1:])):
        command = option(command)
    return command


def recovery_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of ``--recover ls``; None where they are not given."""
    command = click.option(
        "--ridge",
        type=click.FloatRange(min=0, min_open=True),
        help="Strength of the penalty of ls on the distance from the unfitted weights; for grail, from zero.  "
        "[default: 0.001]",
    )(command)
    command = click.option(
        "--mixtures",
        type=click.IntRange(0),
        help="Number of mixtures of each clip with another clip, to which ls is fitted too; the time grows with it.  "
        "[default: 0]",
    )(command)
    command = click.option(
        "--rectify",
        type=click.IntRange(0),
        help="Number of iterations of ls that fit what the ReLU behind each layer passes; with them the held-out clips "
        "choose the ridge of each layer, from --ridge up. 8 is a good value.  [default: 0]",
    )(command)
    return click.option(
        "--fit-to",
        type=click.Choice(["dense", "current"]),
        help="Outputs that ls reproduces: those of the unpruned network (dense), or those of the repaired network if "
        "the channels that a layer reads were whole (current).  [default: dense]",
    )(command)


class RecoveryName(click.types.StringParamType):  # click.ParamType is generic from 8.4 on
    """Name of a recovery: none, bn, ls, ls+bn, grail, fold, align:STEPS, ls+align:STEPS or distil:STEPS."""

    name = "none|bn|ls|ls+bn|grail|fold|[ls+]align:STEPS|distil:STEPS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse unknown names."""
        from epanns.pruning.recovery.recover import RECOVERY_NAMES, recovery_problem

        if recovery_problem(value) is not None:
            names = ", ".join(RECOVERY_NAMES)
            self.fail(f"{value!r} is not one of {names}, such as align:1500.", param, ctx)
        return str(value)


def given_settings(method: str, **options: Any) -> dict[str, Any]:
    """Return the options that are given, and refuse those that the recovery does not read."""
    from epanns.pruning.recovery.recover import parts_of

    given = {name: value for name, value in options.items() if value is not None}
    parts = parts_of(method)
    unread = [name for name in given if "ls" not in parts and not (name == "ridge" and "grail" in parts)]
    if unread:
        names = " and ".join(f"--{name.replace('_', '-')}" for name in unread)
        raise ConfigError(f"{names}: only for --recover ls; --recover {method} has no use for it")
    return given


def open_calibration(
    path: Path | None,
    model: "Tagger",
    open_packs: "Callable[[list[Path]], PackDataset]",
    config: "PruningConfig",
    *,
    recover: str,
) -> "CalibrationClips | None":
    """Open the pack of ``--calibration``, if the pruning or ``--recover`` needs one; passes show a progress bar.

    Raises:
        ConfigError: If the pack is given without need, missing, or of another sample rate than the network's.
    """
    from epanns.pruning.calibration_clips import CalibrationClips
    from epanns.pruning.ranking.criteria import NEEDS, needs_clips

    uses = [f"--recover {recover}"] if recover != "none" else []
    uses += [f"--criterion {config.criterion}"] if needs_clips(config.criterion) else []
    uses += ["--allocate distortion"] if config.allocator.name == "distortion" else []
    if path is None:
        if uses:
            raise ConfigError(f"{' and '.join(uses)}: give --calibration PACK, the clips to measure")
        return None
    if not uses:
        measuring = ", ".join(name for name in NEEDS if needs_clips(name))
        raise ConfigError(
            f"--calibration {path}: has no use without --recover, --allocate distortion or a criterion that "
            f"measures clips ({measuring})"
        )
    rate = model.spec.front_end.sample_rate
    dataset = open_packs([path])
    if dataset.sample_rate != rate:
        raise ConfigError(
            f"the calibration pack holds {dataset.sample_rate} Hz, {model.spec.name} reads {rate} Hz: "
            f"pack the clips with --sample-rate {rate}"
        )
    dataset = in_order_of(model, dataset) if NEEDS[config.criterion] == "gradients" else dataset
    return CalibrationClips.from_pack(
        dataset,
        progress=lambda batches, purpose, total: progress_bar(batches, description=purpose, total=total, unit="batch"),
    )


def recovery_lines(recovery: Mapping[str, Any] | None) -> list[str]:
    """Return a line for each refitted reader, and one for gradient steps."""
    errors = (recovery or {}).get("errors", {})
    lines = [
        f"{reader}: error {error['plain']:.1%} plain, {error['refit']:.1%} refitted"
        f"{'' if error['refit'] < error['plain'] else ': plain weights kept'}"
        for reader, error in errors.items()
    ]
    for part, name in (("align", "alignment"), ("distil", "distillation")):
        if done := (recovery or {}).get(part):
            best = done["best_step"]
            kept = f"weights of step {best:,} kept" if best else "no step was better: the weights from before are kept"
            alone = "" if done.get("embedding_channels", 1) else "; on logits alone, as no plan relates the embeddings"
            lines.append(
                f"{done['steps']:,} steps of {name}: loss {done['before']:.4f} before, {done['after']:.4f} after, on "
                f"held-out clips; {kept}{alone}"
            )
    return lines
