"""Run records to the rows of a report: seeds averaged, what must not be compared kept in blocks apart."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any, NamedTuple

from epanns.records import RunRecord
from epanns.reporting.settings import (
    SettledGroup,
    base_settings,
    budget_of,
    checkpoint_of,
    in_words,
    label_of,
    settings_of,
    told_apart,
)
from epanns.sweeps.networks import count_networks, network_at

UNPRUNED = "unpruned"
CONTROL = "unpruned, trained on"
REPORTED_SPLIT = "test"
PRUNED_STAGES = ("pruned", "recovered", "finetuned", "evaluated")


class Estimate(NamedTuple):
    """Mean over networks and sample standard deviation.

    Attributes:
        mean: Of the scores of the `n` networks.
        sd: None where there is one network, however often it was scored.
        n: Number of networks.
        n_seeds: Number of seeds under which they were scored.
    """

    mean: float
    sd: float | None
    n: int
    n_seeds: int


class BlockKey(NamedTuple):
    """What rows must share to be compared: scores of other data, or heard otherwise, go in another block."""

    dataset: str
    split: str
    protocol: str
    clip_seconds: float


@dataclass(frozen=True)
class Row:
    """One configuration, averaged over its seeds.

    Attributes:
        variant: `UNPRUNED`, `CONTROL` or the name of the criterion.
        layers: What was pruned, by module name.
        ratio: Fraction of channels removed; 0 for unpruned rows, None where it differs by layer.
        n_params: Mean over seeds, as are `param_bytes` and `backbone_macs`.
        param_reduction: Fraction of the unpruned network's parameters that is gone; `mac_reduction` likewise.
        mAP: Stage name -> estimate on the block's split.
        n_seeds: Number of networks: of one that was scored under several seeds it is 1.
        settings: What else tells this row from another that looks the same.
        accuracy: Like `mAP`, of the stages at which every seed has one: those of single-label networks.
        name: Label that a person gave the network; empty where there is none.
        budget: What the network was cut to, such as ``macs 0.25``; None where it was cut by ratios.
        untrained: Stages at which training kept the weights from before it -> in how many of the runs.
    """

    experiment: str
    model: str
    width: float
    variant: str
    layers: tuple[str, ...]
    ratio: float | None
    recover: str
    finetune_iterations: int
    n_params: float
    param_bytes: float
    backbone_macs: float
    param_reduction: float
    mac_reduction: float
    mAP: Mapping[str, Estimate]  # noqa: N815
    n_seeds: int
    settings: tuple[str, ...] = ()
    accuracy: Mapping[str, Estimate] = field(default_factory=dict)
    name: str = ""
    budget: str | None = None
    untrained: Mapping[str, int] = field(default_factory=dict)

    @property
    def has_accuracy(self) -> bool:
        """Whether there is an accuracy beside every mAP."""
        return bool(self.accuracy) and self.accuracy.keys() == self.mAP.keys()

    @property
    def is_pruned(self) -> bool:
        """Whether channels were removed."""
        return self.variant not in (UNPRUNED, CONTROL)

    @property
    def network(self) -> str:
        """The network and, where it is not the published one, its width."""
        return self.model if self.width == 1 else f"{self.model} × {self.width:g}"


def rows_by_block(records: Iterable[RunRecord]) -> dict[BlockKey, list[Row]]:
    """Group records into blocks, and in each block into one row per configuration.

    Seeds of one row are runs whose whole configuration agrees but for seeds; checkpoints scored by themselves, if their
    recipes do. Where rows would look alike, the settings in which they differ are shown. The unpruned network's row
    holds every run's `dense` score, once per seed.
    """
    blocks: dict[BlockKey, list[RunRecord]] = {}
    for record in records:
        key = BlockKey(record.dataset, reported_split(record), record.protocol, record.clip_seconds)
        blocks.setdefault(key, []).append(record)
    found = {key: _rows(blocks[key], key.split) for key in sorted(blocks)}
    return {key: rows for key, rows in found.items() if rows}


def settings_in_words(row: Row) -> list[str]:
    """Return what tells a row from similar ones, in words; its budget stands in a column of its own."""
    return [in_words(setting) for setting in row.settings if not (row.budget and setting.startswith("budget="))]


def is_shown(record: RunRecord) -> bool:
    """Return whether a record is in a row; one without pruning needs a score of its network."""
    return record.criterion is not None or any(record.stage(name) for name in ("dense", "finetuned", "evaluated"))


def reported_split(record: RunRecord) -> str:
    """Return ``test`` where the run has test scores, else the split it was scored on last."""
    splits = [split for stage in record.stages for split in stage.scores]
    return REPORTED_SPLIT if REPORTED_SPLIT in splits or not splits else splits[-1]


def _rows(records: Sequence[RunRecord], split: str) -> list[Row]:
    dense = [record for record in records if record.stage("dense") is not None]
    trained_on = [record for record in records if record.criterion is None and record.stage("finetuned") is not None]
    evaluated = [record for record in records if record.criterion is None and record.stage("evaluated") is not None]
    pruned = [record for record in records if record.criterion is not None]
    rows = [
        _row(members, split, UNPRUNED, ("dense",), settings)
        for group in _grouped(dense, _network_identity).values()
        for members, settings in told_apart(group, base_settings)
    ]
    rows += [_row(group, split, CONTROL, ("finetuned",), settings) for group, settings in _seed_groups(trained_on)]
    rows += [_row(group, split, UNPRUNED, ("evaluated",), settings) for group, settings in _seed_groups(evaluated)]
    rows += [
        _row(group, split, str(group[0].criterion), PRUNED_STAGES, settings) for group, settings in _seed_groups(pruned)
    ]
    return sorted(rows, key=_order)


def _network_identity(record: RunRecord) -> tuple[Any, ...]:
    return (record.experiment, label_of(record), record.model, record.width, record.cost_before["n_params"])


def _identity(record: RunRecord) -> tuple[Any, ...]:
    pruning = (record.criterion, record.layers, record.ratio, record.recover, record.finetune_iterations)
    return (*_network_identity(record), *pruning)


def _grouped(
    records: Iterable[RunRecord], key: Callable[[RunRecord], tuple[Any, ...]]
) -> dict[tuple[Any, ...], list[RunRecord]]:
    groups: dict[tuple[Any, ...], list[RunRecord]] = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    return groups


def _seed_groups(records: Iterable[RunRecord]) -> list[SettledGroup]:
    """Return records that differ in their seed only, each group with what tells it from others that look the same."""
    groups: list[SettledGroup] = []
    for alike in _grouped(records, _identity).values():
        for group, settings in told_apart(alike, settings_of):
            # Checkpoints of several seeds are one row; several of one seed, of which no more is known, are not.
            repeats_a_seed = len({record.seed for record in group}) < len(group)
            parts = told_apart(group, checkpoint_of) if repeats_a_seed else [(group, ())]
            groups += [(members, (*settings, *more)) for members, more in parts]
    return groups


def _row(group: Sequence[RunRecord], split: str, variant: str, stages: Sequence[str], settings: tuple[str, ...]) -> Row:
    first = group[0]
    is_pruned = variant not in (UNPRUNED, CONTROL)
    cost, before = (
        {name: fmean(cost[name] for cost in costs) for name in ("n_params", "param_bytes", "backbone_macs")}
        for costs in (
            [record.cost_after if is_pruned else record.cost_before for record in group],
            [record.cost_before for record in group],
        )
    )
    estimates = {
        score: {stage: found for stage in stages if (found := _estimate(group, stage, split, score)) is not None}
        for score in ("mAP", "accuracy")
    }
    return Row(
        experiment=first.experiment,
        model=first.model,
        width=first.width,
        variant=variant,
        layers=first.layers if is_pruned else (),
        ratio=first.ratio if is_pruned else 0.0,
        recover=first.recover if is_pruned else "none",
        finetune_iterations=0 if variant == UNPRUNED else first.finetune_iterations,
        **cost,
        param_reduction=1 - cost["n_params"] / before["n_params"],
        mac_reduction=1 - cost["backbone_macs"] / before["backbone_macs"],
        mAP=estimates["mAP"],
        accuracy={
            stage: found for stage, found in estimates["accuracy"].items() if found.n == estimates["mAP"][stage].n
        },
        n_seeds=max((found.n for found in estimates["mAP"].values()), default=count_networks(group)),
        settings=settings,
        name=label_of(first),
        budget=budget_of(first) if is_pruned and first.ratio is None else None,
        untrained={
            found.name: count
            for found in (stage for stage in first.stages if stage.name in stages)
            if (count := sum(_kept_step_0(record, found.name) for record in group))
        },
    )


def _estimate(group: Iterable[RunRecord], stage_name: str, split: str, score_name: str) -> Estimate | None:
    """Average a stage's score over networks; a network that was scored under several seeds counts once."""
    by_network: dict[str, list[float]] = {}
    seeds = set()
    for record in group:
        stage = record.stage(stage_name)
        score = None if stage is None else stage.scores.get(split, {}).get(score_name)
        if score is not None:
            by_network.setdefault(network_at(record, stage_name), []).append(score)
            seeds.add(record.seed)
    values = [fmean(values) for values in by_network.values()]
    if not values:
        return None
    return Estimate(fmean(values), stdev(values) if len(values) > 1 else None, len(values), len(seeds))


def _kept_step_0(record: RunRecord, stage_name: str) -> bool:
    """Return whether the training of a stage kept the weights from before it."""
    stage = record.stage(stage_name)
    return stage is not None and stage.best_step == 0


def _order(row: Row) -> tuple[Any, ...]:
    variants = (UNPRUNED, CONTROL)
    rank = variants.index(row.variant) if row.variant in variants else len(variants)
    ratio = -1.0 if row.ratio is None else row.ratio
    network = (row.experiment, row.model, -row.width, row.name)
    return (*network, rank, row.variant, row.layers, row.recover, row.finetune_iterations, ratio, row.settings)
