"""The trials of an experiment without running them: their names, costs and time (``epanns sweep --dry-run``)."""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from epanns.complexity.macs import ModelCost, profile
from epanns.data.batches.dataset import PackDataset
from epanns.data.datasets.synthetic import labels_and_splits
from epanns.data.manifest import Manifest
from epanns.data.packs.pack_format import PACK_FILE
from epanns.labels import LabelSet
from epanns.models.tagger import Tagger
from epanns.pruning.prune import widths_after
from epanns.sweeps.base import BaseConfig, network_without_weights, read_given
from epanns.sweeps.checks import DataFacts, refuse_impossible
from epanns.sweeps.data import PARTS, DataConfig, pack_paths, prepare_manifest
from epanns.sweeps.experiment import Experiment, Trial, pruning_of
from epanns.sweeps.journal import TrialFolder, treatment_in_words
from epanns.sweeps.preparation import folds_of, open_parts
from epanns.sweeps.shard import Shard
from epanns.sweeps.work import RULE_MACS_PER_SECOND, macs_of_trial


@dataclass(frozen=True)
class PlannedTrial:
    """A trial of an experiment.

    Attributes:
        trial_id: None where the data are not packed yet, whose clips are part of it.
        base: Name of the unpruned network.
        what: Criterion, amount, recovery and fine-tuning.
        fold: Tested fold; 0 without folds.
        n_params: Number of parameters of the trial's network.
        backbone_macs: Multiply-adds for one clip, without the front end.
        work_macs: Multiply-adds of the whole trial, approximately (`work.macs_of_trial`).
        state: ``done``, ``failed`` or ``to run``.
        seconds: Time of a trial that is done; else the estimate.
    """

    trial_id: str | None
    base: str
    what: str
    seed: int
    fold: int
    n_params: int
    backbone_macs: int
    work_macs: float
    state: str
    seconds: float


@dataclass(frozen=True)
class Outline:
    """The trials of an experiment and an estimate of their time.

    Attributes:
        trials: In the order of the run.
        rule: How the time was estimated, in words.
        seconds: Time of the trials that are to run, one after the other.
    """

    trials: tuple[PlannedTrial, ...]
    rule: str
    seconds: float


def outline(experiment: Experiment, out: Path | None, *, shard: Shard | None = None) -> Outline:
    """Return the trials of an experiment without writing a file; the experiment is checked as before a run.

    Args:
        experiment: The experiment.
        out: Folder of the sweep, whose packs and finished trials are read; None for none.
        shard: The part of the trials; all by default.

    Raises:
        ConfigError: As in `preparation.prepare`.
    """
    given = read_given(experiment.bases)
    manifest = None if experiment.data.kind == "synthetic" else prepare_manifest(experiment.data, Path())
    planned: dict[str, tuple[Trial, PlannedTrial]] = {}
    for fold in folds_of(experiment, manifest):
        packs = _packs_of(fold.data, out)
        labels, clips = _labels_and_clips(fold.data, packs, manifest)
        refuse_impossible(fold, given, DataFacts(labels, clips["train"], packs))
        for base in fold.bases:
            content = {} if packs is None else {part: dataset.content_digest for part, dataset in packs.items()}
            trials = replace(fold, bases=(base,)).trials(content, lambda path: given[path].digest)
            costs = _Costs(network_without_weights(base, labels, given), _input_seconds(fold))
            for trial in trials:
                folder = None if out is None or packs is None else TrialFolder(out / "trials" / trial.trial_id)
                cell = _planned(trial, base, folder, costs, clips)
                planned[trial.trial_id] = trial, cell if content else replace(cell, trial_id=None)
    wanted = [trial for trial, _ in planned.values()]
    if shard is not None:
        wanted = list(shard.trials_of(wanted))
    return _timed([planned[trial.trial_id][1] for trial in wanted])


def _packs_of(data: DataConfig, out: Path | None) -> dict[str, PackDataset] | None:
    """Return the clips of each part; None before all of them are packed."""
    folder = Path() if out is None else out / "data"
    paths = {part: pack_paths(data, part, folder) for part in PARTS}
    is_packed = data.kind == "packs" or (
        out is not None and all((Path(path) / PACK_FILE).is_file() for found in paths.values() for path in found)
    )
    return open_parts(data, paths) if is_packed else None


def _labels_and_clips(
    data: DataConfig, packs: Mapping[str, PackDataset] | None, manifest: Manifest | None
) -> tuple[LabelSet, dict[str, int]]:
    """Return the classes, and the number of clips of each part."""
    if packs is not None:
        return packs["train"].labels, {part: len(packs[part]) for part in PARTS}
    if manifest is None:
        labels, splits = labels_and_splits(data.generator())
    else:
        labels, splits = manifest.labels, dict(Counter(clip.split for clip in manifest.clips))
    return labels, {part: sum(splits.get(split, 0) for split in getattr(data, part)) for part in PARTS}


def _input_seconds(experiment: Experiment) -> float:
    """Return the length of the network's input, to which its multiply-adds belong."""
    return experiment.evaluation.window or experiment.data.seconds


class _Costs:
    """Parameters and multiply-adds of a base and of the networks that are pruned from it, from widths alone."""

    def __init__(self, dense: Tagger, seconds: float) -> None:
        self.dense, self._seconds = dense, seconds
        self._known: dict[str, ModelCost] = {}

    def of(self, config: Mapping[str, Any]) -> ModelCost:
        """Return the cost of the network of a trial, by its configuration."""
        is_pruned = config["kind"] != "base" and config.get("ratio") != 0
        amount = [config.get(key) for key in ("ratio", "ratios", "budget", "layers")] if is_pruned else None
        key = json.dumps(amount)
        if key not in self._known:
            spec = self.dense.spec
            if is_pruned:
                spec = spec.with_widths(widths_after(self.dense, pruning_of(config)))
            self._known[key] = profile(spec, seconds=self._seconds)
        return self._known[key]


def _planned(
    trial: Trial, base: BaseConfig, folder: TrialFolder | None, costs: _Costs, clips: Mapping[str, int]
) -> PlannedTrial:
    cost, dense = costs.of(trial.config), costs.of({"kind": "base"})
    macs_of_dense, macs = (each.backbone_macs + each.front_end_macs for each in (dense, cost))
    work = macs_of_trial(trial.config, macs_of_dense, macs, clips)
    is_done = folder is not None and folder.is_done
    return PlannedTrial(
        trial_id=trial.trial_id,
        base=base.in_words,
        what=treatment_in_words(trial.config),
        seed=trial.config["seed"],
        fold=trial.fold,
        n_params=cost.n_params,
        backbone_macs=cost.backbone_macs,
        work_macs=work,
        state="done" if is_done else "failed" if folder is not None and folder.has_failed else "to run",
        seconds=folder.read_record().seconds if folder is not None and is_done else 0.0,
    )


def _timed(trials: Sequence[PlannedTrial]) -> Outline:
    """Return the trials with the estimated time of those that are not done."""
    done = [trial for trial in trials if trial.state == "done" and trial.seconds > 0]
    if done:
        rate = sum(trial.work_macs for trial in done) / sum(trial.seconds for trial in done)
        rule = f"{rate / 1e9:.3g} G multiply-adds per second, as in the {len(done)} finished trials"
    else:
        cores = len(os.sched_getaffinity(0))
        rate = RULE_MACS_PER_SECOND * cores
        rule = f"a rule of thumb, {rate / 1e9:.3g} G multiply-adds per second on {cores} cores; no trial is finished"
    timed = tuple(
        trial if trial.state == "done" else replace(trial, seconds=trial.work_macs / rate) for trial in trials
    )
    return Outline(timed, rule, sum(trial.seconds for trial in timed if trial.state == "to run"))
