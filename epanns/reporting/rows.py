"""Run records to the rows of a report: seeds averaged, what must not be compared kept in blocks apart."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any, NamedTuple

from epanns.reporting.layer_names import short_layers
from epanns.sweeps.records import RunRecord

UNPRUNED = "unpruned"
CONTROL = "unpruned, trained on"
REPORTED_SPLIT = "test"
PRUNED_STAGES = ("pruned", "recovered", "finetuned", "evaluated")
_RATIOS = "ratios."
_DIGEST = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")  # a sha256: its first digits tell enough

# Records that differ in their seed only, and what tells them from others that look the same (``name=value``).
SettledGroup = tuple[list[RunRecord], tuple[str, ...]]


class Estimate(NamedTuple):
    """Mean over seeds and sample standard deviation; `sd` is None where there is one seed."""

    mean: float
    sd: float | None
    n: int


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
        settings: What else tells this row from another that looks the same.
        accuracy: Like `mAP`, of the stages at which every seed has one: those of single-label networks.
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
    return {key: _rows(blocks[key], key.split) for key in sorted(blocks)}


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
        for members, settings in _told_apart(group, _base_settings)
    ]
    rows += [_row(group, split, CONTROL, ("finetuned",), settings) for group, settings in _seed_groups(trained_on)]
    rows += [_row(group, split, UNPRUNED, ("evaluated",), settings) for group, settings in _seed_groups(evaluated)]
    rows += [
        _row(group, split, str(group[0].criterion), PRUNED_STAGES, settings) for group, settings in _seed_groups(pruned)
    ]
    return sorted(rows, key=_order)


def _network_identity(record: RunRecord) -> tuple[Any, ...]:
    return (record.experiment, record.model, record.width, record.cost_before["n_params"])


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
        for group, settings in _told_apart(alike, _settings):
            # Checkpoints of several seeds are one row; several of one seed, of which no more is known, are not.
            repeats_a_seed = len({record.seed for record in group}) < len(group)
            parts = _told_apart(group, _checkpoint) if repeats_a_seed else [(group, ())]
            groups += [(members, (*settings, *more)) for members, more in parts]
    return groups


def _told_apart(records: Sequence[RunRecord], settings_of: Callable[[RunRecord], dict[str, str]]) -> list[SettledGroup]:
    """Split records by every setting in which they differ; one group without settings where they agree.

    A setting that a record does not have is not told of it.
    """
    settings = {record.trial_id: settings_of(record) for record in records}
    names = sorted(set().union(*settings.values()))
    differing = [name for name in names if len({given.get(name) for given in settings.values()}) > 1]

    def differences(record: RunRecord) -> tuple[str, ...]:
        given = settings[record.trial_id]
        return tuple(f"{name}={given[name]}" for name in differing if name in given)

    groups = _grouped(records, differences).items()
    return [(members, _ratios_joined(_DIGEST.sub(r"\1", value) for value in values)) for values, members in groups]


def _ratios_joined(settings: Iterable[str]) -> tuple[str, ...]:
    """Tell ratios by layer as one setting, ``ratios=0.35 of blocks 1–3, 0.75 of blocks 4–6``."""
    layers: dict[str, list[str]] = {}
    others = []
    for setting in settings:
        name, _, value = setting.partition("=")
        if name.startswith(_RATIOS):
            layers.setdefault(value, []).append(name.removeprefix(_RATIOS))
        else:
            others.append(setting)
    told = ", ".join(f"{value} of {short_layers(names)}" for value, names in layers.items())
    return (*others, *([f"ratios={told}"] if told else []))


def _settings(record: RunRecord) -> dict[str, str]:
    """Return a run's configuration by dotted name, without seeds and the checkpoint that a seed made."""
    flat = _flat(record.config)
    return {name: flat[name] for name in flat if name.split(".")[-1] != "seed" and name != "checkpoint"}


def _checkpoint(record: RunRecord) -> dict[str, str]:
    """Return which checkpoint was scored, in records of `epanns evaluate`."""
    return {name: value for name, value in _flat(record.config).items() if name == "checkpoint"}


def _base_settings(record: RunRecord) -> dict[str, str]:
    """Return how the unpruned network came about, named alike in its own record and in those of its offspring."""
    settings = _settings(record)
    if record.config.get("kind") == "base":
        settings = {f"base.{name}": value for name, value in settings.items() if not name.startswith("packs.")}
    return {name: value for name, value in settings.items() if name.startswith("base.")}


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": str(value)}
    return flat


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
        n_seeds=len({record.seed for record in group}),
        settings=settings,
    )


def _estimate(group: Iterable[RunRecord], stage_name: str, split: str, score_name: str) -> Estimate | None:
    """Average a stage's score over seeds; runs of one seed (which share their unpruned network) count as one."""
    by_seed: dict[int, list[float]] = {}
    for record in group:
        stage = record.stage(stage_name)
        score = None if stage is None else stage.scores.get(split, {}).get(score_name)
        if score is not None:
            by_seed.setdefault(record.seed, []).append(score)
    values = [fmean(values) for values in by_seed.values()]
    if not values:
        return None
    return Estimate(fmean(values), stdev(values) if len(values) > 1 else None, len(values))


def _order(row: Row) -> tuple[Any, ...]:
    variants = (UNPRUNED, CONTROL)
    rank = variants.index(row.variant) if row.variant in variants else len(variants)
    ratio = -1.0 if row.ratio is None else row.ratio
    network = (row.experiment, row.model, -row.width)
    return (*network, rank, row.variant, row.layers, row.recover, row.finetune_iterations, ratio, row.settings)
