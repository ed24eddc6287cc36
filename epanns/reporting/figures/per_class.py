"""Average precision by class, of one evaluation or several, as dots on a line per class."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from epanns.reporting.figures import style as canvas
from epanns.reporting.figures.bands import Look
from epanns.reporting.sources import ClassScores
from epanns.safe_text import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROW, _MARGIN, _LEFT = 0.34, 0.2, 3.5  # cm: height of a class, margin, and room for its name
_MOST_CLASSES, _MOST_EVALUATIONS = 60, 7


@canvas.paper_style()
def per_class_figure(classes: Sequence[ClassScores]) -> "Figure":
    """Draw a dot for each class and evaluation, the class with the highest AP of the first evaluation at the top.

    Of more than 60 classes, the 30 best and the 30 worst are drawn; of more than 7 evaluations, the first 7.
    """
    from matplotlib.lines import Line2D

    shown = classes[:_MOST_EVALUATIONS]
    by_class = [{name: ap for name, _, ap in scores.rows if ap is not None} for scores in shown]
    names = sorted({name for found in by_class for name in found}, key=lambda name: -by_class[0].get(name, -1.0))
    remark = f"{len(names)} classes with a positive clip"
    if len(names) > _MOST_CLASSES:
        half = _MOST_CLASSES // 2
        names = names[:half] + names[-half:]
        remark = f"the {half} best and the {half} worst of {remark}"
    if len(shown) < len(classes):
        remark += f"; {len(shown)} of {len(classes)} evaluations"
    width = canvas.COLUMN - 2 * _MARGIN
    heading = canvas.Heading("Average precision by class", remark, width)
    looks: list[Look] = [
        {"color": f"C{n}", "marker": canvas.MARKERS[n], "linestyle": "none"} for n in range(len(shown))
    ]
    entries = [(Line2D([], [], **look), scores.name) for look, scores in zip(looks, shown, strict=True)]
    legend = canvas.Legend(entries, width)
    height = _ROW * max(len(names), 1)
    figure = canvas.new_figure(heading.height + height + legend.height + 1.4)
    heading.draw(figure, _MARGIN, 0.1)
    axes = canvas.add_axes(figure, _LEFT, heading.height + 0.15, canvas.COLUMN - _LEFT - 0.3, height)
    for look, found in zip(looks, by_class, strict=True):
        places = [place for place, name in enumerate(names) if name in found]
        axes.plot([found[names[place]] for place in places], places, markersize=4, **look)
    axes.set_ylim(max(len(names), 1) - 0.5, -0.5)
    axes.set_xlim(-0.02, 1.02)
    labels = [canvas.shortened(name, _LEFT - _MARGIN - 0.2) for name in names]
    axes.set_yticks(range(len(names)), [printable(label) for label in labels])
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("average precision")
    legend.draw(figure, _MARGIN, heading.height + height + 1.15)
    return figure
