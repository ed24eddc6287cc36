"""The tables of an experiment that say how its networks are trained."""

from collections.abc import Mapping
from typing import Any

from epanns.errors import ConfigError
from epanns.training.presets import read_training

TEACHER = "dense"  # the trial's unpruned network

_WEIGHTS = ("distil_weight", "feature_weight")


def base_training(table: Mapping[str, Any], *, seed: int | None = None) -> dict[str, Any]:
    """Return how a base is trained, as JSON values; without a seed the table is only checked.

    Raises:
        ConfigError: If a key is unknown, a value is wrong, or the table gives a seed or wants a teacher.
    """
    training = _training_of(table, seed)
    for name in _WEIGHTS:
        if training.get(name):
            raise ConfigError(f"{name}={training[name]}: a base has no teacher; distil in [[finetune]]")
    return training


def finetuning(table: Mapping[str, Any], *, seed: int | None = None) -> dict[str, Any]:
    """Return the entries ``finetune`` and, where one teaches, ``teacher`` of a trial's configuration.

    Args:
        table: Keys of `TrainingConfig`, ``preset``, and ``teacher = "dense"``, the trial's unpruned network.
        seed: The trial's; without one the table is only checked.

    Raises:
        ConfigError: If a key is unknown or a value is wrong, the table gives a seed, or teacher and weights do not go
            together.
    """
    teacher = table.get("teacher")
    training = _training_of({key: value for key, value in table.items() if key != "teacher"}, seed)
    if "teacher" in table and teacher != TEACHER:
        raise ConfigError(f"teacher={teacher!r}: must be {TEACHER!r}, the trial's unpruned network")
    listens = any(training.get(name) for name in _WEIGHTS)
    if teacher and not listens:
        raise ConfigError(f"teacher={teacher!r} that nobody listens to: give distil_weight or feature_weight above 0")
    if listens and not teacher:
        raise ConfigError(f"{' and '.join(_WEIGHTS)} need a teacher: give teacher = {TEACHER!r}")
    return {"finetune": training, **({"teacher": teacher} if teacher else {})}


def _training_of(table: Mapping[str, Any], seed: int | None) -> dict[str, Any]:
    if "seed" in table:
        raise ConfigError("seed does not go into a training table: list seeds = [...] at the top")
    return read_training(table if seed is None else {**table, "seed": seed}).to_dict()
