"""The contest with LEAN as a figure: a line for each network, its mAP with every seed, and what it costs."""

from collections.abc import Sequence
from typing import Protocol

from epanns.reporting.drawing import Drawing, Label, Shape, Stroke, text_width

_TEXT, _HEADING, _ROW, _MARGIN = 13.0, 15.0, 26.0, 16.0
_SCALE = 420.0  # pixels from 0 to 1
_COLOURS = ("#0072b2", "#d55e00")  # of what had heard AudioSet, and of what had heard nothing
_GREY = "#555555"

Element = Stroke | Shape | Label


class Line(Protocol):
    """What a line of the figure tells of a network."""

    name: str
    known: str
    scores: list[float]

    @property
    def costs(self) -> str:
        """Parameters and multiply-adds, in words."""


def contest_drawing(title: str, rows: Sequence[Line]) -> Drawing:
    """Return the drawing: names at the left, scores, costs at the right; in groups by what was heard before."""
    left = _MARGIN + max(text_width(row.name, _TEXT) for row in rows) + 16
    right = left + _SCALE
    elements: list[Element] = [Label((_MARGIN, _MARGIN + _HEADING), title, _HEADING, is_bold=True)]
    top, marks, groups = _MARGIN + 3.2 * _HEADING, list[Element](), list(dict.fromkeys(row.known for row in rows))
    y = top
    for group, colour in zip(groups, _COLOURS, strict=False):
        y += 0.8 * _ROW
        marks.append(Label((_MARGIN, y), f"Had heard before: {group}", _TEXT, is_bold=True, colour=colour))
        for row in (row for row in rows if row.known == group):
            y += _ROW
            marks += _line(row, left, right, y, colour)
        y += 0.5 * _ROW
    for tenth in range(0, 11, 2):
        x = left + _SCALE * tenth / 10
        elements.append(Stroke(((x, top), (x, y)), "#dddddd", 1))
        elements.append(Label((x, y + 16), f"{tenth / 10:.1f}", _TEXT, "middle"))
    elements.append(Label((left + _SCALE / 2, y + 36), "mAP: the mean, and each seed", _TEXT, "middle"))
    width = right + 14 + max(text_width(row.costs, _TEXT) for row in rows) + _MARGIN
    return Drawing(width, y + 36 + _MARGIN, (*elements, *marks), title)


def _line(row: Line, left: float, right: float, y: float, colour: str) -> list[Element]:
    middle = y - 0.36 * _TEXT
    mean = left + _SCALE * sum(row.scores) / len(row.scores)
    elements: list[Element] = [
        Label((_MARGIN + 8, y), row.name.replace("`", ""), _TEXT),
        Stroke(((left, middle), (mean, middle)), colour, 1),
        Shape(((mean, middle),), colour, "#ffffff", 1, radius=6),
        Label((right + 14, y), row.costs, _TEXT, colour=_GREY),
    ]
    for score in row.scores:
        x = left + _SCALE * score
        elements.append(Stroke(((x, middle - 8), (x, middle + 8)), colour, 1.5))
    return elements
