"""The measurements of a run, one row per validation: CSV, JSON lines and event files of TensorBoard."""

import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from epanns.atomic import write_text
from epanns.errors import ConfigError, DataError
from epanns.packages import install_command, is_installed
from epanns.strict import number, or_none, shown, value_problems
from epanns.text_files import parse_json, read_text

if TYPE_CHECKING:
    from epanns.training.resume import TrainingState

TABLE, LINES = "metrics.csv", "metrics.jsonl"
CURVE = "learning_curve"  # name, without suffix, of the figure that `reporting` draws of them
TENSORBOARD, EVENT_FILES = "tensorboard", "events.out.tfevents.*"
LOSS = "validation_loss"  # key of a validation's mean loss, which decides between equal scores
BEST = "best_step"  # column of the best step at the time of the row
STEP_0_KEPT = "no trained step was better: the weights from before training are kept"
_BEFORE_SCORES = ("step", "loss", "gradient_norm", "learning_rate")
_BEHIND_SCORES = (LOSS, BEST, "skipped", "seconds", "data_seconds")
_LONGEST = 64 << 20  # bytes: 200,000 rows
_REMEDY = "restore the file, or delete it with its run"
_CELL = or_none(number("null, or a number that float32 holds", lambda value: abs(value) < 1e39))


def row_of(state: "TrainingState", learning_rate: float, scores: Mapping[str, float]) -> dict[str, float]:
    """Return the row of a validation, before the sums of the state are reset; a mean over no steps is NaN."""
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
    """Write all rows as a CSV table and as JSON lines.

    A missing number, such as the loss before the first step, is an empty cell of the table and null in JSON.
    """
    text = io.StringIO()
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: f"{value:.6g}" for name, value in row.items() if math.isfinite(value)} for row in rows)
    write_text(folder / TABLE, text.getvalue())
    lines = [{name: value if math.isfinite(value) else None for name, value in row.items()} for row in rows]
    write_text(folder / LINES, "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines))


def read_metrics(folder: Path) -> list[dict[str, float | None]]:
    """Read the rows of a run; a missing number is None.

    Raises:
        DataError: If there are no rows, or the file cannot be read or holds a value that is no float32 number.
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


def require_tensorboard() -> None:
    """Raise `ConfigError` if the package tensorboard is not installed; nothing is imported."""
    if not is_installed("tensorboard"):
        raise ConfigError(
            f"--tensorboard needs the package tensorboard: {install_command('tensorboard')}; or leave the option out"
        )


@contextmanager
def event_log(run: Path, first_step: int, *, wanted: bool) -> Iterator[Callable[[Mapping[str, float]], None]]:
    """Yield a function that writes each number of a row as a scalar for TensorBoard and flushes it to disk.

    Args:
        run: Folder of the run; the event files are in ``tensorboard`` in it.
        first_step: First step whose row may follow. TensorBoard hides events of this and later steps that a killed
            process wrote, since these steps are repeated.
        wanted: Whether to write event files; if false, the function does nothing.
    """
    if not wanted:
        yield lambda row: None
        return
    from torch.utils.tensorboard import SummaryWriter  # imports protobuf, which takes half a second

    with SummaryWriter(str(run / TENSORBOARD), purge_step=first_step) as writer:

        def add(row: Mapping[str, float]) -> None:
            for name, value in row.items():
                if name != "step" and math.isfinite(value):
                    writer.add_scalar(name, value, int(row["step"]))
            writer.flush()

        yield add
