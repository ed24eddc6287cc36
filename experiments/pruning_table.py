"""Put what came of the pruning experiments into the documents that tell of it: ``python experiments/pruning_table.py``.

Everything is made of the records in ``results/pruning/*/records``. Two questions, two tables for each data set:

- C7-C12 pruned: which share of the gap between the network as it was cut and the unpruned one does a recovery close?
  ``1 - (unpruned - recovered) / gap`` of the test mAP, for each seed; ``gap`` is what the cut costs on the mean of the
  seeds, because in one of them it may cost next to nothing. The mean is that of ``recovered - cut`` over the gap.
- All layers pruned: which share of the unpruned network's test mAP is left? ``recovered / unpruned``, for each seed.
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
    """Test mAP of one network, pruned and recovered, beside those of the network it was made of.

    Attributes:
        way: Criterion, recovery with its settings, and clips it saw.
        seconds: What the recovery took; None where there was none.
    """

    seed: int
    way: tuple[str, str, str]
    dense: float
    cut: float
    left: float
    seconds: float | None


def gap_closed(outcomes: Sequence[Outcome]) -> list[float]:
    """Return for each seed how much of the mean gap is closed: 0 as cut, on the mean, and 1 as unpruned."""
    gap = fmean(outcome.dense - outcome.cut for outcome in outcomes)
    return [1 - (outcome.dense - outcome.left) / gap for outcome in outcomes]


def share_kept(outcomes: Sequence[Outcome]) -> list[float]:
    """Return for each seed the mAP as a share of the unpruned network's."""
    return [outcome.left / outcome.dense for outcome in outcomes]


GAP, KEPT = ("gap closed", gap_closed), ("kept of unpruned", share_kept)
QUARTER, LAYOUT = "budget of macs 0.25, over all layers", "50% of C7-C12"
# Layers, ratio, recovery, measure, and what was asked of it before it was measured.
TARGETS = (
    ("C7-C12", 0.5, "bn", GAP, 0.60),
    ("C7-C12", 0.5, "ls", GAP, 0.85),
    ("C7-C12", 0.75, "ls", GAP, 0.85),
    ("all layers", 0.5, "ls", KEPT, 0.92),
    ("all layers", 0.75, "ls", KEPT, 0.80),
)


def outcomes_of(record: RunRecord) -> list[Outcome]:
    """Return what a trial tells: the network as it was cut, and as it was recovered."""
    dense, cut = _test_map(record, "dense"), _test_map(record, "pruned")
    criterion = str(record.criterion)
    found = [Outcome(record.seed, (criterion, "none", "-"), dense, cut, cut, None)]
    recovered = record.stage("recovered")
    if recovered is not None:
        settings = record.config.get("recovery", {})
        recovery = ", ".join([record.recover, *(f"{name} {value}" for name, value in sorted(settings.items()))])
        way = (criterion, recovery, str(record.config["calibration_clips"]))
        left = _test_map(record, "recovered")
        found.append(Outcome(record.seed, way, dense, cut, left, recovered.seconds))
    return found


def _test_map(record: RunRecord, name: str) -> float:
    stage = record.stage(name)
    score = None if stage is None else stage.scores["test"]["mAP"]
    assert score is not None
    return float(score)


def tables_of(records: Sequence[RunRecord]) -> str:
    """Return the targets and the tables of every data set in Markdown."""
    parts = [_target_table(records)]
    for name in sorted({record.dataset for record in records}):
        of_data = [record for record in records if record.dataset == name]
        parts.append(_title(name, of_data))
        parts.append(_table("C7-C12", *GAP, of_data))
        parts.append(_table("all layers", *KEPT, of_data))
        parts.append(_cost_table(of_data))
    return "\n\n".join(parts)


def headline_of(records: Sequence[RunRecord]) -> str:
    """Return one Markdown table over all data sets: mAP as pruned and after `ls`, L1, for each amount removed."""
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
        found = {name: _usual([r for r in records if r.dataset == name], amount, "ls") for name in names}
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
                for part in ("cut", "left")
            ]
            body.append((macs, [amount, f"{macs:.0%}", f"{parameters:.0%}", *maps]))
    rows = [row for _, row in sorted(body, reverse=True)]
    return markdown_table(
        header, [["nothing", "100%", "100%", *(cell for each in dense for cell in (each, "-"))], *rows]
    )


def _target_table(records: Sequence[RunRecord]) -> str:
    """Return what was asked beforehand, and what came out for each data set."""
    names = sorted({record.dataset for record in records})
    body = []
    for scope, ratio, recover, (heading, measure), target in TARGETS:
        cells = []
        for name in names:
            found = _usual([r for r in records if r.dataset == name], f"{ratio:.0%} of {scope}", recover)
            cells.append(_against(measure([outcomes_of(record)[-1] for record in found]), target) if found else "-")
        body.append([f"{ratio:.0%} of {scope}, `{recover}`: {heading}", f">= {target:.0%}", *cells])
    cells = []
    for name in names:
        pair = [_usual([r for r in records if r.dataset == name], amount, "ls") for amount in (QUARTER, LAYOUT)]
        left = [{record.seed: outcomes_of(record)[-1].left for record in found} for found in pair]
        cells.append(
            _against([left[0][seed] - left[1][seed] for seed in left[0].keys() & left[1].keys()], 0.0, digits=3)
        )
    body.append([f"mAP of {QUARTER} less that of {LAYOUT}, both `ls`", ">= 0", *cells])
    return markdown_table(["L1", "target", *names], body)


def _usual(records: Iterable[RunRecord], amount: str, recover: str) -> list[RunRecord]:
    """Return the trials with L1 and a recovery as it is by default."""
    usual = ("l1", recover, {})
    return [
        record
        for record in records
        if _amount(record) == amount and (record.criterion, record.recover, record.config.get("recovery", {})) == usual
    ]


def _against(values: Sequence[float], target: float, digits: int | None = None) -> str:
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
    """Return a row for each way to choose filters and recover, with the mAP and `measure` at each ratio."""
    # way -> ratio -> seed -> outcome; the network as it was cut is the same in several trials
    rows: dict[tuple[str, ...], dict[float, dict[int, Outcome]]] = {}
    for record in records:
        if SCOPES.get(record.layers) == scope and record.ratio in RATIOS:
            for outcome in outcomes_of(record):
                rows.setdefault(outcome.way, {}).setdefault(record.ratio, {})[outcome.seed] = outcome
    header = [f"{scope}: filters", "recovery", "clips"]
    header += [f"{column}, {ratio:.0%} cut" for ratio in RATIOS for column in ("mAP", heading)]
    body = []
    for way in sorted(rows):
        cells = []
        for ratio in RATIOS:
            found = list(rows[way].get(ratio, {}).values())
            cells.append(_estimate([outcome.left for outcome in found], digits=3))
            says_nothing = measure is gap_closed and way[1] == "none"  # it is where the measure begins
            cells.append(_percent(measure(found) if found and not says_nothing else []))
        seeds = {len(found) for found in rows[way].values()}
        times = [o.seconds for found in rows[way].values() for o in found.values() if o.seconds is not None]
        spent = f"{min(times):.0f}-{max(times):.0f}" if times else "-"
        body.append([*way, *cells, "/".join(map(str, sorted(seeds))), spent])
    return markdown_table([*header, "seeds", "seconds"], body)


def _cost_table(records: Iterable[RunRecord]) -> str:
    """Return a row for each way to share out what is removed, with L1 and `ls`, and what the network then costs."""
    records = list(records)
    amounts = sorted({amount for record in records if (amount := _amount(record))})
    rows = {amount: found for amount in amounts if (found := _usual(records, amount, "ls"))}
    body = []
    for amount, found in rows.items():
        outcomes = list({record.seed: outcomes_of(record)[-1] for record in found}.values())
        shares = [
            fmean(record.cost_after[cost] / record.cost_before[cost] for record in found)
            for cost in ("backbone_macs", "n_params")
        ]
        kept = _percent(share_kept(outcomes))
        mean = _estimate([outcome.left for outcome in outcomes], digits=3)
        body.append((shares[0], [amount, *(f"{share:.1%}" for share in shares), mean, kept, str(len(outcomes))]))
    header = ["removed (l1, ls)", "MACs left", "parameters left", "mAP", "kept of unpruned", "seeds"]
    return markdown_table(header, [row for _, row in sorted(body, reverse=True)])


def _amount(record: RunRecord) -> str:
    """Return what was removed, in words; nothing where it is of no interest beside the others."""
    if "budget" in record.config:
        return f"budget of {record.config['budget']}, over all layers"
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
