"""How runs learned: the training loss and the validation score against the step."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from epanns.atomic import write_text
from epanns.errors import DataError
from epanns.labels import DECISIVE_SCORES, TASKS
from epanns.reporting import figures
from epanns.reporting.chart import Band, Chart, LegendEntry, Panel, Point, Series, Style
from epanns.reporting.layout import PALETTE, lay_out
from epanns.reporting.svg import to_svg
from epanns.strict import TEXT, number, one_of, or_none, value_problems
from epanns.text_files import read_json
from epanns.training.metrics import BEST, LINES, read_metrics

_RUN = "training.json"
_DECISIVE = {activation: DECISIVE_SCORES[task] for task, activation in TASKS.items()}
_MODEL = {"name": TEXT, "activation": one_of(_DECISIVE)}
_LARGEST = 1e18  # of a step or a loss, so that an axis can show it
_SCORE = or_none(number("null, or a number in [0, 1]", lambda value: 0 <= value <= 1))
_STEP = or_none(number(f"null, or a number in [0, {_LARGEST:g}]", lambda value: 0 <= value <= _LARGEST))
_LOSS = or_none(number(f"null, or a number of at most {_LARGEST:g}", lambda value: abs(value) <= _LARGEST))
_MARKERS = ("circle", "square", "triangle", "diamond")
_MARKS = 8  # on a curve of more than twice as many points, so that curves are told apart without colour


@dataclass(frozen=True)
class Curve:
    """A run as it is drawn.

    Attributes:
        name: Of its folder.
        network: Name of the network.
        score: Name of the score that chose the step that was kept: ``mAP``, or ``accuracy`` of single-label networks.
        loss: ``(step, mean training loss since the point before)``.
        scores: ``(step, validation score)``.
        best_step: Step whose weights were kept; None in runs of earlier versions, which kept the first of those with
            the highest score.
    """

    name: str
    network: str
    score: str
    loss: tuple[tuple[float, float], ...]
    scores: tuple[tuple[float, float], ...]
    best_step: float | None = None

    @property
    def best(self) -> tuple[float, float]:
        """The step that was kept, and its score."""
        kept = [point for point in self.scores if point[0] == self.best_step]
        return kept[0] if kept else max(self.scores, key=lambda point: (point[1], -point[0]))


def is_run(folder: Path) -> bool:
    """Return whether a folder holds a training run with something to draw."""
    return (folder / _RUN).is_file() and (folder / LINES).is_file()


def read_curve(folder: Path) -> Curve:
    """Read a run folder, of a run that has ended or not.

    Raises:
        DataError: If its files cannot be read.
    """
    rows = read_metrics(folder)
    model = _model_of(folder / _RUN)
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


def _model_of(path: Path) -> dict[str, str]:
    """Return the name and the activation of the network of a run."""
    found = read_json(path, error=DataError)
    for key in ("asked", "model"):
        found = found.get(key) if isinstance(found, dict) else None
    model = {"name": None, "activation": "sigmoid", **(found if isinstance(found, dict) else {})}
    if problems := value_problems(model, _MODEL, prefix="asked.model."):
        raise DataError(
            f"{path}: cannot be read as a training run ({'; '.join(problems)}); give the run's whole folder"
        )
    return {key: model[key] for key in _MODEL}


def write_learning_curves(runs: Sequence[Path], out: Path, *, stem: str, images: bool = True) -> tuple[Path, ...]:
    """Draw runs in one figure, as SVG and, with matplotlib installed, as PNG and PDF; an earlier one is replaced.

    Args:
        runs: Run folders.
        out: Folder of the figure.
        stem: Name of its files without suffix.
        images: Whether to draw PNG and PDF, which takes seconds.

    Raises:
        DataError: If a run cannot be read.
    """
    drawing = lay_out(learning_chart(_named_apart([read_curve(run) for run in runs], runs)))
    write_text(out / f"{stem}.svg", to_svg(drawing))
    others = [out / f"{stem}{suffix}" for suffix in (".png", ".pdf")]
    for path in others:
        path.unlink(missing_ok=True)
        if images and figures.can_draw():
            figures.draw(drawing, path)
    return (out / f"{stem}.svg", *(path for path in others if path.exists()))


def _named_apart(curves: Sequence[Curve], runs: Sequence[Path]) -> list[Curve]:
    """Call the runs by their paths where folders in different places have one name."""
    is_plain = len({curve.name for curve in curves}) == len(curves)
    return [curve if is_plain else replace(curve, name=str(run)) for curve, run in zip(curves, runs, strict=True)]


def learning_chart(curves: Sequence[Curve]) -> Chart:
    """Return loss on the left and score on the right, one curve for each run, the step that was kept marked."""
    is_alone = len(curves) == 1
    loss = tuple(_line(number, curve.name, curve.loss) for number, curve in enumerate(curves))
    panels = [Panel("step", "training loss", loss, x_is_log=False, y_is_score=False)]
    for score in dict.fromkeys(curve.score for curve in curves):
        chosen = [(number, curve) for number, curve in enumerate(curves) if curve.score == score]
        lines = tuple(_line(number, curve.name, curve.scores) for number, curve in chosen)
        stars = tuple(_star(number, curve, is_named=is_alone) for number, curve in chosen)
        panels.append(Panel("step", f"validation {score}", lines + stars, x_is_log=False))
    kept = [f"{curve.name}: {_kept(curve)}" for curve in curves]
    legend = [LegendEntry(text, _style(number), shows_line=True) for number, text in enumerate(kept)]
    networks = ", ".join(dict.fromkeys(curve.network for curve in curves))
    title = f"{curves[0].name if is_alone else f'{len(curves)} runs'}: {networks}"
    subtitle = "Loss: mean over the steps since the point before. Star: the step that was kept, with its score."
    band = Band(title, subtitle, tuple(panels), () if is_alone else tuple(legend))
    return Chart((band,), f"Learning curves: training loss and validation score against the step. {'; '.join(kept)}")


def _style(number: int) -> Style:
    return Style(number, _MARKERS[number % len(_MARKERS)], is_dashed=number // len(PALETTE) % 2 == 1)


def _line(number: int, name: str, points: Sequence[tuple[float, float]]) -> Series:
    every = 1 if len(points) <= 2 * _MARKS else len(points) // _MARKS
    return Series(name, tuple(Point(*point) for point in points), _style(number), is_joined=True, marked_every=every)


def _star(number: int, curve: Curve, *, is_named: bool) -> Series:
    point = Point(*curve.best, label=_kept(curve) if is_named else "")
    return Series(curve.name, (point,), Style(number, "star"))


def _kept(curve: Curve) -> str:
    step, score = curve.best
    return f"{score:.4f} at {step:,.0f}"
