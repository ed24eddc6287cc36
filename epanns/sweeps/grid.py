"""A grid of an experiment: what is varied, and the trials that this makes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from epanns.errors import ConfigError
from epanns.pruning.ranking.criteria import NEEDS
from epanns.pruning.recovery.names import RECOVERIES, recovery_problem
from epanns.pruning.recovery.recover import RecoverySettings
from epanns.sweeps.amount import Amount, asked_of, is_budget, is_ratio, is_ratios
from epanns.sweeps.strict_toml import all_of, is_count, is_text
from epanns.sweeps.training_tables import finetuning


@dataclass(frozen=True)
class GridConfig:
    """What is varied; every combination is a trial. An experiment may have several, as ``[[grid]]``.

    Attributes:
        ratio: Fractions of channels removed; 0 leaves the network whole and, with fine-tuning, is the control.
        ratios: Beside or instead, tables of a ratio for each layer or block; `layers` do not count there.
        budget: Beside or instead, what the network may cost, such as ``macs 0.25``, shared out over the layers alike.
        criterion: Importance rules.
        layers: Lists of layers or blocks.
        recover: Recoveries without labels before fine-tuning.
        calibration_clips: Training clips for recovery and criteria that measure clips; unlabelled but for ``taylor``.
        recovery: Settings of the recoveries where they are not the usual ones; keys of `RecoverySettings`.
        finetune: How the networks of this grid are fine-tuned, in place of the experiment's ``[[finetune]]``.
        seeds: Those of the experiment's that this grid is run with; all by default.
    """

    ratio: tuple[float, ...] = ()
    ratios: tuple[Mapping[str, float], ...] = ()
    budget: tuple[str, ...] = ()
    criterion: tuple[str, ...] = ("l1",)
    layers: tuple[list[str], ...] = (["conv_block4", "conv_block5", "conv_block6"],)
    recover: tuple[str, ...] = ("none",)
    calibration_clips: int = 400
    recovery: Mapping[str, Any] = field(default_factory=dict)
    finetune: tuple[Mapping[str, Any], ...] = ()
    seeds: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        rules = {
            f"ratio={self.ratio!r}: must list numbers in [0, 1)": all_of(self.ratio, is_ratio)
            or (self.ratio == () and bool(self.ratios or self.budget)),
            f"ratios={self.ratios!r}: must list tables of numbers in [0, 1)": all(map(is_ratios, self.ratios)),
            f"budget={self.budget!r}: must list kind and amount, such as 'macs 0.25' or 'params 1M'": all(
                map(is_budget, self.budget)
            ),
            f"criterion={self.criterion!r}: must list names": all_of(self.criterion, is_text),
            f"layers={self.layers!r}: must list lists of layers or blocks": all_of(
                self.layers, lambda layers: all_of(layers, is_text)
            ),
            f"recover={self.recover!r}: must list some of {', '.join(RECOVERIES)}, distil:STEPS": all_of(
                self.recover, lambda method: recovery_problem(method) is None
            ),
            f"calibration_clips={self.calibration_clips!r}: must be a whole number > 0": is_count(
                self.calibration_clips
            )
            and self.calibration_clips > 0,
            f"seeds={self.seeds!r}: must list whole numbers >= 0": self.seeds == () or all_of(self.seeds, is_count),
        }
        RecoverySettings.from_dict(self.recovery)
        for table in self.finetune:
            finetuning(table)
        if problems := [problem for problem, holds in rules.items() if not holds]:
            raise ConfigError("; ".join(problems))

    @property
    def amounts(self) -> tuple[Amount, ...]:
        """How much is removed, in each way it is said."""
        return (*self.ratio, *self.ratios, *self.budget)

    def configs(self, seed: int, finetunes: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield what tells each trial of this grid from those of other grids, bases and seeds, as JSON values.

        Args:
            seed: One of the experiment's.
            finetunes: The experiment's ``[[finetune]]`` tables.
        """
        if self.seeds and seed not in self.seeds:
            return
        for finetune in self.finetune or finetunes or ({},):
            trained = finetuning(finetune, seed=seed) if finetune else {}
            for criterion, layers, recover, amount in product(self.criterion, self.layers, self.recover, self.amounts):
                if amount != 0:
                    yield {**self._pruning(criterion, layers, recover, amount), **trained}
                elif trained:  # of the control only the fine-tuning counts, so that it is run once
                    yield {"ratio": 0.0, **trained}

    def _pruning(self, criterion: str, layers: list[str], recover: str, amount: Amount) -> dict[str, Any]:
        config: dict[str, Any] = {**asked_of(amount, layers), "criterion": criterion, "recover": recover}
        if recover != "none" or NEEDS.get(criterion, "weights") != "weights":
            config["calibration_clips"] = self.calibration_clips
            if self.recovery:
                config["recovery"] = dict(self.recovery)
        return config
