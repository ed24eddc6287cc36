"""Folds of a data set: an experiment with ``folds`` is one experiment for each fold, which is tested on that fold.

Of the folds 1 to n, fold k is the test part, the fold after k (fold 1 after fold n) is the validation part, on which
the step is chosen, and the others are the training part. Nothing is chosen on the fold that is reported.
"""

import re
from collections.abc import Collection
from dataclasses import replace

from epanns.errors import ConfigError
from epanns.strict import shown
from epanns.sweeps.data import ROTATE, DataConfig

_FOLD = re.compile(r"fold([1-9][0-9]{0,8})")
_FEWEST = 3  # one to train on, one to choose on, one to test on


def rotations(data: DataConfig, splits: Collection[str], dataset: str) -> tuple[DataConfig, ...]:
    """Return the ``[data]`` of each fold of an experiment; `data` alone where it has no ``folds``.

    Args:
        data: The ``[data]`` table.
        splits: Names of the data set's splits, of which folds are ``fold1``, ``fold2``, ...
        dataset: Name of the data set in messages.

    Raises:
        ConfigError: If the data set has fewer than three folds, or lacks one of ``folds``.
    """
    if not data.folds:
        return (data,)
    known = sorted(int(found[1]) for split in splits if (found := _FOLD.fullmatch(split)))
    if len(known) < _FEWEST:
        raise ConfigError(
            f"[data] folds={shown(data.folds)}: {dataset} has the splits {', '.join(sorted(splits))}, must have at "
            "least three called fold1, fold2, ...: give train, val and test instead"
        )
    chosen = known if data.folds == ROTATE else [fold for fold in data.folds if isinstance(fold, int)]
    for fold in chosen:
        if fold not in known:
            raise ConfigError(f"[data] no fold {fold} in {dataset}: it has {', '.join(map(str, known))}")
    return tuple(_tested_on(data, fold, known) for fold in chosen)


def _tested_on(data: DataConfig, fold: int, known: list[int]) -> DataConfig:
    chosen_on = known[(known.index(fold) + 1) % len(known)]
    train = tuple(f"fold{other}" for other in known if other not in (fold, chosen_on))
    return replace(data, folds=(), fold=fold, train=train, val=(f"fold{chosen_on}",), test=(f"fold{fold}",))
