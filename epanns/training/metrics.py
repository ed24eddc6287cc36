"""What a run has measured so far, one row per validation, in files for people and for programs."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from epanns.atomic import write_text
from epanns.errors import DataError
from epanns.strict import number, or_none, shown, value_problems
from epanns.text_files import parse_json, read_text

if TYPE_CHECKING:
    from epanns.training.state import TrainingState

TABLE, LINES = "metrics.csv", "metrics.jsonl"
CURVE = "learning_curve"  # name, without suffix, of the figure that `reporting` makes of them
_BEFORE_SCORES = ("step", "loss", "gradient_norm", "learning_rate")
LOSS = "validation_loss"  # key of a validation's mean loss, which decides between equal scores
BEST = "best_step"  # column of the step that was kept as the best when the row was written
STEP_0_KEPT = "no trained step was better: the weights from before training are kept"
_LONGEST = 64 << 20  # bytes: 200,000 rows
_REMEDY = "restore the file, or delete it with its run"
_CELL = or_none(number("null, or a number that float32 holds", lambda value: abs(value) < 1e39))
_BEHIND_SCORES = (LOSS, BEST, "skipped", "seconds", "data_seconds")


def row_of(state: "TrainingState", learning_rate: float, scores: Mapping[str, float]) -> dict[str, float]:
    """Return the row of a validation; means over no step are NaN.

    Args:
        state: Of the run, after the best step was chosen and before its sums over the steps since the last row are
            set back.
        learning_rate: Of the last step.
        scores: Scores of the validation and, where it measures one, its loss.
    """
    count = state.loss_count or math.nan
    before = (state.step, state.loss_sum / count, state.norm_sum / count, learning_rate)
    return {
        **dict(zip(_BEFORE_SCORES, before, strict=True)),
        **scores_of(scores),
        **({LOSS: scores[LOSS]} if LOSS in scores else {}),
        BEST: state.best_step,
        "skipped": state.skipped,
        "seconds": round(state.seconds, 3),
        "data_seconds": round(state.data_seconds, 3),
    }


def scores_of(row: Mapping[str, float]) -> dict[str, float]:
    """Return the scores in a row."""
    return {name: value for name, value in row.items() if name not in (*_BEFORE_SCORES, *_BEHIND_SCORES)}


def write_metrics(folder: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write all rows anew, as a CSV table and as JSON lines.

    A number that does not exist yet, such as the loss before the first step, is empty in the table and null in JSON.
    """
    text = io.StringIO()
    columns = list(dict.fromkeys(name for row in rows for name in row))  # a run of an earlier version had fewer
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: f"{value:.6g}" for name, value in row.items() if math.isfinite(value)} for row in rows)
    write_text(folder / TABLE, text.getvalue())
    lines = [{name: value if math.isfinite(value) else None for name, value in row.items()} for row in rows]
    write_text(folder / LINES, "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines))


def read_metrics(folder: Path) -> list[dict[str, float | None]]:
    """Read the rows of a run; a number that does not exist is None.

    Raises:
        DataError: If there are none, or the file cannot be read or holds anything but numbers that float32 can hold.
    """
    path = folder / LINES
    lines = read_text(path, error=DataError, limit=_LONGEST, remedy=_REMEDY).splitlines()
    if not lines:
        raise DataError(f"{path}: holds no row: {_REMEDY}")
    rows = []
    for place, line in enumerate(lines, start=1):
        row = parse_json(line, f"{path}, line {place}", error=DataError, remedy=_REMEDY)
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {place}: must be a table, is {shown(row)}: {_REMEDY}")
        for problem in value_problems(row, dict.fromkeys(row, _CELL)):
            raise DataError(f"{path}, line {place}: {problem}: {_REMEDY}")
        rows.append({name: None if value is None else float(value) for name, value in row.items()})
    return rows
