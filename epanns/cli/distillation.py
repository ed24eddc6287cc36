"""The teacher of ``epanns finetune``: a checkpoint that is named, or the unpruned network beside the pruned one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from epanns.cli.options import EXISTING, log
from epanns.errors import ConfigError
from epanns.training.config import TEACHER_WEIGHTS, TrainingConfig

if TYPE_CHECKING:
    from epanns.models.tagger import Tagger

WEIGHT = 0.5  # of the scores of a teacher that is named without any weight


def teacher_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--teacher``."""
    return click.option(
        "--teacher",
        type=EXISTING,
        help=f"Checkpoint to learn from beside the labels; without a weight, --distil-weight is {WEIGHT:g}.  [default, "
        "with a weight: CKPT's unpruned network, if it lies beside it]",
    )(function)


def with_weight(config: TrainingConfig, teacher: Path | None) -> TrainingConfig:
    """Return the settings with the weight that a teacher has by being named."""
    if teacher is not None and not any(_is_given(name) for name in TEACHER_WEIGHTS):
        return replace(config, distil_weight=WEIGHT)
    return config


def open_teacher(checkpoint: Path, teacher: Path | None, config: TrainingConfig) -> "Tagger | None":
    """Return the network that teaches, if one shall.

    Args:
        checkpoint: The student's.
        teacher: What ``--teacher`` names.
        config: What the other options say, as `with_weight` returns it.

    Raises:
        ConfigError: If a weight asks for a teacher, and none is named or found, or nobody listens to the one named.
        CheckpointError: If the teacher cannot be read.
    """
    from epanns.models.ancestry import find_unpruned
    from epanns.models.checkpoint import load
    from epanns.training.teacher import refuse_precision_of_nobody, require_listener

    weights = config.teacher_weights
    if teacher is None and not weights:
        refuse_precision_of_nobody(config)
        return None
    require_listener(config)
    if teacher is None:
        teacher = find_unpruned(checkpoint)
    if teacher is None:
        raise ConfigError(
            f"{' and '.join(weights)} without a teacher: {checkpoint} has no unpruned network in {checkpoint.parent}; "
            "give --teacher CKPT"
        )
    network = load(teacher)
    told = ", ".join(f"{name.replace('_', ' ')} {weight:g}" for name, weight in weights.items())
    log(f"teacher: {teacher} ({network.spec.name}, sha256 {str(network.provenance.sha256)[:12]}), {told}")
    return network


def _is_given(setting: str) -> bool:
    """Tell whether a person chose a setting, on the command line, in the environment or in a file."""
    return click.get_current_context().get_parameter_source(setting) is not ParameterSource.DEFAULT
