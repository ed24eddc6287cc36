"""Write the tables of the pruning experiments: ``python experiments/pruning_table.py``.

The input is ``results/pruning/*/records``. Each data set has a table for each of two measures of recovery:

- C7-C12 pruned: the fraction of the gap between the pruned and the unpruned network that is closed,
  ``1 - (unpruned - recovered) / gap`` of the test mAP, for each seed. ``gap`` is the loss by pruning, averaged over
  seeds, because it may be close to zero for a single seed. The mean is that of ``recovered - pruned`` over the gap.
- All layers pruned: the fraction of the test mAP that is retained, ``recovered / unpruned``, for each seed.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from epanns.records import RunRecord, read_records
from epanns.reporting.notation import markdown_table, mean_and_sd
from epanns.reporting.report import insert_table

ROOT = Path(__file__).parents[1]
SCOPES = {
    ("conv_block4", "conv_block5", "conv_block6"): "C7-C12",
    tuple(f"conv_block{number}" for number in range(1, 7)): "all layers",
}
RATIOS = (0.5, 0.75)
Measure = Callable[[Sequence["Outcome"]], list[float]]


@dataclass(frozen=True)
class Outcome:
    """Test mAP of one pruned network, before and after recovery.

    Attributes:
        method: Criterion, recovery with its settings, and number of calibration clips.
        dense: Test mAP of the unpruned network.
        pruned: Test mAP of the pruned network without recovery.
        recovered: Test mAP after recovery; `pruned` for the method without recovery.
        seconds: Duration of the recovery; None without one.
    """

    seed: int
    method: tuple[str, str, str]
    dense: float
    pruned: float
    recovered: float
    seconds: float | None


def gap_closed(outcomes: Sequence[Outcome]) -> list[float]:
    """Return the fraction of the mean gap closed for each seed: 1 for the unpruned mAP; 0 on average unrecovered."""
    gap = fmean(outcome.dense - outcome.pruned for outcome in outcomes)
    return [1 - (outcome.dense - outcome.recovered) / gap for outcome in outcomes]


def map_retained(outcomes: Sequence[Outcome]) -> list[float]:
    """Return for each seed the mAP relative to that of the unpruned network."""
    return [outcome.recovered / outcome.dense for outcome in outcomes]


GAP, RETAINED = ("gap closed", gap_closed), ("mAP retained", map_retained)
QUARTER, LAYOUT = "MAC budget 0.25, all layers", "50% of C7-C12"
# Layers, ratio, recovery, measure, and the target set before the measurement.
TARGETS = (
    ("C7-C12", 0.5, "bn", GAP, 0.60),
    ("C7-C12", 0.5, "ls", GAP, 0.85),
    ("C7-C12", 0.75, "ls", GAP, 0.85),
    ("all layers", 0.5, "ls", RETAINED, 0.92),
    ("all layers", 0.75, "ls", RETAINED, 0.80),
)


def outcomes_of(record: RunRecord) -> list[Outcome]:
    """Return the outcomes of a trial: without recovery and, where the trial has one, with it."""
    dense, pruned = _test_map(record, "dense"), _test_map(record, "pruned")
    criterion = str(record.criterion)
    found = [Outcome(record.seed, (criterion, "none", "-"), dense, pruned, pruned, None)]
    recovered = record.stage("recovered")
    if recovered is not None:
        settings = record.config.get("recovery", {})
        recovery = ", ".join([record.recover, *(f"{name} {value}" for name, value in sorted(settings.items()))])
        method = (criterion, recovery, str(record.config["calibration_clips"]))
        found.append(Outcome(record.seed, method, dense, pruned, _test_map(record, "recovered"), recovered.seconds))
    return found


def _test_map(record: RunRecord, name: str) -> float:
    stage = record.stage(name)
    score = None if stage is None else stage.scores["test"]["mAP"]
    assert score is not None
    return float(score)


def tables_of(records: Sequence[RunRecord]) -> str:
    """Return the targets and the tables of every data set as Markdown."""
    parts = [_target_table(records)]
    for name in sorted({record.dataset for record in records}):
        of_data = [record for record in records if record.dataset == name]
        parts.append(_title(name, of_data))
        parts.append(_table("C7-C12", *GAP, of_data))
        parts.append(_table("all layers", *RETAINED, of_data))
        parts.append(_cost_table(of_data))
    return "\n\n".join(parts)


def headline_of(records: Sequence[RunRecord]) -> str:
    """Return one Markdown table of all data sets: mAP with L1, without recovery and after `ls`, per amount removed."""
    names = sorted({record.dataset for record in records})
    header = ["removed", "MACs left", "parameters left"]
    header += [f"{name}: {column}" for name in names for column in ("no recovery", "`ls`")]
    dense = [
        _estimate(
            [_test_map(r, "dense") for r in records if r.dataset == name and r.config["kind"] == "base"], digits=3
        )
        for name in names
    ]
    body = []
    for amount in {amount for record in records if (amount := _amount(record))}:
        found = {name: _default_trials([r for r in records if r.dataset == name], amount, "ls") for name in names}
        if all(found.values()):
            every = [record for of_data in found.values() for record in of_data]
            macs, parameters = (
                fmean(record.cost_after[cost] / record.cost_before[cost] for record in every)
                for cost in ("backbone_macs", "n_params")
            )
            outcomes = [[outcomes_of(record)[-1] for record in found[name]] for name in names]
            maps = [
                _estimate([getattr(outcome, part) for outcome in of_data], digits=3)
                for of_data in outcomes
                for part in ("pruned", "recovered")
            ]
            body.append((macs, [amount, f"{macs:.0%}", f"{parameters:.0%}", *maps]))
    rows = [row for _, row in sorted(body, reverse=True)]
    return markdown_table(
        header, [["nothing", "100%", "100%", *(cell for each in dense for cell in (each, "-"))], *rows]
    )


def _target_table(records: Sequence[RunRecord]) -> str:
    """Return the targets set beforehand and the results on each data set."""
    names = sorted({record.dataset for record in records})
    body = []
    for scope, ratio, recover, (heading, measure), target in TARGETS:
        cells = []
        for name in names:
            found = _default_trials([r for r in records if r.dataset == name], f"{ratio:.0%} of {scope}", recover)
            cells.append(_with_target(measure([outcomes_of(record)[-1] for record in found]), target) if found else "-")
        body.append([f"{ratio:.0%} of {scope}, `{recover}`: {heading}", f">= {target:.0%}", *cells])
    cells = []
    for name in names:
        pair = [
            _default_trials([r for r in records if r.dataset == name], amount, "ls") for amount in (QUARTER, LAYOUT)
        ]
        scores = [{record.seed: outcomes_of(record)[-1].recovered for record in found} for found in pair]
        cells.append(
            _with_target(
                [scores[0][seed] - scores[1][seed] for seed in scores[0].keys() & scores[1].keys()], 0.0, digits=3
            )
        )
    body.append([f"({QUARTER}) minus ({LAYOUT}), `ls`: mAP", ">= 0", *cells])
    return markdown_table(["L1", "target", *names], body)


def _default_trials(records: Iterable[RunRecord], amount: str, recover: str) -> list[RunRecord]:
    """Return the trials with L1 and the default settings of a recovery."""
    default = ("l1", recover, {})
    return [
        record
        for record in records
        if _amount(record) == amount
        and (record.criterion, record.recover, record.config.get("recovery", {})) == default
    ]


def _with_target(values: Sequence[float], target: float, digits: int | None = None) -> str:
    if not values:
        return "-"
    text = _percent(values) if digits is None else _estimate(values, digits=digits)
    return text + ("" if fmean(values) >= target else " (missed)")


def _title(name: str, records: Sequence[RunRecord]) -> str:
    bases = {record.seed: record for record in records if record.config["kind"] == "base"}
    dense = _estimate([_test_map(record, "dense") for record in bases.values()], digits=3)
    first = next(iter(bases.values()))
    data, training = first.config["data"], first.config["training"]
    return (
        f"**{name}**, {first.protocol} of {first.clip_seconds:g} s, trained on {', '.join(data['train'])}, tested on "
        f"{', '.join(data['test'])}; {first.model} × {first.width:g} after {training['iterations']:,} steps, "
        f"{len(bases)} seeds. Unpruned: mAP {dense}."
    )


def _table(scope: str, heading: str, measure: Measure, records: Iterable[RunRecord]) -> str:
    """Return a row for each criterion and recovery, with the mAP and `measure` at each ratio."""
    # method -> ratio -> seed -> outcome; several trials share one network without recovery
    rows: dict[tuple[str, ...], dict[float, dict[int, Outcome]]] = {}
    for record in records:
        if SCOPES.get(record.layers) == scope and record.ratio in RATIOS:
            for outcome in outcomes_of(record):
                rows.setdefault(outcome.method, {}).setdefault(record.ratio, {})[outcome.seed] = outcome
    header = [f"{scope}: criterion", "recovery", "clips"]
    header += [f"{column}, {ratio:.0%} removed" for ratio in RATIOS for column in ("mAP", heading)]
    body = []
    for method in sorted(rows):
        cells = []
        for ratio in RATIOS:
            found = list(rows[method].get(ratio, {}).values())
            cells.append(_estimate([outcome.recovered for outcome in found], digits=3))
            is_zero = measure is gap_closed and method[1] == "none"  # by definition, on average
            cells.append(_percent(measure(found) if found and not is_zero else []))
        seeds = {len(found) for found in rows[method].values()}
        times = [o.seconds for found in rows[method].values() for o in found.values() if o.seconds is not None]
        spent = f"{min(times):.0f}-{max(times):.0f}" if times else "-"
        body.append([*method, *cells, "/".join(map(str, sorted(seeds))), spent])
    return markdown_table([*header, "seeds", "seconds"], body)


def _cost_table(records: Iterable[RunRecord]) -> str:
    """Return a row for each amount removed with L1 and `ls`: cost and mAP of the network."""
    records = list(records)
    amounts = sorted({amount for record in records if (amount := _amount(record))})
    rows = {amount: found for amount in amounts if (found := _default_trials(records, amount, "ls"))}
    body = []
    for amount, found in rows.items():
        outcomes = list({record.seed: outcomes_of(record)[-1] for record in found}.values())
        shares = [
            fmean(record.cost_after[cost] / record.cost_before[cost] for record in found)
            for cost in ("backbone_macs", "n_params")
        ]
        retained = _percent(map_retained(outcomes))
        mean = _estimate([outcome.recovered for outcome in outcomes], digits=3)
        body.append((shares[0], [amount, *(f"{share:.1%}" for share in shares), mean, retained, str(len(outcomes))]))
    header = ["removed (l1, ls)", "MACs left", "parameters left", "mAP", "mAP retained", "seeds"]
    return markdown_table(header, [row for _, row in sorted(body, reverse=True)])


def _amount(record: RunRecord) -> str:
    """Return the amount removed, in words; an empty string for a trial that no table shows by its amount."""
    if "budget" in record.config:
        kind, fraction = record.config["budget"].split()
        return f"{'MAC' if kind == 'macs' else kind} budget {fraction}, all layers"
    if "ratios" in record.config:
        by_ratio: dict[float, list[str]] = {}
        for layer, ratio in record.config["ratios"].items():
            by_ratio.setdefault(ratio, []).append(layer.removeprefix("conv_block"))
        return "; ".join(f"{ratio:.0%} of blocks {', '.join(blocks)}" for ratio, blocks in by_ratio.items())
    scope = SCOPES.get(record.layers)
    return f"{record.ratio:.0%} of {scope}" if scope and record.ratio in RATIOS else ""


def _percent(values: Sequence[float]) -> str:
    return _estimate([100 * value for value in values], digits=1, unit=" %")


def _estimate(values: Sequence[float], *, digits: int, unit: str = "") -> str:
    return f"{mean_and_sd(values, digits=digits)}{unit}" if values else "-"


if __name__ == "__main__":
    folder = ROOT / "results" / "pruning"
    tables = tables_of(read_records([folder]))
    insert_table(folder / "README.md", "pruning", tables)
    insert_table(ROOT / "README.md", "headline", headline_of(read_records([folder])))
