"""The fine-tuning experiment as a figure: how far each network is from its unpruned one, after so many iterations."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from epanns.reporting.chart import Band, Chart, LegendEntry, Panel, Point, Series, Style

_MARKERS = ("circle", "square", "triangle", "diamond")
_FIRST = 5  # iterations: a logarithm knows no 0
_MARKS = 8  # on a line


class Learned(Protocol):
    """What the figure shows of a run."""

    seed: int
    curve: Sequence[Sequence[float]]
    goal: float


def finetuning_chart(title: str, ways: Mapping[str, Sequence[Learned]]) -> Chart:
    """Return the chart of some ways, each with a line for every seed; the unpruned networks are the line at 0."""
    seeds = sorted({run.seed for runs in ways.values() for run in runs})
    lines = [
        _line(way, run, Style(colour, _MARKERS[seeds.index(run.seed) % len(_MARKERS)]))
        for colour, (way, runs) in enumerate(ways.items())
        for run in runs
    ]
    last = max(point.x for line in lines for point in line.points)
    unpruned = Series("unpruned", (Point(_FIRST, 0), Point(last, 0)), Style(None, "circle"), True, marked_every=3)
    panel = Panel("iterations", "mAP less unpruned", (unpruned, *lines), y_is_score=False)
    styles = {way: Style(colour, "circle") for colour, way in enumerate(ways)}
    legend = [LegendEntry(way, style, shows_marker=False, shows_line=True) for way, style in styles.items()]
    legend += [LegendEntry(f"seed {seed}", Style(None, _MARKERS[place])) for place, seed in enumerate(seeds)]
    told = "Validation mAP less that of the unpruned network, which is the line at 0; 50 % of C7-C12 cut by L1."
    return Chart((Band(title, told, (panel,), tuple(legend)),), f"{title}: {'; '.join(ways)}")


def _line(way: str, run: Learned, style: Style) -> Series:
    points = tuple(Point(step, score - run.goal) for step, score in run.curve if step >= _FIRST)
    return Series(way, points, style, is_joined=True, marked_every=max(1, len(points) // _MARKS))
