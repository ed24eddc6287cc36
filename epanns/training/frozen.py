"""Whether YAMNet's body learns, in networks that are built on it."""

from dataclasses import replace

from epanns.training.config import TrainingConfig


def frozen_in(config: TrainingConfig, asked: bool | None, *, by_default: bool) -> TrainingConfig:
    """Return the settings with YAMNet's body frozen where it is asked for or, where nothing is asked, by default.

    Args:
        config: The settings; with a frozen backbone nothing is frozen by default, since the body is part of it.
        asked: Whether to freeze it; None where nobody says.
        by_default: Whether it was frozen before, as `models.warm_start.stays_frozen` tells, or has just been taken.
    """
    return replace(config, freeze_yamnet=by_default and not config.freeze_backbone if asked is None else asked)
