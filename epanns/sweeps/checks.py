"""Check every trial of an experiment before training, on networks without weights."""

import copy
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from epanns.data.batches.compatibility import in_the_models_order, refuse_leak, require_same_task
from epanns.data.batches.dataset import PackDataset
from epanns.errors import ConfigError
from epanns.evaluation.class_map import ClassMap
from epanns.labels import LabelSet
from epanns.models.provenance import Provenance
from epanns.models.tagger import Tagger
from epanns.models.warm_start import stays_frozen
from epanns.models.zoo import build_model
from epanns.pruning.iterative_pruning import widths_by_step
from epanns.pruning.prune import widths_after
from epanns.pruning.ranking.criteria import NEEDS
from epanns.pruning.ranking.importance import channel_importance
from epanns.pruning.recovery.mixed_crops import MOST_HELD_BYTES
from epanns.pruning.recovery.recover import parts_of
from epanns.stages.finetune import require_trainable
from epanns.strict import error_messages
from epanns.sweeps.base import BaseConfig, GivenNetwork, network_without_weights
from epanns.sweeps.experiment import Experiment, pruning_of
from epanns.sweeps.journal import amount_in_words
from epanns.training.config import TrainingConfig, frozen_in
from epanns.training.loop import Log, no_log
from epanns.training.validation import indistinct, require_positives

_SAMPLE_BYTES = 2  # of a clip that is held in 16 bit
_FEWEST_CLIPS = 2  # that a criterion or a least-squares fit can be measured on


@dataclass(frozen=True)
class DataFacts:
    """Facts about the data that decide whether a trial can run.

    Attributes:
        train_clips: Number of training clips; before packing, the largest possible number.
        packs: The packs of each part; None before packing.
    """

    labels: LabelSet
    train_clips: int
    packs: Mapping[str, PackDataset] | None = None


def refuse_impossible(
    experiment: Experiment, given: Mapping[str, GivenNetwork], facts: DataFacts, *, log: Log = no_log
) -> None:
    """Raise `ConfigError` if a trial of the experiment cannot run.

    Sample rates, layers, ratios, budgets, criteria, recoveries, numbers of clips and settings of the training are
    checked for every base and every cell of the grids; with packs also classes, tasks and clips that two parts share.
    Validation clips that cannot distinguish steps are logged.
    """
    problems: dict[str, None] = {}
    if facts.packs is not None:
        for part in ("val", "test"):
            problems |= _problem_of(partial(refuse_leak, facts.packs["train"], facts.packs[part], part=part))
    for number, base in enumerate(experiment.bases, start=1):
        where = f"[base {number}] {base.in_words}"
        checks = _BaseChecks(experiment, base, given, facts, log)
        problems |= dict.fromkeys(f"{where}: {problem}" for problem in checks.problems())
    if problems:
        raise ConfigError("; ".join(problems))


class _BaseChecks:
    """The checks of one base and of the trials that prune it."""

    def __init__(
        self,
        experiment: Experiment,
        base: BaseConfig,
        given: Mapping[str, GivenNetwork],
        facts: DataFacts,
        log: Log,
    ) -> None:
        self.experiment, self.base, self.given, self.facts, self.log = experiment, base, given, facts, log
        self._known: dict[str, list[str]] = {}  # problems of settings that several trials share

    def problems(self) -> Iterator[str]:
        """Yield one line for every problem."""
        dense = network_without_weights(self.base, self.facts.labels, self.given)
        data = self.experiment.data
        rate = dense.spec.front_end.sample_rate
        if rate != data.sample_rate:
            yield f"reads {rate} Hz, [data] has sample_rate={data.sample_rate}"
            return
        if not self.base.checkpoint:
            training = TrainingConfig.from_dict(self.base.training_with())
            if problems := [*self._training_problems(dense, training)]:
                yield from problems
                return
            dense.provenance = Provenance().with_operation("train", training=training.to_dict())
        elif self.facts.packs is not None:
            yield from _problem_of(partial(self._require_task, dense))
        if not self.base.prune:
            return
        seeds, finetunes = self.experiment.seeds, self.experiment.finetunes
        for config in (
            each for grid in self.experiment.grids for each in grid.configs((grid.seeds or seeds)[0], finetunes)
        ):
            yield from self._pruning_problems(dense, config)
            if "finetune" in config:
                # Only the distance of embeddings depends on the widths of the student.
                amount = _amount_of(config) if "feature_weight" in config["finetune"] else None
                settings = [config["finetune"], config.get("teacher"), amount]
                yield from self._once(settings, partial(self._finetuning_problems, dense, config))

    def _finetuning_problems(self, dense: Tagger, config: Mapping[str, Any]) -> Iterator[str]:
        asked = config["finetune"].get("freeze_yamnet")
        training = TrainingConfig.from_dict(config["finetune"])
        training = frozen_in(training, asked, by_default=stays_frozen(dense.provenance))
        teacher, student = (dense if config.get("teacher") else None), copy.deepcopy(dense)
        if training.feature_weight and config.get("ratio") != 0:
            if error_messages(lambda: widths_after(dense, pruning_of(config))):
                return  # reported as a problem of the pruning
            with torch.device("meta"):
                widths = widths_after(dense, pruning_of(config))
                student = build_model(dense.spec.with_widths(widths), labels=dense.labels)
        yield from (f"fine-tuning: {each}" for each in self._training_problems(student, training, teacher))

    def _once(self, settings: Any, check: Callable[[], Iterable[str]]) -> list[str]:
        """Return the problems that a check yields; trials with the same `settings` share one check."""
        key = json.dumps(settings)
        if key not in self._known:
            self._known[key] = [*check()]
        return self._known[key]

    def _pruning_problems(self, dense: Tagger, config: Mapping[str, Any]) -> Iterator[str]:
        if config.get("ratio") == 0:
            return
        what, criterion = amount_in_words(config), config["criterion"]
        steps = config.get("steps", 1)

        def divide() -> None:
            widths_by_step(dense.spec.widths, widths_after(dense, pruning_of(config)), steps)

        found = self._once([*_amount_of(config), steps], lambda: _problem_of(divide))
        yield from (f"{what}: {problem}" for problem in found)
        if criterion == "bn" and not found:
            layers = tuple(widths_after(dense, pruning_of(config)))

            def rank() -> None:  # which fails where a layer has no batch norm with a scale
                with torch.random.fork_rng(devices=[]):
                    channel_importance(build_model(dense.spec), layers, criterion="bn")

            yield from self._once(["bn", layers], lambda: _problem_of(rank))
        yield from self._recovery_problems(config)

    def _recovery_problems(self, config: Mapping[str, Any]) -> Iterator[str]:
        recovery, criterion = config["recover"], config["criterion"]
        parts = parts_of(recovery)
        path = self.base.checkpoint or self.base.yamnet
        folded = self.given[path].folded if path else ""
        if "bn" in parts and folded:
            yield f"recover={recovery!r}: {folded}"
        clips, there = config.get("calibration_clips", 0), self.facts.train_clips
        if clips > there:
            yield f"calibration_clips={clips}: the training part has {there} clips; give at most as many in the [grid]"
        if clips < _FEWEST_CLIPS and (set(parts) - {"bn"} or NEEDS.get(criterion, "weights") != "weights"):
            yield f"calibration_clips={clips}: {criterion} and {recovery} need at least {_FEWEST_CLIPS}"
        held = clips * round(self.experiment.data.seconds * self.experiment.data.sample_rate) * _SAMPLE_BYTES
        if {"align", "distil"} & set(parts) and held > MOST_HELD_BYTES:
            yield f"calibration_clips={clips}: {recovery} keeps its clips, more than 1 GiB in 16 bit; give fewer"

    def _training_problems(
        self, model: Tagger, training: TrainingConfig, teacher: Tagger | None = None
    ) -> Iterator[str]:
        """Yield the reason why a training cannot begin; `model` has the training's task afterwards."""

        def begin() -> None:
            require_trainable(model, training, teacher)
            if self.facts.packs is not None:
                self._require_task(model)
                require_positives(self.facts.packs["val"])
                if remark := indistinct(self.facts.packs["val"], model.spec.task):
                    self.log(remark)

        yield from _problem_of(begin)

    def _require_task(self, model: Tagger) -> None:
        assert self.facts.packs is not None
        if self.experiment.data.class_map:
            class_map = ClassMap.from_csv(Path(self.experiment.data.class_map))
            for part in ("val", "test"):
                class_map.between(model.labels, self.facts.packs[part].labels)
            return
        for pack in self.facts.packs.values():
            require_same_task(model, in_the_models_order(model, pack))


def _amount_of(config: Mapping[str, Any]) -> list[Any]:
    return [config.get(key) for key in ("budget", "ratios", "ratio", "layers")]


def _problem_of(check: Callable[[], object]) -> dict[str, None]:
    """Return the message of the error that a check raises, if any, as a key."""
    return dict.fromkeys(error_messages(check))
