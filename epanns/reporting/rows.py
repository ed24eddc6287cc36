"""Run records to the rows of a report: seeds and folds averaged, incomparable results in separate blocks."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any, NamedTuple

from epanns.atomic import sha256_of_json
from epanns.records import RunRecord
from epanns.reporting.notation import in_words, short_layers, si
from epanns.strict import is_finite

UNPRUNED = "unpruned"
CONTROL = "unpruned, trained on"
REPORTED_SPLIT = "test"
PRUNED_STAGES = ("pruned", "recovered", "finetuned", "evaluated")

AGREEMENT = ("agreement_tag_mAP", "agreement_correlation", "agreement_tau")  # scores of a stage in a record

_RATIOS = "ratios."
_DIGEST = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")  # a sha256: its first digits are enough
_NAMES = frozenset({"name", "base.name"})  # a row has a column for them

# Criteria whose choice of channels does not depend on the seed; the others draw numbers or clips.
UNSEEDED_CRITERIA = frozenset({"l1", "l2", "bn", "opnorm", "opnorm_invariant", "centrality", "cosine", "fpgm"})
# Settings of a trial that do not change which channels such a criterion removes.
_AFTER_PRUNING = frozenset({"seed", "recover", "recovery", "calibration_clips", "finetune", "teacher"})
_JOINED = ", then "  # between the criteria of a network that was pruned several times

# Settings of the data that differ between the folds of one data set, below ``data`` or ``base.data``.
_OF_A_FOLD = re.compile(r"(base\.)?data\.(fold|train|val|test|content)\b.*")

# Records that differ in their seed and fold alone, and the settings (``name=value``) in which they differ from similar
# records.
Group = tuple[list[RunRecord], tuple[str, ...]]


class Estimate(NamedTuple):
    """Mean over networks and sample standard deviation.

    Attributes:
        mean: Mean of the scores of the `n` networks; of folds, a network on each fold counts as one.
        sd: None for one network, however often it was scored.
        n_seeds: Number of seeds under which they were scored.
    """

    mean: float
    sd: float | None
    n: int
    n_seeds: int


class BlockKey(NamedTuple):
    """Data set, split, protocol and input length, which are equal in all rows of a block."""

    dataset: str
    split: str
    protocol: str
    clip_seconds: float


@dataclass(frozen=True)
class Row:
    """One configuration, averaged over its seeds and folds.

    Attributes:
        variant: `UNPRUNED`, `CONTROL` or the name of the criterion.
        layers: Names of the pruned modules.
        ratio: Fraction of channels removed; 0 for unpruned rows, None where it differs by layer.
        n_params: Mean over seeds, as are `param_bytes` and `backbone_macs`.
        param_reduction: Fraction of the unpruned network's parameters that is removed; `mac_reduction` likewise.
        mAP: Stage name -> estimate on the block's split.
        n_seeds: Number of networks; 1 for one network that was scored under several seeds.
        settings: Settings in which the row differs from rows that are otherwise equal.
        accuracy: Like `mAP`, for the stages at which every seed has one: those of single-label networks.
        name: Label that a user gave the network; empty for none.
        budget: Budget that the network was pruned to, such as ``macs 0.25``; None where it was pruned by ratios.
        untrained: Stages at which training kept the weights from before it -> number of such runs.
        n_folds: Number of folds of the data; 0 where they have none.
        agreement: Number of `AGREEMENT` -> estimate at the last stage that has it: agreement with the unpruned network.
        latency_ms: Median latency in milliseconds, mean over seeds; None unless every record has it.
        trials: The `trial_id` of each record that the row averages, sorted.
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
    agreement: Mapping[str, Estimate] = field(default_factory=dict)
    n_folds: int = 0
    latency_ms: float | None = None
    trials: tuple[str, ...] = field(default=(), compare=False)

    @property
    def has_accuracy(self) -> bool:
        """Whether every stage with a mAP has an accuracy."""
        return bool(self.accuracy) and self.accuracy.keys() == self.mAP.keys()

    @property
    def is_pruned(self) -> bool:
        """Whether channels were removed."""
        return self.variant not in (UNPRUNED, CONTROL)

    @property
    def network(self) -> str:
        """The network and, where it is not the published one, its width."""
        return self.model if self.width == 1 else f"{self.model} × {self.width:g}"

    @property
    def settings_in_words(self) -> list[str]:
        """Settings in words, without the budget, which has a column of its own."""
        return [in_words(setting) for setting in self.settings if not (self.budget and setting.startswith("budget="))]


def rows_by_block(records: Iterable[RunRecord]) -> dict[BlockKey, list[Row]]:
    """Group records into blocks, and in each block into one row per configuration.

    Runs with equal configurations but for seeds and folds are one row, as are checkpoints with equal recipes. Where
    rows would otherwise be equal, they hold the settings in which they differ. The row of the unpruned network
    averages the `dense` scores of all runs, once per seed and fold.
    """
    blocks: dict[BlockKey, list[RunRecord]] = {}
    for record in records:
        splits = [split for stage in record.stages for split in stage.scores]
        split = REPORTED_SPLIT if REPORTED_SPLIT in splits or not splits else splits[-1]
        blocks.setdefault(BlockKey(record.dataset, split, record.protocol, record.clip_seconds), []).append(record)
    found = {key: _rows(blocks[key], key.split) for key in sorted(blocks)}
    return {key: rows for key, rows in found.items() if rows}


def is_shown(record: RunRecord) -> bool:
    """Return whether a record is in a row: it was pruned, or has a score of its network."""
    return record.criterion is not None or any(record.stage(name) for name in ("dense", "finetuned", "evaluated"))


def _rows(records: Sequence[RunRecord], split: str) -> list[Row]:
    dense = [record for record in records if record.stage("dense") is not None]
    trained_on = [record for record in records if record.criterion is None and record.stage("finetuned") is not None]
    evaluated = [record for record in records if record.criterion is None and record.stage("evaluated") is not None]
    pruned = [record for record in records if record.criterion is not None]

    def base_settings(record: RunRecord) -> dict[str, str]:  # the same names in a base's own record and in pruned ones
        settings = settings_of(record)
        if record.config.get("kind") == "base":
            settings = {f"base.{name}": value for name, value in settings.items() if not name.startswith("packs.")}
        return {name: value for name, value in settings.items() if name.startswith("base.")}

    rows = [
        _row(members, split, UNPRUNED, ("dense",), settings)
        for group in _grouped(dense, _network_identity).values()
        for members, settings in _split_by_settings(group, base_settings)
    ]
    rows += [_row(group, split, CONTROL, ("finetuned",), settings) for group, settings in _seed_groups(trained_on)]
    rows += [_row(group, split, UNPRUNED, ("evaluated",), settings) for group, settings in _seed_groups(evaluated)]
    rows += [
        _row(group, split, str(group[0].criterion), PRUNED_STAGES, settings) for group, settings in _seed_groups(pruned)
    ]

    def order(row: Row) -> tuple[Any, ...]:
        variants = (UNPRUNED, CONTROL)
        rank = variants.index(row.variant) if row.variant in variants else len(variants)
        ratio = -1.0 if row.ratio is None else row.ratio
        network = (row.experiment, row.model, -row.width, row.name)
        return (*network, rank, row.variant, row.layers, row.recover, row.finetune_iterations, ratio, row.settings)

    return sorted(rows, key=order)


def _network_identity(record: RunRecord) -> tuple[Any, ...]:
    return (record.experiment, label_of(record), record.model, record.width, record.cost_before["n_params"])


def _grouped(
    records: Iterable[RunRecord], key: Callable[[RunRecord], tuple[Any, ...]]
) -> dict[tuple[Any, ...], list[RunRecord]]:
    groups: dict[tuple[Any, ...], list[RunRecord]] = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    return groups


def _seed_groups(records: Iterable[RunRecord]) -> list[Group]:
    """Return groups of records that differ in their seed alone."""

    def identity(record: RunRecord) -> tuple[Any, ...]:
        pruning = (record.criterion, record.layers, record.ratio, record.recover, record.finetune_iterations)
        return (*_network_identity(record), *pruning)

    def checkpoint_of(record: RunRecord) -> dict[str, str]:  # in records of `epanns evaluate`
        return {name: value for name, value in flat(record.config).items() if name == "checkpoint"}

    groups: list[Group] = []
    for alike in _grouped(records, identity).values():
        for group, settings in _split_by_settings(alike, settings_of):
            # Checkpoints of several seeds are one row; several of one seed, with no known difference, are not.
            repeats_a_seed = len({record.seed for record in group}) < len(group)
            parts = _split_by_settings(group, checkpoint_of) if repeats_a_seed else [(group, ())]
            groups += [(members, (*settings, *more)) for members, more in parts]
    return groups


def _split_by_settings(records: Sequence[RunRecord], settings_of: Callable[[RunRecord], dict[str, str]]) -> list[Group]:
    """Split records by every setting in which they differ; a missing setting differs from every value."""
    settings = {record.trial_id: settings_of(record) for record in records}
    names = sorted(set().union(*settings.values()) - _NAMES)
    differing = [name for name in names if len({given.get(name) for given in settings.values()}) > 1]

    def differences(record: RunRecord) -> tuple[str, ...]:
        given = settings[record.trial_id]
        return tuple(f"{name}={given[name]}" for name in differing if name in given)

    groups: list[Group] = []
    for found, members in _grouped(records, differences).items():
        layers: dict[str, list[str]] = {}  # become one setting, `0.35 of blocks 1–3, 0.75 of blocks 4–6`
        others = []
        for name, _, value in (_DIGEST.sub(r"\1", setting).partition("=") for setting in found):
            if name.startswith(_RATIOS):
                layers.setdefault(value, []).append(name.removeprefix(_RATIOS))
            else:
                others.append(f"{name}={value}")
        joined = ", ".join(f"{value} of {short_layers(of_layers)}" for value, of_layers in layers.items())
        groups.append((members, (*others, *([f"ratios={joined}"] if joined else []))))
    return groups


def settings_of(record: RunRecord) -> dict[str, str]:
    """Return a run's configuration by dotted name, without seed, fold, and the checkpoint, which has a seed."""
    given = flat(record.config)
    if fold_of(record):
        given = {name: value for name, value in given.items() if not _OF_A_FOLD.fullmatch(name)}
    return {name: given[name] for name in given if name.split(".")[-1] != "seed" and name != "checkpoint"}


def fold_of(record: RunRecord) -> int:
    """Return the fold that a trial of a sweep with folds was tested on; 0 without folds."""
    base = record.config.get("base", record.config)
    data = base.get("data") if isinstance(base, Mapping) else None
    fold = data.get("fold") if isinstance(data, Mapping) else None
    return fold if type(fold) is int else 0


def label_of(record: RunRecord) -> str:
    """Return the label of a network that the sweep's base or the evaluation sets; empty for none."""
    given = record.config.get("name")
    return record.name or (given if isinstance(given, str) else "")


def budget_of(record: RunRecord) -> str | None:
    """Return the budget that a network was pruned to, such as ``macs 0.25``; None where it has none."""
    budget = record.config.get("budget")
    if isinstance(budget, str):
        return budget
    recipe = record.config.get("recipe")
    operations = recipe.values() if isinstance(recipe, Mapping) else ()
    budgets = [each["budget"] for each in operations if isinstance(each, Mapping) and "budget" in each]
    if not budgets or not isinstance(budgets[-1], Mapping):
        return None
    kind, most = budgets[-1].get("kind"), budgets[-1].get("asked")
    return f"{kind} {si(most)}" if isinstance(most, int | float) else str(kind)


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return a configuration by dotted name, with values as text."""
    found: dict[str, str] = {}
    for key, value in config.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": str(value)}
    return found


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
    is_dense = tuple(stages) == ("dense",)
    latencies = [latency_of(record.cost_before if is_dense else record.cost_after) for record in group]
    estimates = {
        score: {stage: found for stage in stages if (found := _estimate(group, stage, split, score)) is not None}
        for score in ("mAP", "accuracy", *AGREEMENT)
    }
    untrained = {
        stage: sum(found is not None and found.best_step == 0 for found in (record.stage(stage) for record in group))
        for stage in stages
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
        agreement={score: [*estimates[score].values()][-1] for score in AGREEMENT if estimates[score]},
        untrained={stage: count for stage, count in untrained.items() if count},
        n_folds=len({fold for record in group if (fold := fold_of(record))}),
        latency_ms=fmean(known) if len(known := [each for each in latencies if each]) == len(group) else None,
        trials=tuple(sorted(record.trial_id for record in group)),
    )


def latency_of(cost: Mapping[str, Any]) -> float | None:
    """Return the median latency in milliseconds of a record's cost; None where it was not measured."""
    latency = cost.get("latency_ms")
    median = latency.get("median") if isinstance(latency, Mapping) else None
    return float(median) if median is not None and is_finite(median) and median > 0 else None


def _estimate(group: Iterable[RunRecord], stage_name: str, split: str, score_name: str) -> Estimate | None:
    """Average a stage's score over networks; one that was scored under several seeds counts once on each fold."""
    by_network: dict[tuple[int, str], list[float]] = {}
    seeds = set()
    for record in group:
        stage = record.stage(stage_name)
        score = None if stage is None else stage.scores.get(split, {}).get(score_name)
        if score is not None:
            by_network.setdefault((fold_of(record), network_at(record, stage_name)), []).append(score)
            seeds.add(record.seed)
    values = [fmean(values) for values in by_network.values()]
    if not values:
        return None
    return Estimate(fmean(values), stdev(values) if len(values) > 1 else None, len(values), len(seeds))


def network_at(record: RunRecord, stage_name: str) -> str:
    """Return a digest of the network that a record scored at a stage: equal for equal networks of any seed.

    The digest is that of the weights where the record holds it. Otherwise a base is identified by its checkpoint or all
    its settings, a pruned network by its base and all settings that decide which channels are removed, and a later
    network by the settings of the whole trial, seed included.
    """
    last = record.stages[-1].name if record.stages else ""
    if record.network and stage_name == last != "dense":
        return record.network
    config = dict(record.config)
    base = config if config.get("kind") == "base" else config.get("base")
    if not isinstance(base, Mapping):  # a checkpoint that was scored by itself
        name, at, sha256 = str(record.config.get("checkpoint", "")).rpartition("@")
        return sha256_of_json(sha256 if at and sha256 != "None" else [name or sha256, record.seed])
    if stage_name == "dense":  # the trials of a base score it too, and identify it by its settings
        return sha256_of_json(base.get("checkpoint_sha256") or base)
    is_unseeded = record.criterion is not None and UNSEEDED_CRITERIA.issuperset(record.criterion.split(_JOINED))
    if stage_name == "pruned" and is_unseeded:
        return sha256_of_json({name: config[name] for name in config if name not in _AFTER_PRUNING})
    later = ("finetune", "teacher") if stage_name in ("pruned", "recovered") else ()
    return sha256_of_json([{name: config[name] for name in config if name not in later}, record.seed])


def count_networks(records: Iterable[RunRecord]) -> int:
    """Return the number of distinct networks in the last stages of records."""
    return len({network_at(record, record.stages[-1].name if record.stages else "") for record in records})
