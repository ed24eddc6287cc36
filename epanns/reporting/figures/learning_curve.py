"""Learning curves of training runs: training loss and validation score against the step."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epanns.errors import DataError
from epanns.labels import DECISIVE_SCORES, TASKS
from epanns.reporting.figures import style as canvas
from epanns.strict import TEXT, number, one_of, or_none, value_problems
from epanns.text_files import read_json
from epanns.training.metrics import BEST, LINES, read_metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_RUN = "training.json"
_DECISIVE = {activation: DECISIVE_SCORES[task] for task, activation in TASKS.items()}
_MODEL = {"name": TEXT, "activation": one_of(_DECISIVE)}
_LARGEST = 1e18  # of a step or a loss, so that an axis can show it
_SCORE = or_none(number("null, or a number in [0, 1]", lambda value: 0 <= value <= 1))
_STEP = or_none(number(f"null, or a number in [0, {_LARGEST:g}]", lambda value: 0 <= value <= _LARGEST))
_LOSS = or_none(number(f"null, or a number of at most {_LARGEST:g}", lambda value: abs(value) <= _LARGEST))
_LINES = ("-", "--", ":", "-.")
_MARKS = 8  # on a long curve, so that curves differ without colour

_LEFT, _MARGIN, _PANEL, _GAP = 1.3, 0.2, 2.9, 0.25  # cm

OF_RECORDS = "score"  # name of the score of curves that are made of run records


@dataclass(frozen=True)
class Curve:
    """A training run as it is drawn.

    Attributes:
        score: Name of the score that decides which step is kept: ``mAP``, or ``accuracy`` of single-label networks;
            `OF_RECORDS` where run records do not name it.
        loss: ``(step, mean training loss since the point before)``.
        scores: ``(step, validation score)``.
        best_step: Step whose weights are kept; None before the first is chosen.
    """

    name: str
    network: str
    score: str
    loss: tuple[tuple[float, float], ...]
    scores: tuple[tuple[float, float], ...]
    best_step: float | None = None

    @property
    def best(self) -> tuple[float, float]:
        """The kept step and its score; the first step with the highest score where none is named."""
        kept = [point for point in self.scores if point[0] == self.best_step]
        return kept[0] if kept else max(self.scores, key=lambda point: (point[1], -point[0]))

    @property
    def summary(self) -> str:
        """Score and step that are kept, such as ``0.6123 at step 1,200``."""
        step, score = self.best
        return f"{score:.4f} at step {step:,.0f}"


def is_run(folder: Path) -> bool:
    """Return whether a folder holds a training run with points to draw."""
    return (folder / _RUN).is_file() and (folder / LINES).is_file()


def read_curve(folder: Path) -> Curve:
    """Read the learning curve of a run folder, whether or not the run has ended.

    Raises:
        DataError: If a file of the run cannot be read, or holds no validation.
    """
    rows = read_metrics(folder)
    model = read_json(folder / _RUN, error=DataError)
    for key in ("asked", "model"):
        model = model.get(key) if isinstance(model, dict) else None
    model = {"name": None, "activation": "sigmoid", **(model if isinstance(model, dict) else {})}
    if problems := value_problems(model, _MODEL, prefix="asked.model."):
        raise DataError(
            f"{folder / _RUN}: cannot be read as a training run ({'; '.join(problems)}); give the run's whole folder"
        )
    score = _DECISIVE[model["activation"]]
    for place, row in enumerate(rows, start=1):
        if problems := value_problems(row, {"step": _STEP, "loss": _LOSS, score: _SCORE}):
            raise DataError(f"{folder / LINES}, line {place}: {problems[0]}; restore the file")
    points = {
        name: tuple((row.get("step") or 0.0, value) for row in rows if (value := row.get(name)) is not None)
        for name in ("loss", score)
    }
    if not points[score]:
        raise DataError(
            f"{folder}: cannot be read as a training run (no {score} in {LINES}); give a run that validated"
        )
    return Curve(folder.resolve().name, model["name"], score, points["loss"], points[score], rows[-1].get(BEST))


def write_learning_curves(runs: Sequence[Path], out: Path, *, stem: str, images: bool = True) -> tuple[Path, ...]:
    """Draw runs in one figure and write it as SVG, PDF and PNG; older files of the same names are replaced.

    Without `images`, only the SVG is written, as PDF and PNG take seconds. The files written are returned.

    Raises:
        DataError: If a run cannot be read.
    """
    curves = [read_curve(run) for run in runs]
    if len({curve.name for curve in curves}) < len(curves):  # folders in different places with one name
        curves = [replace(curve, name=str(run)) for curve, run in zip(curves, runs, strict=True)]
    title = f"Learning curves: {'; '.join(f'{curve.name}: {curve.summary}' for curve in curves)}"
    return canvas.save(learning_figure(curves), out, stem, title=title, images=images)


@canvas.paper_style()
def learning_figure(curves: Sequence[Curve]) -> "Figure":
    """Draw the loss above and each score below, a line per run and a star at the step that is kept."""
    from matplotlib.lines import Line2D

    scores = list(dict.fromkeys(curve.score for curve in curves))
    losses = [] if scores == [OF_RECORDS] else ["training loss"]  # records hold none
    networks = ", ".join(dict.fromkeys(curve.network for curve in curves))
    title = f"{curves[0].name if len(curves) == 1 else f'{len(curves)} runs'}: {networks}"
    width = canvas.COLUMN - 2 * _MARGIN
    meaning = "star: the step that is kept" if losses else "fine-tuning, mean over seeds; star: the highest score"
    remark = meaning + (f", {curves[0].score} {curves[0].summary}" if len(curves) == 1 else "")
    heading = canvas.Heading(title, remark, width)
    entries = [(f"{curve.name}: {curve.summary}", _look(place)) for place, curve in enumerate(curves)]
    legend = canvas.Legend([(Line2D([], [], **look), text) for text, look in entries if len(curves) > 1], width)
    bottom = heading.height + len([*losses, *scores]) * (_PANEL + _GAP) + 0.6
    figure = canvas.new_figure(bottom + legend.height + 0.25)
    heading.draw(figure, _MARGIN, 0.1)
    legend.draw(figure, _MARGIN, 0.1 + bottom)
    top, shared = heading.height + 0.1, None
    for label in [*losses, *scores]:
        axes = canvas.add_axes(figure, _LEFT, top, canvas.COLUMN - _LEFT - 0.3, _PANEL, sharex=shared)
        shared = shared or axes
        for place, curve in enumerate(curves):
            points = curve.loss if label == "training loss" else curve.scores if label == curve.score else ()
            if points:
                every = 1 if len(points) <= 2 * _MARKS else len(points) // _MARKS
                axes.plot(*zip(*points, strict=True), markevery=every, **_look(place))
            if points and label == curve.score:
                star: dict[str, Any] = {
                    "marker": "*",
                    "markersize": 9,
                    "color": f"C{place}",
                    "markeredgecolor": canvas.BLACK,
                }
                axes.plot(*curve.best, markeredgewidth=0.5, zorder=4, **star)
        axes.margins(y=0.1)
        axes.set_ylabel(label if label == "training loss" else f"validation {label}")
        axes.yaxis.set_label_coords(-0.92 / (canvas.COLUMN - _LEFT - 0.3), 0.5)
        axes.locator_params(nbins=5, steps=[1, 2, 5, 10])
        axes.xaxis.set_major_formatter("{x:,.0f}")
        is_last = label == scores[-1]
        axes.tick_params(labelbottom=is_last)
        axes.set_xlabel("step" if is_last else "")
        top += _PANEL + _GAP
    return figure


def _look(place: int) -> dict[str, Any]:
    round_of_markers, marker = divmod(place, len(canvas.MARKERS))
    look = {"color": f"C{place}", "marker": canvas.MARKERS[marker], "markersize": 3.5}
    return look | {"linestyle": _LINES[round_of_markers % len(_LINES)]}
