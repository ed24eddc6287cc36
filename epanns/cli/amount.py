"""How much of a network goes: the options of `epanns prune` that say it, and the plan that follows from them."""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from epanns.cli.options import EXISTING
from epanns.cli.terminal import log
from epanns.errors import ConfigError

if TYPE_CHECKING:
    from epanns.models.pruning_plan import PruningPlan
    from epanns.models.tagger import Tagger
    from epanns.pruning.budgets.allocators import Allocator
    from epanns.pruning.budgets.allotment import Allotment
    from epanns.pruning.budgets.budget import Budget
    from epanns.pruning.ranking.calibration import CalibrationBatch

_OF = "in (0, 1) a fraction of CHECKPOINT's"
_HOW_MUCH = (
    click.option("--ratio", type=float, help="Fraction of the channels removed, in (0, 1)."),
    click.option("--ratios", type=EXISTING, help="TOML or JSON file with `layer = ratio`, layers or blocks."),
    click.option("--target-params", metavar="N", help=f"Most parameters, such as 22M; {_OF}."),
    click.option("--target-macs", metavar="N", help=f"Most multiply-adds for 10 s of sound, such as 5.02G; {_OF}."),
    click.option(
        "--target-bytes", metavar="N", help=f"Most bytes of the parameters, float32, such as 4.5MB or 4.5MiB; {_OF}."
    ),
    click.option(
        "--target-latency",
        metavar="TIME",
        help=f"Longest median time of a clip of 10 s, measured on this machine, such as 20ms or 0.5ms; {_OF}.",
    ),
)
_WHERE = (
    click.option("--layers", help="With one ratio or a target: comma-separated layers or blocks.  [default: all]"),
    click.option(
        "--allocate",
        type=click.Choice(["uniform", "global", "sensitivity"]),
        default="uniform",
        show_default=True,
        help="With one ratio or a target. uniform: the same ratio in every layer. global: the filters of all layers "
        "are ranked together. sensitivity: where it costs the least mAP by --sensitivity.",
    ),
    click.option(
        "--minimum",
        type=float,
        help="With global and sensitivity: smallest fraction of a layer's channels that is kept.  [default: 0.1]",
    ),
    click.option("--sensitivity", type=EXISTING, help="With --allocate sensitivity: CSV of `epanns sensitivity`."),
    click.option(
        "--round-to",
        type=click.IntRange(1),
        default=1,
        show_default=True,
        help="Number of which every pruned layer keeps a multiple of channels.",
    ),
    click.option(
        "--int8",
        is_flag=True,
        help="With --target-bytes: 1 byte per weight, float32 scale and bias per channel, batch norms folded.",
    ),
)
_TARGETS = ("params", "macs", "bytes", "latency")
AMOUNT_SECTIONS = {
    "How much is removed: one of (targets are met within 1 % from below, latency within 10 %)": (
        "ratio",
        "ratios",
        *(f"target-{kind}" for kind in _TARGETS),
    ),
    "From which layers": ("layers", "allocate", "minimum", "sensitivity", "round-to", "int8"),
}


@dataclass(frozen=True)
class Amount:
    """The options as they were given; see their help."""

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

    def refuse_contradictions(self) -> None:
        """Refuse options that do not go together, before anything is read."""
        ways = [self.ratio, self.ratios, *self._targets().values()]
        rules = {
            "give one of --ratio, --ratios FILE, --target-params, --target-macs, --target-bytes, --target-latency": (
                sum(way is not None for way in ways) == 1
            ),
            "--int8 goes with --target-bytes": self.target_bytes is not None or not self.int8,
            "--allocate goes with --ratio or a --target": self.ratios is None or self.allocate == "uniform",
            "--allocate sensitivity and --sensitivity FILE.csv go together: give both or neither": (
                (self.allocate == "sensitivity") == (self.sensitivity is not None)
            ),
            "--minimum goes with --allocate global or sensitivity": self.minimum is None or self.allocate != "uniform",
        }
        for rule, holds in rules.items():
            if not holds:
                raise ConfigError(rule)
        self._target()

    def plan(
        self, model: "Tagger", *, criterion: str, seed: int, calibration: "Iterable[CalibrationBatch] | None"
    ) -> "tuple[PruningPlan, Allotment | None]":
        """Decide which channels go, and, where there is a budget, what the network would then cost."""
        from epanns.pruning.allocation import read_ratios
        from epanns.pruning.prune import planned

        if self.target_latency is not None:
            log(f"timing every layer of {model.spec.name} on this machine, then the pruned networks themselves")
        return planned(
            model,
            criterion=criterion,
            ratio=self.ratio,
            ratios=None if self.ratios is None else read_ratios(self.ratios),
            budget=self._target(),
            layers=None if self.layers is None else [name.strip() for name in self.layers.split(",") if name.strip()],
            allocate=self._allocator(),
            seed=seed,
            round_to=self.round_to,
            calibration=calibration,
        )

    def _target(self) -> "Budget | None":
        from epanns.pruning.budgets.budget import Budget

        given = [(kind, text) for kind, text in self._targets().items() if text is not None]
        return Budget.parse(*given[0], int8=self.int8) if given else None

    def _targets(self) -> dict[str, str | None]:
        return {kind: getattr(self, f"target_{kind}") for kind in _TARGETS}

    def _allocator(self) -> "Allocator":
        from epanns.pruning.budgets.allocators import BySensitivity, Global, Uniform
        from epanns.pruning.budgets.sensitivity import read_sensitivity

        minimum = {} if self.minimum is None else {"minimum": self.minimum}
        if self.sensitivity is not None:
            table = read_sensitivity(self.sensitivity)
            if not table.network:
                log(
                    f"{self.sensitivity} does not say which weights it was measured on, only how many: the same "
                    "`epanns sensitivity` command again adds it, and measures nothing anew"
                )
            return BySensitivity(table, **minimum)
        return Global(**minimum) if self.allocate == "global" else Uniform()


def amount_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options; the command receives them as one `Amount` named `amount`."""

    @functools.wraps(function)
    def command(**values: Any) -> Any:
        amount = Amount(**{field.name: values.pop(field.name) for field in fields(Amount)})
        return function(amount=amount, **values)

    for option in reversed((*_HOW_MUCH, *_WHERE)):
        command = option(command)
    return command
