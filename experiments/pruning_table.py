"""Put what came of the pruning experiments into the documents that tell of it: ``python experiments/pruning_table.py``.

Everything is made of the records in ``results/pruning/*/records``. Two questions, two tables for each data set:

- C7-C12 pruned: which share of the gap between the network as it was cut and the unpruned one does a recovery close?
  ``(recovered - cut) / (unpruned - cut)`` of the test mAP.
- All layers pruned: which share of the unpruned network's test mAP is left? ``recovered / unpruned``.

Both are taken for each seed and then averaged: mean and sample standard deviation over seeds.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean, stdev

from epanns.reporting.report import insert_table
from epanns.reporting.tables import markdown_table
from epanns.sweeps.records import RunRecord, read_records

ROOT = Path(__file__).parents[1]
SCOPES = {
    ("conv_block4", "conv_block5", "conv_block6"): "C7-C12",
    tuple(f"conv_block{number}" for number in range(1, 7)): "all layers",
}
RATIOS = (0.5, 0.75)
_RECOVERED = ("recovered", "pruned")  # without recovery the network stays as it was cut


def test_map(record: RunRecord, *stages: str) -> float:
    """Return the test mAP of the first of these stages that the run had."""
    found = next(stage for stage in map(record.stage, stages) if stage is not None)
    score = found.scores["test"]["mAP"]
    assert score is not None
    return float(score)


def gap_closed(record: RunRecord) -> float:
    """Return the share of what the cut cost that the recovery brought back; 1 is the unpruned network."""
    dense, cut = test_map(record, "dense"), test_map(record, "pruned")
    return (test_map(record, *_RECOVERED) - cut) / (dense - cut)


def share_kept(record: RunRecord) -> float:
    """Return the recovered network's mAP as a share of the unpruned one's."""
    return test_map(record, *_RECOVERED) / test_map(record, "dense")


def tables_of(records: Sequence[RunRecord]) -> str:
    """Return the tables of every data set in Markdown."""
    parts = []
    for name in sorted({record.dataset for record in records}):
        of_data = [record for record in records if record.dataset == name]
        parts.append(_title(name, of_data))
        for scope, heading, measure in (
            ("C7-C12", "gap closed", gap_closed),
            ("all layers", "kept of unpruned", share_kept),
        ):
            parts.append(_table(scope, heading, measure, of_data))
    return "\n\n".join(parts)


def _title(name: str, records: Sequence[RunRecord]) -> str:
    bases = {record.seed: record for record in records if record.config["kind"] == "base"}
    dense = _estimate([test_map(record, "dense") for record in bases.values()], digits=3)
    first = next(iter(bases.values()))
    data, training = first.config["data"], first.config["training"]
    return (
        f"**{name}**, {first.protocol} of {first.clip_seconds:g} s, trained on {', '.join(data['train'])}, tested on "
        f"{', '.join(data['test'])}; {first.model} × {first.width:g} after {training['iterations']:,} steps, "
        f"{len(bases)} seeds. Unpruned: mAP {dense}."
    )


def _table(scope: str, heading: str, measure: Callable[[RunRecord], float], records: Iterable[RunRecord]) -> str:
    """Return a row for each way to choose filters and recover, with the mAP and `measure` at each ratio."""
    rows: dict[tuple[str, ...], dict[float, list[RunRecord]]] = {}
    for record in records:
        if SCOPES.get(record.layers) == scope and record.ratio in RATIOS:
            rows.setdefault(_way(record), {}).setdefault(record.ratio, []).append(record)
    header = [f"{scope}: filters", "recovery", "clips", "seeds"]
    header += [f"{column}, {ratio:.0%} cut" for ratio in RATIOS for column in ("mAP", heading)] + ["seconds"]
    body = []
    for way in sorted(rows):
        cells = []
        for ratio in RATIOS:
            found = rows[way].get(ratio, [])
            cells.append(_estimate([test_map(record, *_RECOVERED) for record in found], digits=3))
            cells.append(_estimate([100 * measure(record) for record in found], digits=1, unit=" %"))
        runs = [record for found in rows[way].values() for record in found]
        seconds = [stage.seconds for stage in (record.stage("recovered") for record in runs) if stage is not None]
        spent = f"{min(seconds):.0f}-{max(seconds):.0f}" if seconds else "-"
        body.append([*way, "/".join(str(len(found)) for found in rows[way].values()), *cells, spent])
    return markdown_table(header, body)


def _way(record: RunRecord) -> tuple[str, ...]:
    """Return how filters were chosen, how the network was recovered, and from how many clips."""
    settings = record.config.get("recovery", {})
    recovery = ", ".join([record.recover, *(f"{name} {value}" for name, value in sorted(settings.items()))])
    return str(record.criterion), recovery, str(record.config.get("calibration_clips", "-"))


def _estimate(values: Sequence[float], *, digits: int, unit: str = "") -> str:
    if not values:
        return "-"
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{fmean(values):.{digits}f}{spread}{unit}"


if __name__ == "__main__":
    folder = ROOT / "results" / "pruning"
    tables = tables_of(read_records([folder]))
    insert_table(folder / "README.md", "pruning", tables)
    insert_table(ROOT / "README.md", "pruning", tables)
