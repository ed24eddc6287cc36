"""Measured rows as Markdown and CSV."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from epanns.records import STAGES, RunRecord
from epanns.reporting.notation import (
    MISSING,
    csv_text,
    escaped,
    markdown_table,
    megabytes,
    short_layers,
    si,
    signed_percent,
    without_empty,
)
from epanns.reporting.rows import AGREEMENT, BlockKey, Estimate, Row
from epanns.safe_text import printable
from epanns.sweeps.journal import Failure
from epanns.training.metrics import STEP_0_KEPT

FOOTNOTE = (
    "mAP: macro average precision, mean ± sample standard deviation over seeds. *no recovery*: the pruned network "
    "itself (unpruned: as trained); *recovered*: after recovery without labels; *fine-tuned*: after "
    "the given iterations. MACs: convolutions and linear layers, one multiply-add = 1, without the front end. "
    "MB: 10⁶ bytes of float32 parameters. In brackets: change from the unpruned network."
)
ACCURACY_NOTE = "Accuracy: share of the clips whose class has the highest score, mean and deviation likewise."
AGREEMENT_NOTE = (
    "Own tags: mAP of the scores for the tags that the unpruned network gives to the same clips, without labels, after "
    "the last stage."
)
FOLDS_NOTE = (
    "Rows with folds: mean and deviation over the networks of all folds and seeds, each scored on its test fold."
)
ONE_NETWORK_NOTE = "± –: one network, scored under several seeds, has no spread."
UNTRAINED_NOTE = f"†: {STEP_0_KEPT} (in one run or more of the row)."


def measured_markdown(blocks: Mapping[BlockKey, Sequence[Row]], failures: Sequence[Failure] = ()) -> str:
    """Return one Markdown table per block, under a title of what its rows share.

    A table has accuracy where all of its rows have it. Failed trials are counted below, by reason.
    """
    parts = []
    for key, rows in blocks.items():
        columns = shown_columns(key, rows)
        shared = f"{key.dataset}, {key.split}, {key.protocol}, {key.clip_seconds:g} s input"
        body = [[escaped(cell(row)) for cell in columns.values()] for row in rows]
        parts.append(f"**{escaped(shared)}** (measured)\n\n{markdown_table(list(columns), body)}")
    parts.append(footnotes(blocks))
    if failures:
        reasons = Counter(failure.reason for failure in failures).most_common()
        counted = [f"{count} of them: {printable(reason)}." for reason, count in reasons]
        parts.append(escaped(f"Trials without a result, which are in no row: {len(failures)}. {' '.join(counted)}"))
    return "\n\n".join(parts) + "\n"


def footnotes(blocks: Mapping[BlockKey, Sequence[Row]]) -> str:
    """Return what the columns and signs of the tables of these rows mean."""
    rows = [row for members in blocks.values() for row in members]
    estimates = [found for row in rows for found in (*row.mAP.values(), *row.accuracy.values())]
    notes = [
        FOOTNOTE,
        *([ACCURACY_NOTE] if any(map(_have_accuracy, blocks.values())) else []),
        *([AGREEMENT_NOTE] if any(AGREEMENT[0] in row.agreement for row in rows) else []),
        *([FOLDS_NOTE] if any(row.n_folds for row in rows) else []),
        *([ONE_NETWORK_NOTE] if any(found.n == 1 < found.n_seeds for found in estimates) else []),
        *([UNTRAINED_NOTE] if any(row.untrained for row in rows) else []),
    ]
    return " ".join(notes)


def measured_csv(blocks: Mapping[BlockKey, Sequence[Row]]) -> str:
    """Return every row of every block with full precision; `param_reduction` and `mac_reduction` are fractions."""
    lines: list[dict[str, object]] = []
    has_names = any(row.name for rows in blocks.values() for row in rows)
    has_folds = any(row.n_folds for rows in blocks.values() for row in rows)
    has_agreement = any(row.agreement for rows in blocks.values() for row in rows)
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
            scores = {"mAP": row.mAP} | ({"accuracy": row.accuracy} if _have_accuracy(rows) else {})
            for score, estimates in scores.items():
                for stage in STAGES:
                    estimate = estimates.get(stage)
                    line[f"{score}_{stage}"] = estimate.mean if estimate else None
                    line[f"{score}_{stage}_sd"] = estimate.sd if estimate else None
            if has_agreement:
                line |= {name: row.agreement[name].mean if name in row.agreement else None for name in AGREEMENT}
            line |= {"n_folds": row.n_folds} if has_folds else {}
            lines.append(line | {"n_seeds": row.n_seeds, "settings": "; ".join(row.settings)})
    return csv_text(lines)


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
    return csv_text(lines)


def shown_columns(key: BlockKey, rows: Sequence[Row]) -> dict[str, Callable[[Row], str]]:
    """Return heading -> cell of the columns that a table of these rows needs, in their order."""
    single = {"Experiment"} if len({row.experiment for row in rows}) == 1 else set()
    return {name: cell for name, cell in without_empty(_columns(key, rows), rows).items() if name not in single}


def _columns(key: BlockKey, rows: Sequence[Row]) -> dict[str, Callable[[Row], str]]:
    """Return heading -> cell, in the order of the table."""
    accuracy = _at_stages("Accuracy", lambda row: row.accuracy) if _have_accuracy(rows) else {}

    def ratio(row: Row) -> str:
        if not row.is_pruned:
            return MISSING
        if row.budget is not None:
            return f"budget of {row.budget}"
        return "by layer" if row.ratio is None else f"{row.ratio:g}"

    def change(row: Row, reduction: float) -> str:
        return f" ({signed_percent(-reduction)})" if row.is_pruned else ""

    return {
        "Name": lambda row: row.name or MISSING,
        "Network": lambda row: row.network,
        "Experiment": lambda row: row.experiment,
        "Criterion": lambda row: row.variant,
        "Layers": lambda row: short_layers(row.layers),
        "Ratio": ratio,
        "Recovery": lambda row: row.recover if row.recover != "none" else MISSING,
        "Iterations": lambda row: f"{row.finetune_iterations:,}" if row.finetune_iterations else MISSING,
        "Other settings": lambda row: ", ".join(row.settings_in_words) or MISSING,
        "Parameters": lambda row: si(row.n_params) + change(row, row.param_reduction),
        "MB": lambda row: megabytes(row.param_bytes),
        f"MACs per {key.clip_seconds:g} s": lambda row: si(row.backbone_macs) + change(row, row.mac_reduction),
        **_at_stages("mAP", lambda row: row.mAP),
        **accuracy,
        "Own tags": lambda row: _mean_and_spread(row.agreement.get(AGREEMENT[0])),
        "Folds": lambda row: str(row.n_folds) if row.n_folds else MISSING,
        "Seeds": _seeds,
    }


def _seeds(row: Row) -> str:
    """Return the number of seeds, which is that of the networks on each fold."""
    if not row.n_folds:
        return str(row.n_seeds)
    seeds, others = divmod(row.n_seeds, row.n_folds)
    return f"{row.n_seeds} runs" if others else str(seeds)


def _at_stages(score: str, estimates: Callable[[Row], Mapping[str, Estimate]]) -> dict[str, Callable[[Row], str]]:
    """Return heading -> cell of a score at each stage."""

    def cell(row: Row, *stages: str) -> str:
        stage = next((stage for stage in stages if stage in estimates(row)), "")
        estimate = estimates(row).get(stage)
        return _mean_and_spread(estimate) + (" †" if estimate and stage in row.untrained else "")

    return {
        f"{score} no recovery": lambda row: cell(row, "dense", "pruned"),
        f"{score} recovered": lambda row: cell(row, "recovered"),
        f"{score} fine-tuned": lambda row: cell(row, "finetuned"),
        f"{score} evaluated": lambda row: cell(row, "evaluated"),
    }


def _mean_and_spread(estimate: Estimate | None) -> str:
    if estimate is None:
        return MISSING
    spread = f" ± {estimate.sd:.3f}" if estimate.sd is not None else f" ± {MISSING}" if estimate.n_seeds > 1 else ""
    return f"{estimate.mean:.3f}{spread}"


def _have_accuracy(rows: Sequence[Row]) -> bool:
    return all(row.has_accuracy for row in rows)


def _whole(value: float) -> int | float:
    return int(value) if value == int(value) else value
