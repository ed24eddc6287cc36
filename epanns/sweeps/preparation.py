"""Prepare a sweep: make the packs of its data, check every trial, and list the trials, fold by fold."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from epanns.data.batches.dataset import PackDataset
from epanns.data.manifest import Manifest
from epanns.feedback import note
from epanns.sweeps.base import read_given
from epanns.sweeps.checks import DataFacts, refuse_impossible
from epanns.sweeps.data import DataConfig, prepare_manifest, prepare_packs, replace_unused_data, require_splits
from epanns.sweeps.experiment import Experiment, Trial
from epanns.sweeps.folds import rotations
from epanns.sweeps.sweep_folder import Sweep
from epanns.training.loop import Log, no_log


@dataclass(frozen=True)
class Preparation:
    """The trials of an experiment, in a fixed order, and the packs of each.

    Attributes:
        packs: Trial id -> part of the data -> paths of its packs.
    """

    trials: tuple[Trial, ...]
    packs: Mapping[str, Mapping[str, list[str]]]


def prepare(sweep: Sweep, *, jobs: int = 1, log: Log = no_log) -> Preparation:
    """Make the packs that are missing and check every trial; call it under the sweep's lock.

    Args:
        sweep: The sweep.
        jobs: Number of processes that decode.
        log: Called with one line for each remark on the validation clips.

    Raises:
        ConfigError: If a network that is given as a file is missing or another one, the data set lacks a split, or a
            trial cannot run (`checks.refuse_impossible`).
        OutputError: If the folder holds packs of other data.
    """
    experiment, folder = sweep.experiment, sweep.path / "data"
    given = read_given(experiment.bases)
    if experiment.data.kind != "packs" and not sweep.has_results and replace_unused_data(experiment.data, folder):
        note(f"{folder}: was made for other settings of [data] and no trial is finished, so it is made again")
    manifest = prepare_manifest(experiment.data, folder)
    folds = folds_of(experiment, manifest)
    if manifest is not None:  # find mistakes before packing, which may take hours
        for fold in folds:
            refuse_impossible(fold, given, facts_before_packing(fold.data, manifest))
    trials: dict[str, Trial] = {}
    packs: dict[str, Mapping[str, list[str]]] = {}
    for fold, paths in zip(
        folds, prepare_packs([fold.data for fold in folds], manifest, folder, jobs=jobs), strict=True
    ):
        opened = open_parts(fold.data, paths)
        refuse_impossible(fold, given, DataFacts(opened["train"].labels, len(opened["train"]), opened), log=log)
        content = {part: dataset.content_digest for part, dataset in opened.items()}
        for trial in fold.trials(content, lambda path: given[path].digest):
            trials[trial.trial_id], packs[trial.trial_id] = trial, paths
    return Preparation(tuple(trials.values()), packs)


def folds_of(experiment: Experiment, manifest: Manifest | None) -> list[Experiment]:
    """Return one experiment for each fold; `experiment` alone where it has no folds.

    Raises:
        ConfigError: If the data set lacks a split or a fold.
    """
    if manifest is None:
        return [experiment]
    datas = rotations(experiment.data, manifest.splits, manifest.dataset)
    require_splits(datas, manifest)
    return [replace(experiment, data=data) for data in datas]


def facts_before_packing(data: DataConfig, manifest: Manifest) -> DataFacts:
    """Return the facts about data that are not packed yet."""
    return DataFacts(manifest.labels, sum(clip.split in data.train for clip in manifest.clips))


def open_parts(data: DataConfig, paths: Mapping[str, list[str]]) -> dict[str, PackDataset]:
    """Return the clips of each part."""
    return {
        part: PackDataset([Path(path) for path in found], sample_rate=data.sample_rate, seconds=data.seconds)
        for part, found in paths.items()
    }
