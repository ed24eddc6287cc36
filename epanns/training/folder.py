"""The folder of a training run: its configuration, state, metrics and, in the end, its best checkpoint."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from epanns.atomic import is_free_for, partial_of, write_json
from epanns.claim import Work, claim
from epanns.errors import OutputError
from epanns.models.checkpoint import CARD, CONFIG, LABELS, WEIGHTS, save_checkpoint
from epanns.models.recipe import training_step_of
from epanns.models.tagger import Tagger
from epanns.training import events, metrics
from epanns.training.state import TrainingState, saved_states

CURVES = ("learning_curve.svg", "learning_curve.png", "learning_curve.pdf")  # drawn by `reporting`, removed here

_RUN, _BEST = "training.json", "best"
_WORK = Work("is no training run", "holds a run with")
_LITTER = ("*.partial", f"{_BEST}.*", f".{_BEST}*")  # what a killed writer leaves


class RunFolder:
    """A training run on disk.

    While it runs: ``training.json`` (what was asked), the last two states, the metrics and ``best/``, a checkpoint.
    When it has ended, the best checkpoint's files stand in the folder itself, which is then a checkpoint folder.
    """

    def __init__(self, path: Path, asked: Mapping[str, Any]) -> None:
        self.path = path
        self.asked = dict(asked)

    def open(self) -> dict[str, Any] | None:
        """Claim the folder for this run; return the result if the run has ended before, else None.

        Raises:
            OutputError: If the folder holds another run or something else.
        """
        return claim(
            self.path / _RUN,
            self.asked,
            _WORK,
            first={"asked": self.asked},
            read=lambda found: (found["asked"], found.get("result")),
        )

    def keep_best(self, model: Tagger, state: TrainingState, chosen_by: str) -> None:
        """Write the weights as the best so far by a score of that name."""
        kept = {"best_step": state.best_step, f"validation_{chosen_by}": state.best_score}
        step = {"step": training_step_of(model.provenance), **self.asked, **kept}
        save_checkpoint(model, self.path / _BEST, recipe=step, overwrite=True)

    def write_metrics(self, state: TrainingState) -> None:
        """Write one row per validation."""
        metrics.write_metrics(self.path, state.history)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Move the best checkpoint up, note the result, drop the states; harmless when done twice."""
        best = self.path / _BEST
        for name in (LABELS, CARD, WEIGHTS, CONFIG):  # the config last: without it the folder is no checkpoint
            if (best / name).exists():
                (best / name).replace(self.path / name)
        write_json(self.path / _RUN, {"asked": self.asked, "result": dict(result)})
        for state in saved_states(self.path):
            state.unlink(missing_ok=True)
        _tidy(self.path)


def start_over(path: Path) -> None:
    """Remove a training run's files (``--fresh``), and nothing else.

    Raises:
        OutputError: If the folder is no training run.
    """
    if is_free_for(path / _RUN):
        partial_of(path / _RUN).unlink(missing_ok=True)
        return
    if not (path / _RUN).exists():
        raise OutputError(f"{path} is no training run and is left alone: choose another --out")
    reports = (metrics.TABLE, metrics.LINES, *CURVES)
    own = (CONFIG, WEIGHTS, LABELS, CARD, *reports, *(state.name for state in saved_states(path)))
    litter = {_BEST, *(file.name for pattern in _LITTER for file in path.glob(pattern))}
    logs = path / events.FOLDER
    foreign = {file.name for file in path.iterdir()} - {*own, _RUN, logs.name} - litter
    foreign |= {f"{logs.name}/{file.name}" for file in {*logs.glob("*")} - {*logs.glob(events.EVENT_FILES)}}
    if foreign:
        raise OutputError(f"{path} holds {min(foreign)} too, which is no part of a run: move it away")
    for folder in (path / _BEST, logs):
        shutil.rmtree(folder, ignore_errors=True)
    for name in own:
        (path / name).unlink(missing_ok=True)
    _tidy(path)
    (path / _RUN).unlink(missing_ok=True)  # last: while it is there, the folder is known as a run


def _tidy(path: Path) -> None:
    """Remove what writing leaves behind when it is killed, and the emptied ``best``."""
    for file in [file for pattern in _LITTER for file in path.glob(pattern)]:
        file.unlink() if file.is_file() else shutil.rmtree(file, ignore_errors=True)
    if (path / _BEST).exists() and not any((path / _BEST).iterdir()):
        (path / _BEST).rmdir()
