"""Rows to Markdown and CSV. Measured and quoted results have tables of their own."""

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from epanns.records import STAGES, Failure, RunRecord
from epanns.reporting.layer_names import short_layers
from epanns.reporting.quoted import QuotedRow
from epanns.reporting.rows import BlockKey, Estimate, Row, settings_in_words
from epanns.reporting.units import megabytes, si, signed_percent
from epanns.safe_text import printable, spreadsheet_cell
from epanns.training.metrics import STEP_0_KEPT

MISSING = "–"

T = TypeVar("T")

FOOTNOTE = (
    "mAP: macro average precision, mean ± sample standard deviation over seeds. *before*: the network as it was cut, "
    "with no step after it (unpruned: as trained); *recovered*: after the recovery step; *fine-tuned*: after the "
    "iterations given. MACs: convolutions and linear layers, one multiply-add = 1, front end not counted. "
    "MB: 10⁶ bytes of float32 parameters. In brackets: the change against the unpruned network."
)
ACCURACY_NOTE = "Accuracy: share of the clips whose class has the highest score, mean and deviation likewise."
ONE_NETWORK_NOTE = "± –: one network, scored under several seeds, has no spread."
UNTRAINED_NOTE = f"†: {STEP_0_KEPT} (in one run or more of the row)."
QUOTED_NOTE = (
    "Published by others on other data or under other protocols; not measured here and not to be ranked with the "
    "measured rows."
)


def measured_markdown(blocks: Mapping[BlockKey, Sequence[Row]], failures: Sequence[Failure] = ()) -> str:
    """Return one Markdown table per block, with a line that says what its rows share.

    A table has accuracy too where all of its rows do. Trials that failed are counted below, by reason.
    """
    parts = []
    for key, rows in blocks.items():
        single = {"Experiment"} if len({row.experiment for row in rows}) == 1 else set()
        columns = {name: cell for name, cell in _used(_columns(key, rows), rows).items() if name not in single}
        title = f"**{_escape(block_title(key))}** (measured)"
        body = [[_escape(cell(row)) for cell in columns.values()] for row in rows]
        parts.append(f"{title}\n\n{markdown_table(list(columns), body)}")
    rows = [row for members in blocks.values() for row in members]
    notes = [
        FOOTNOTE,
        *([ACCURACY_NOTE] if any(map(_have_accuracy, blocks.values())) else []),
        *([ONE_NETWORK_NOTE] if any(map(_has_no_spread, rows)) else []),
        *([UNTRAINED_NOTE] if any(row.untrained for row in rows) else []),
    ]
    parts.append(" ".join(notes))
    if failures:
        parts.append(_escape(" ".join(failure_lines(failures))))
    return "\n\n".join(parts) + "\n"


def failure_lines(failures: Sequence[Failure]) -> list[str]:
    """Return how many trials have no result and why, a line for each reason."""
    reasons = Counter(failure.reason for failure in failures)
    counted = [f"{count} of them: {printable(reason)}." for reason, count in reasons.most_common()]
    return [f"Trials without a result, which are in no row: {len(failures)}.", *counted]


def quoted_markdown(rows: Iterable[QuotedRow]) -> str:
    """Return a Markdown table of quoted rows for each data set and metric, with source and protocol of each row."""
    tables: dict[tuple[str, str], list[QuotedRow]] = {}
    for row in rows:
        tables.setdefault((row.dataset, row.metric), []).append(row)
    parts = []
    for (dataset, metric), members in tables.items():
        columns = _used(_quoted_columns(metric), members)
        body = [[_escape(cell(row)) for cell in columns.values()] for row in members]
        title = f"**{_escape(dataset)}, {_escape(metric)}** (quoted, not measured here)"
        parts.append(f"{title}\n\n{markdown_table(list(columns), body)}")
    return "\n\n".join([*parts, QUOTED_NOTE]) + "\n"


def _quoted_columns(metric: str) -> dict[str, Callable[[QuotedRow], str]]:
    """Return heading -> cell, in the order of the table."""
    return {
        "System": lambda row: row.name,
        metric: lambda row: f"{row.value:.4g}",
        "mAUC": lambda row: MISSING if row.mAUC is None else f"{row.mAUC:.3f}",
        "d'": lambda row: MISSING if row.d_prime is None else f"{row.d_prime:.3f}",
        "Parameters": lambda row: si(row.n_params),
        "MB": lambda row: megabytes(row.param_bytes),
        "MACs": lambda row: (
            MISSING if row.macs is None else f"{si(row.macs)} per {row.clip_seconds:g} s ({row.macs_convention})"
        ),
        "Protocol": lambda row: row.protocol,
        "Source": lambda row: row.source,
        "Note": lambda row: row.note or MISSING,
    }


def measured_csv(blocks: Mapping[BlockKey, Sequence[Row]]) -> str:
    """Return every row of every block with full precision; `param_reduction` and `mac_reduction` are fractions."""
    lines: list[dict[str, object]] = []
    has_names = any(row.name for rows in blocks.values() for row in rows)
    for key, rows in blocks.items():
        for row in rows:
            line: dict[str, object] = {
                **key._asdict(),
                "experiment": row.experiment,
                **({"name": row.name} if has_names else {}),
                "network": row.model,
                "width": row.width,
                "variant": row.variant,
                "criterion": row.variant if row.is_pruned else "",
                "layers": ";".join(row.layers),
                "ratio": row.ratio,
                "recover": row.recover,
                "finetune_iterations": row.finetune_iterations,
                "n_params": _whole(row.n_params),
                "param_megabytes": row.param_bytes / 1e6,
                "backbone_macs": _whole(row.backbone_macs),
                "param_reduction": row.param_reduction,
                "mac_reduction": row.mac_reduction,
            }
            for stage in STAGES:
                estimate = row.mAP.get(stage)
                line[f"mAP_{stage}"] = estimate.mean if estimate else None
                line[f"mAP_{stage}_sd"] = estimate.sd if estimate else None
            for stage in STAGES if _have_accuracy(rows) else ():
                estimate = row.accuracy.get(stage)
                line[f"accuracy_{stage}"] = estimate.mean if estimate else None
                line[f"accuracy_{stage}_sd"] = estimate.sd if estimate else None
            lines.append(line | {"n_seeds": row.n_seeds, "settings": "; ".join(row.settings)})
    return _csv(lines)


def records_csv(records: Iterable[RunRecord]) -> str:
    """Return one line per record: its configuration, cost after pruning and every score of every stage."""
    names = ["trial_id", "experiment", "model", "width", "criterion", "layers", "ratio", "recover"]
    names += ["finetune_iterations", "seed", "dataset", "protocol", "clip_seconds", "plan_digest", "device", "seconds"]
    lines = []
    for record in records:
        line: dict[str, object] = {name: getattr(record, name) for name in names}
        line["layers"] = ";".join(record.layers)
        line |= {name: record.cost_after[name] for name in ("n_params", "param_bytes", "backbone_macs")}
        for stage in record.stages:
            for split, summary in stage.scores.items():
                line |= {f"{stage.name}_{split}_{metric}": value for metric, value in summary.items()}
        lines.append(line)
    return _csv(lines)


def quoted_csv(rows: Iterable[QuotedRow]) -> str:
    """Return the quoted rows as they are kept."""
    return _csv([vars(row) for row in rows])


def markdown_table(header: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; cells must be escaped already."""
    lines = [header, ["---"] * len(header), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def block_title(key: BlockKey) -> str:
    """Return what the rows of a block share, for headings and panels."""
    return f"{key.dataset}, {key.split}, {key.protocol}, {key.clip_seconds:g} s input"


def _columns(key: BlockKey, rows: Sequence[Row]) -> dict[str, Callable[[Row], str]]:
    """Return heading -> cell, in the order of the table."""
    accuracy = _at_stages("Accuracy", lambda row: row.accuracy) if _have_accuracy(rows) else {}
    return {
        "Name": lambda row: row.name or MISSING,
        "Network": lambda row: row.network,
        "Experiment": lambda row: row.experiment,
        "Criterion": lambda row: row.variant,
        "Layers": lambda row: short_layers(row.layers),
        "Ratio": lambda row: _ratio(row),
        "Recovery": lambda row: row.recover if row.recover != "none" else MISSING,
        "Iterations": lambda row: f"{row.finetune_iterations:,}" if row.finetune_iterations else MISSING,
        "Other settings": lambda row: ", ".join(settings_in_words(row)) or MISSING,
        "Parameters": lambda row: si(row.n_params) + _change(row, row.param_reduction),
        "MB": lambda row: megabytes(row.param_bytes),
        f"MACs per {key.clip_seconds:g} s": lambda row: si(row.backbone_macs) + _change(row, row.mac_reduction),
        **_at_stages("mAP", lambda row: row.mAP),
        **accuracy,
        "Seeds": lambda row: str(row.n_seeds),
    }


def _at_stages(score: str, estimates: Callable[[Row], Mapping[str, Estimate]]) -> dict[str, Callable[[Row], str]]:
    """Return heading -> cell of a score at each stage."""

    def cell(row: Row, *stages: str) -> str:
        stage = next((stage for stage in stages if stage in estimates(row)), "")
        return _estimate(estimates(row).get(stage)) + (" †" if stage in row.untrained else "")

    return {
        f"{score} before": lambda row: cell(row, "dense", "pruned"),
        f"{score} recovered": lambda row: cell(row, "recovered"),
        f"{score} fine-tuned": lambda row: cell(row, "finetuned"),
        f"{score} evaluated": lambda row: cell(row, "evaluated"),
    }


def _has_no_spread(row: Row) -> bool:
    """Return whether a score of a row is of one network under several seeds."""
    return any(found.n == 1 < found.n_seeds for found in (*row.mAP.values(), *row.accuracy.values()))


def _have_accuracy(rows: Sequence[Row]) -> bool:
    return all(row.has_accuracy for row in rows)


def _used(columns: dict[str, Callable[[T], str]], rows: Sequence[T]) -> dict[str, Callable[[T], str]]:
    """Leave out columns in which every cell is missing."""
    return {name: cell for name, cell in columns.items() if any(cell(row) != MISSING for row in rows)}


def _ratio(row: Row) -> str:
    if not row.is_pruned:
        return MISSING
    if row.budget is not None:
        return f"budget of {row.budget}"
    return "by layer" if row.ratio is None else f"{row.ratio:g}"


def _estimate(estimate: Estimate | None) -> str:
    if estimate is None:
        return MISSING
    if estimate.sd is not None:
        return f"{estimate.mean:.3f} ± {estimate.sd:.3f}"
    return f"{estimate.mean:.3f}" + (f" ± {MISSING}" if estimate.n_seeds > 1 else "")


def _change(row: Row, reduction: float) -> str:
    return f" ({signed_percent(-reduction)})" if row.is_pruned else ""


def _whole(value: float) -> int | float:
    return int(value) if value == int(value) else value


def _escape(cell: str) -> str:
    """Keep a name from breaking the table or becoming markup."""
    cell = printable(" ".join(cell.split()))
    for character in "\\|`*_<>[]&~$":
        cell = cell.replace(character, f"\\{character}")
    return cell


def _csv(lines: Sequence[Mapping[str, object]]) -> str:
    names = list(dict.fromkeys(name for line in lines for name in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in line.items()} for line in lines)
    return text.getvalue()


def _cell(value: object) -> object:
    return spreadsheet_cell(printable(value)) if isinstance(value, str) else value
