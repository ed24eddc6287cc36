"""Recovery in commands: its options, the run on a pack, and the report."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from epanns.errors import ConfigError

if TYPE_CHECKING:
    from epanns.models.pruning_plan import PruningPlan
    from epanns.models.tagger import Tagger
    from epanns.pruning.calibration_clips import CalibrationClips


def recovery_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of ``--recover ls``; None where they are not given."""
    command = click.option(
        "--ridge",
        type=click.FloatRange(min=0, min_open=True),
        help="Strength with which ls holds weights to the unfitted weights.  [default: 0.001]",
    )(command)
    command = click.option(
        "--mixtures",
        type=click.IntRange(0),
        help="Number of mixtures of each clip with another clip that ls is fitted to as well; the time grows with it.  "
        "[default: 0]",
    )(command)
    return click.option(
        "--fit-to",
        type=click.Choice(["dense", "current"]),
        help="What ls reproduces: the unpruned network's outputs (dense), or those of the repaired one if the channels "
        "that a layer reads were whole (current).  [default: dense]",
    )(command)


class RecoveryName(click.types.StringParamType):  # click.ParamType is generic from 8.4 on
    """Name of a recovery: none, bn, ls, ls+bn or distil:STEPS."""

    name = "none|bn|ls|ls+bn|distil:STEPS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse unknown names."""
        from epanns.pruning.recovery.recover import recovery_problem

        if recovery_problem(value) is not None:
            self.fail(f"{value!r} is not one of none, bn, ls, ls+bn or distil:STEPS, such as distil:200.", param, ctx)
        return str(value)


def given_settings(method: str, **options: Any) -> dict[str, Any]:
    """Return the options that are given, and refuse those that the recovery does not read."""
    given = {name: value for name, value in options.items() if value is not None}
    if given and method in ("none", "bn"):
        names = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ConfigError(f"{names}: only for --recover ls; --recover {method} has no use for it")
    return given


def recover_on(
    clips: "CalibrationClips",
    method: str,
    settings: Mapping[str, Any],
    pruned: "Tagger",
    dense: "Tagger",
    plan: "PruningPlan",
) -> dict[str, Any] | None:
    """Recover a network in place; `settings` are those of `RecoverySettings`."""
    from epanns.pruning.recovery.recover import recover

    return recover(pruned, dense, clips, method, plan=plan, **settings)


def recovery_lines(recovery: Mapping[str, Any] | None) -> list[str]:
    """Return a line for each refitted reader, and one for the distillation."""
    errors = (recovery or {}).get("errors", {})
    lines = [
        f"{reader}: error {error['plain']:.1%} plain, {error['refit']:.1%} refitted"
        f"{'' if error['refit'] < error['plain'] else ': plain weights kept'}"
        for reader, error in errors.items()
    ]
    if distilled := (recovery or {}).get("distil"):
        kept = f"weights of step {distilled['best_step']}" if distilled["best_step"] else "no step was better: ls kept"
        lines.append(
            f"{distilled['steps']} steps of distillation: error {distilled['before']:.1%} before, "
            f"{distilled['after']:.1%} after; {kept}"
            f"{'' if distilled['embedding_channels'] else '; on logits alone, as no plan relates the embeddings'}"
        )
    return lines
