"""The outcome of a row: its configuration in words, the score of its last stage, and its mean learning curve."""

from collections.abc import Mapping
from statistics import fmean

from epanns.records import RunRecord
from epanns.reporting.rows import Estimate, Row

STAGES = ("finetuned", "recovered", "pruned", "evaluated", "dense")  # the first that a row has is its last stage
STAGE_WORDS = {
    "dense": "unpruned",
    "pruned": "no recovery",
    "recovered": "recovered",
    "finetuned": "fine-tuned",
    "evaluated": "as evaluated",
}


def result_of(row: Row) -> tuple[str, Estimate] | None:
    """Return the last stage of a row and its mAP; None for a row without a score."""
    return next(((stage, row.mAP[stage]) for stage in STAGES if stage in row.mAP), None)


def name_of(row: Row) -> str:
    """Return the configuration of a row in words."""
    removed = "" if row.ratio is None else f"{100 * row.ratio:.3g} % removed"
    amount = f"budget of {row.budget}" if row.budget else removed
    parts = [
        f"{row.name} ({row.network})" if row.name else row.network,
        row.variant,
        amount if row.is_pruned else "",
        row.recover if row.recover != "none" else "",
        f"{row.finetune_iterations:,} iterations" if row.finetune_iterations else "",
        *row.settings_in_words,
    ]
    return ", ".join(part for part in parts if part)


def mean_curve(row: Row, records: Mapping[str, RunRecord]) -> list[tuple[float, float]]:
    """Return the step and the mean validation score of fine-tuning at the steps that all runs of a row have.

    Args:
        row: A row; unpruned networks without fine-tuning have no curve.
        records: `trial_id` -> record.
    """
    if "finetuned" not in row.mAP:
        return []
    stages = [records[trial].stage("finetuned") for trial in row.trials]
    curves = [{step: score for step, score in stage.curve} for stage in stages if stage is not None and stage.curve]
    steps = sorted(set.intersection(*map(set, curves))) if curves else []
    return [(step, fmean(curve[step] for curve in curves)) for step in steps]
