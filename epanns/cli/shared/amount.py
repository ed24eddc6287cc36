"""Options of `epanns prune` for what is removed: the amount, the layers, the allocator and the criterion."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from epanns.cli.shared.options import EXISTING, SEED
from epanns.cli.shared.terminal import log

if TYPE_CHECKING:
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
        type=click.Choice(["uniform", "global", "sensitivity"]),
        default="uniform",
        show_default=True,
        help="Distribution of one ratio or a target over the layers. uniform: the same ratio in every layer. global: "
        "the lowest filters of one ranking of all layers. sensitivity: more where less mAP is lost, by --sensitivity.",
    ),
    click.option(
        "--minimum",
        type=float,
        help="Smallest fraction of a layer's channels that is kept, by global and sensitivity.  [default: 0.1]",
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


@dataclass(frozen=True)
class Amount:
    """The options as given; see their help."""

    ratio: float | None
    ratios: Path | None
    target_params: str | None
    target_macs: str | None
    target_bytes: str | None
    target_latency: str | None
    layers: str | None
    allocate: str
    minimum: float | None
    sensitivity: Path | None
    round_to: int
    int8: bool
    criterion: str
    seed: int

    def config(self) -> "PruningConfig":
        """Return the settings of the pruning; options that contradict each other are refused before files are read."""
        from epanns.pruning.budgets.allocators import BySensitivity
        from epanns.pruning.config import PruningConfig

        table = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.layers is not None:
            table["layers"] = [name.strip() for name in self.layers.split(",") if name.strip()]
        config = PruningConfig.from_table(
            table, names=lambda key: "--ratios FILE" if key == "ratios" else f"--{key.replace('_', '-')}"
        )
        allocator = config.allocator
        if isinstance(allocator, BySensitivity) and not allocator.table.network:
            log(
                f"{self.sensitivity} does not record which weights it was measured on, only how many: the same "
                "`epanns sensitivity` command adds it without measuring again"
            )
        return config


def amount_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options; the command receives them as one `Amount` named `amount`."""

    @functools.wraps(function)
    def command(**values: Any) -> Any:
        amount = Amount(**{field.name: values.pop(field.name) for field in fields(Amount)})
        return function(amount=amount, **values)

    for option in reversed((*_WHICH[:1], *_HOW_MUCH, *_WHERE, *_WHICH[1:])):
        command = option(command)
    return command
