"""The work of a trial in multiply-adds, from its configuration, to estimate its time."""

from collections.abc import Mapping
from typing import Any

from epanns.pruning.recovery.recover import parts_of
from epanns.training.config import TrainingConfig

RULE_MACS_PER_SECOND = 2e10
"""Multiply-adds per second of one core: about half of what Cnn14 reaches, since small networks reach less."""

_TRAINED = 3  # a forward and a backward pass, in forward passes
_DESCENT_BATCH = 24  # clips of a gradient step of a recovery


def macs_of_trial(config: Mapping[str, Any], dense: float, pruned: float, clips: Mapping[str, int]) -> float:
    """Return the multiply-adds of a trial, approximately.

    Clips that are trained on count three times, clips that are scored or measured once; decoding, ranking and the
    solutions of least squares are left out.

    Args:
        config: The trial's configuration.
        dense: Multiply-adds of the unpruned network for one clip.
        pruned: Multiply-adds of the trial's network for one clip.
        clips: Number of clips of each part of the data.
    """
    scored = clips["val"] + clips["test"]
    if config["kind"] == "base":
        return scored * dense + _training(config.get("training"), dense, 0.0, clips)
    macs = scored * dense
    if config.get("ratio") != 0:
        parts = parts_of(config["recover"])
        macs += scored * pruned * (2 if parts else 1)
        macs += config.get("calibration_clips", 0) * (dense + pruned) * max(1, len(parts))
        if {"align", "distil"} & set(parts):
            macs += int(config["recover"].rpartition(":")[2]) * _DESCENT_BATCH * (dense + _TRAINED * pruned)
    if "finetune" in config:
        macs += scored * pruned + _training(config["finetune"], pruned, dense if "teacher" in config else 0.0, clips)
    return macs


def _training(settings: Mapping[str, Any] | None, macs: float, teacher: float, clips: Mapping[str, int]) -> float:
    if settings is None:
        return 0.0
    training = TrainingConfig.from_dict(settings)
    steps = training.iterations * training.batch_size * training.accumulate
    validations = 1 + -(-training.iterations // training.validate_every)
    return steps * (_TRAINED * macs + teacher) + validations * clips["val"] * macs
