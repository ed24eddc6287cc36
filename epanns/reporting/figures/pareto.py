"""Pareto figures: mAP against costs, with the front drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import geometric_mean
from typing import TYPE_CHECKING

from epanns.reporting.figures import style as canvas
from epanns.reporting.figures.bands import CROWD, FRONT, MANY_NAMES, OTHER, UNPRUNED_LOOK, Band, Point, Strip
from epanns.reporting.front import pareto_front

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LEFT, _RIGHT, _GAP = 1.3, 0.2, 0.3  # cm: margins, and the gap between panels
_HALF = (canvas.COLUMN - _LEFT - _RIGHT - _GAP) / 2
_X_LABELS = 0.95  # cm: room for ticks and label below a panel


@canvas.paper_style()
def pareto_figure(bands: Sequence[Band]) -> "Figure":
    """Draw the bands below each other."""
    from matplotlib.lines import Line2D

    width = canvas.COLUMN - 2 * _RIGHT
    heads = [canvas.Heading(band.title, band.remark, width) for band in bands]
    legends = [canvas.Legend([(Line2D([], [], **look), text) for text, look in band.legend], width) for band in bands]
    panels = [_panels_height(band) for band in bands]
    figure = canvas.new_figure(
        sum(heads[i].height + panels[i] + legends[i].height + 0.4 for i in range(len(bands))) + 0.1
    )
    top = 0.1
    for band, head, legend, height in zip(bands, heads, legends, panels, strict=True):
        head.draw(figure, _RIGHT, top)
        _draw_panels(figure, band, top + head.height)
        legend.draw(figure, _RIGHT, top + head.height + height)
        top += head.height + height + legend.height + 0.4
    return figure


def _panels_height(band: Band) -> float:
    height = sum(strip.height for strip in band.strips) + _GAP / 2 * (len(band.strips) - 1) + _X_LABELS
    return len(band.x_labels) * height if band.is_wide else height


def _draw_panels(figure: "Figure", band: Band, top: float) -> None:
    width = 2 * _HALF + _GAP if band.is_wide else _HALF
    for column, x_label in enumerate(band.x_labels):
        points = [point for strip in band.strips for series in strip.series for point in series.points]
        costs = [cost for point in points if (cost := point.costs[column])]
        y = top + (column * _panels_height(band) / len(band.x_labels) if band.is_wide else 0)
        left = _LEFT + (0 if band.is_wide else column * (_HALF + _GAP))
        for strip in band.strips if costs else ():
            axes = canvas.add_axes(figure, left, y, width, strip.height)
            has_y_labels = band.is_wide or column == 0
            is_last = strip is band.strips[-1]
            low, high = canvas.set_log_axis(axes, costs, width)
            _draw_strip(axes, strip, column, (low, high), (high / low) ** (0.075 / width))
            axes.tick_params(labelleft=has_y_labels, labelbottom=is_last)
            axes.set_xlabel(x_label if is_last else "")
            axes.set_ylabel(strip.label if has_y_labels else "")
            axes.yaxis.set_label_coords(-0.92 / width, 0.5)
            y += strip.height + _GAP / 2


def _draw_strip(axes: "Axes", strip: Strip, column: int, limits: tuple[float, float], gap: float) -> None:
    """Draw one panel; points whose bars would overlap are drawn a factor `gap` apart."""
    ends = [
        min(max(point.mean + side * (0 if series.is_faint else point.sd), 0.0), 1.0)
        for series in strip.series
        for point in series.points
        for side in (-1, 1)
    ]
    room = 0.08 * max(max(ends) - min(ends), 0.02)
    names = sum(bool(point.label) for series in strip.series if series.look == OTHER for point in series.points)
    above = (4 if names > MANY_NAMES else 2 if strip.has_front else 1) * room  # names of networks need room
    axes.set_ylim(max(min(ends) - room, -0.02), min(max(ends) + above, 1 + max(room, above / 2)))
    axes.locator_params(axis="y", nbins=6 if strip.height > 2 else 3, steps=[1, 2, 5, 10])
    axes.set_yticks([tick for tick in axes.get_yticks() if axes.get_ylim()[0] <= tick <= min(axes.get_ylim()[1], 1.0)])
    labels, front = canvas.Labels(axes), list[tuple[float, float]]()
    for series, marks in zip(strip.series, _placed(strip, column, gap), strict=True):
        if series.is_reference and not marks:  # without this cost
            continue
        xs = [mark.x for mark in marks]
        means, sds = [mark.point.mean for mark in marks], [mark.point.sd for mark in marks]
        look, has_bars = series.look, any(sds) and not series.is_faint
        if series.is_reference:
            line = {name: look[name] for name in ("color", "linewidth", "linestyle")}
            axes.axhline(means[0], **line, zorder=1.5)
            labels.keep_off(*((x, means[0]) for x in limits))
            look = look | {"linestyle": "none"}
        if series.look == UNPRUNED_LOOK:  # the deviation as a band instead of a bar
            axes.axhspan(means[0] - sds[0], means[0] + sds[0], color="black", alpha=0.07, linewidth=0, zorder=0.5)
            has_bars = False
        axes.errorbar(xs, means, sds if has_bars else None, elinewidth=0.7, zorder=3, **look)
        if series.look == CROWD:
            continue
        labels.keep_off(*zip(xs, means, strict=True), has_marks=True)
        for x, mean, sd, mark in zip(xs, means, sds, marks, strict=True):
            labels.keep_off((x, mean - sd * has_bars), (x, mean + sd * has_bars))
            labels.add(x, mean, mark.point.label)
        front += [] if series.is_faint else zip(xs, means, strict=True)
    if strip.has_front:
        steps = [front[place] for place in pareto_front(front)]
        steps.append((limits[1], steps[-1][1]))
        axes.step(*zip(*steps, strict=True), where="post", **FRONT)
        labels.keep_off(
            *(corner for (x0, y0), (x1, y1) in pairwise(steps) for corner in ((x0, y0), (x1, y0), (x1, y1)))
        )
    labels.place()


@dataclass
class _Mark:
    """A point and the x at which it is drawn."""

    x: float
    point: Point


def _placed(strip: Strip, column: int, gap: float) -> list[list[_Mark]]:
    """Return the marks of each series by rising cost; marks whose bars would overlap are set a factor `gap` apart."""
    placed = [[_Mark(x, point) for point in series.points if (x := point.costs[column])] for series in strip.series]
    solid = [mark for series, marks in zip(strip.series, placed, strict=True) if not series.is_faint for mark in marks]
    clusters: list[list[_Mark]] = []
    for mark in sorted(solid, key=lambda mark: mark.x):
        for cluster in clusters:
            if any(
                mark.x < gap * other.x
                and abs(mark.point.mean - other.point.mean) <= mark.point.sd + other.point.sd + 0.01
                for other in cluster
            ):
                cluster.append(mark)
                break
        else:
            clusters.append([mark])
    for cluster in clusters:
        middle = geometric_mean([mark.x for mark in cluster])
        for index, mark in enumerate(cluster):
            mark.x = middle * gap ** (index - (len(cluster) - 1) / 2)
    return [sorted(marks, key=lambda mark: mark.x) for marks in placed]
