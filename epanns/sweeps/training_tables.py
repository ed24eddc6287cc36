"""The tables of an experiment that say how its networks are trained."""

from collections.abc import Mapping
from typing import Any

from epanns.errors import ConfigError
from epanns.strict import shown
from epanns.training.config import TEACHER_WEIGHTS, TrainingConfig, frozen_in
from epanns.training.distillation import require_teacher_weight
from epanns.training.presets import read_training

TEACHER = "dense"  # the trial's unpruned network


def base_training(table: Mapping[str, Any], *, seed: int | None = None, on_yamnet: bool = False) -> dict[str, Any]:
    """Return how a base is trained, as JSON values; without a seed the table is only checked.

    Args:
        table: Keys of `TrainingConfig` and ``preset``.
        seed: The base's.
        on_yamnet: Whether it is built on the body of a YAMNet, which then stays frozen unless the table says otherwise.

    Raises:
        ConfigError: If a key is unknown, a value is wrong, or the table gives a seed, wants a teacher, or freezes the
            body of a YAMNet that nobody trained.
    """
    training = frozen_in(_training_of(table, seed), table.get("freeze_yamnet"), by_default=on_yamnet)
    if training.freeze_yamnet and not on_yamnet:
        raise ConfigError("freeze_yamnet without yamnet: a body of random weights would stay as it is; give yamnet")
    for name, weight in training.teacher_weights.items():
        raise ConfigError(f"{name}={weight}: a base has no teacher; distil in [[finetune]]")
    return training.to_dict()


def finetuning(table: Mapping[str, Any], *, seed: int | None = None) -> dict[str, Any]:
    """Return the entries ``finetune`` and, where one teaches, ``teacher`` of a trial's configuration.

    Args:
        table: Keys of `TrainingConfig`, ``preset``, and ``teacher = "dense"``, the trial's unpruned network.
        seed: The trial's; without one the table is only checked.

    Raises:
        ConfigError: If a key is unknown or a value is wrong, the table gives a seed, or teacher and weights do not go
            together.
    """
    if not isinstance(table, Mapping):
        raise ConfigError(f"{shown(table)}: must be a table")
    teacher = table.get("teacher")
    training = _training_of({key: value for key, value in table.items() if key != "teacher"}, seed)
    if "teacher" in table and teacher != TEACHER:
        raise ConfigError(f"teacher={shown(teacher)}: must be {TEACHER!r}, the trial's unpruned network")
    if teacher:
        require_teacher_weight(training)
    elif training.teacher_weights:
        raise ConfigError(f"{' and '.join(TEACHER_WEIGHTS)} need a teacher: give teacher = {TEACHER!r}")
    settings = training.to_dict()
    if table.get("freeze_yamnet") is False:  # not the default where the body was frozen before
        settings["freeze_yamnet"] = False
    return {"finetune": settings, **({"teacher": teacher} if teacher else {})}


def _training_of(table: Mapping[str, Any], seed: int | None) -> TrainingConfig:
    if "seed" in table:
        raise ConfigError("seed does not go into a training table: list seeds = [...] at the top")
    return read_training(table if seed is None else {**table, "seed": seed})
