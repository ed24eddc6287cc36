"""A chart to a drawing: axes, marks, error bars, names and legends in pixels."""

import math
import textwrap
from collections.abc import Iterable, Sequence
from itertools import pairwise

from epanns.reporting.axes import Axis, linear_axis, log_axis, score_axis
from epanns.reporting.chart import Band, Chart, LegendEntry, Panel, Series, Style
from epanns.reporting.drawing import Drawing, Label, Position, Shape, Stroke, shortened, text_width, wrapped
from epanns.reporting.placement import Box, box_around, boxes_along, place_labels
from epanns.reporting.units import si_tick

# Okabe and Ito's colours (2008), told apart with every common colour vision; yellow is too faint on white. Then
# two that are darker than all of them.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6B3E0A", "#4B2E83")
_BLACK, _GREY, _GRID = "#1a1a1a", "#555555", "#e3e3e3"

# Corners on the unit circle: (count, radius of every second corner, degrees of the first one from the top).
MARKERS = {
    "triangle": (3, 1.0, 0.0),
    "square": (4, 1.0, 45.0),
    "diamond": (4, 1.0, 0.0),
    "star": (10, 0.45, 0.0),
    "circle": (0, 1.0, 0.0),
}
_RADIUS = {"star": 10.0, "triangle": 6.2, "square": 6.0, "diamond": 6.2, "circle": 4.8}

WIDTH = 940.0
_MARGIN = 16.0
_PANEL_HEIGHT = 260.0
_LEFT, _RIGHT, _BOTTOM = 64.0, 14.0, 50.0
_TEXT, _SMALL, _HEADING = 13.0, 12.0, 15.0
_LINE = 18.0
_LONGEST_NAME = 220.0  # of a point, half a panel; legend and table have it whole

Element = Stroke | Shape | Label


def lay_out(chart: Chart) -> Drawing:
    """Return the drawing of a chart, as high as its bands need."""
    elements: list[Element] = []
    top = _MARGIN
    for band in chart.bands:
        shapes, top = _band(band, top)
        elements += shapes
        top += 1.5 * _LINE
    return Drawing(WIDTH, max(top, 3 * _LINE), tuple(elements), chart.description)


def _band(band: Band, top: float) -> tuple[list[Element], float]:
    """Draw heading, panels and legend from `top` down; return where they end."""
    elements: list[Element] = []
    for line in wrapped(band.title, 1.1 * _HEADING, WIDTH - 2 * _MARGIN):  # bold letters are wider
        elements.append(Label((_MARGIN, top + _HEADING), line, _HEADING, is_bold=True))
        top += _HEADING + 4
    columns = int((WIDTH - 2 * _MARGIN) / (0.55 * _SMALL))
    for line in textwrap.wrap(band.subtitle, columns):
        top += _LINE
        elements.append(Label((_MARGIN, top), line, _SMALL, colour=_GREY))
    top += 14
    width = (WIDTH - _MARGIN) / len(band.panels)
    for index, panel in enumerate(band.panels):
        left = _MARGIN + index * width
        frame = Box(left + _LEFT, top, left + width - _RIGHT - _MARGIN, top + _PANEL_HEIGHT)
        elements += _panel(panel, frame)
    return _legend(elements, band.legend, top + _PANEL_HEIGHT + _BOTTOM)


def _panel(panel: Panel, frame: Box) -> list[Element]:
    points = [point for series in panel.series for point in series.points]
    if not points:
        return []
    x_axis = (log_axis if panel.x_is_log else linear_axis)([point.x for point in points], frame.left, frame.right)
    ends = [value for point in points for value in (point.y - point.error, point.y + point.error)]
    y_axis = (score_axis if panel.y_is_score else linear_axis)(ends, frame.bottom, frame.top)
    elements = _axes(panel, frame, x_axis, y_axis)
    placed = [[(x_axis(point.x), y_axis(point.y)) for point in series.points] for series in panel.series]
    obstacles: list[Box] = []
    for series, places in zip(panel.series, placed, strict=True):
        elements += _lines(series, places, y_axis)
        for point, (x, y) in zip(series.points, places, strict=True):
            obstacles += boxes_along((x, y), (x, y_axis(min(point.y + point.error, y_axis.high))))
        if series.is_joined:
            obstacles += [box for start, end in pairwise(places) for box in boxes_along(start, end)]
    for series, places in zip(panel.series, placed, strict=True):
        marked = places[:: series.marked_every]
        elements += [mark(place, series.style) for place in marked]
        obstacles += [box_around(place, _RADIUS[series.style.marker]) for place in marked]
    named = [
        (place, shortened(point.label, _SMALL, _LONGEST_NAME))
        for series, places in zip(panel.series, placed, strict=True)
        for place, point in zip(places, series.points, strict=True)
        if point.label
    ]
    return elements + _names(named, obstacles, frame)


def _axes(panel: Panel, frame: Box, x_axis: Axis, y_axis: Axis) -> list[Element]:
    elements: list[Element] = []
    decimals = max(len(f"{tick:g}".partition(".")[2]) for tick in y_axis.ticks)
    for tick in y_axis.ticks:
        y = y_axis(tick)
        elements.append(Stroke(((frame.left, y), (frame.right, y)), _GRID, 1))
        elements.append(Label((frame.left - 8, y + 0.35 * _SMALL), f"{tick:.{decimals}f}", _SMALL, "end"))
    for tick in x_axis.ticks:
        x = x_axis(tick)
        elements.append(Stroke(((x, frame.top), (x, frame.bottom)), _GRID, 1))
        elements.append(Stroke(((x, frame.bottom), (x, frame.bottom + 5)), _BLACK, 1))
        elements.append(Label((x, frame.bottom + 19), si_tick(tick), _SMALL, "middle"))
    middle = ((frame.left + frame.right) / 2, (frame.top + frame.bottom) / 2)
    corner = ((frame.left, frame.top), (frame.left, frame.bottom), (frame.right, frame.bottom))
    elements.append(Stroke(corner, _BLACK, 1))
    elements.append(Label((middle[0], frame.bottom + 40), panel.x_label, _TEXT, "middle"))
    elements.append(Label((frame.left - 52, middle[1]), panel.y_label, _TEXT, "middle", is_upright=True))
    return elements


def _lines(series: Series, places: Sequence[Position], y_axis: Axis) -> list[Element]:
    """Draw the line through a series and its error bars."""
    colour = _colour(series.style)
    elements: list[Element] = []
    if series.is_joined and len(places) > 1:
        elements.append(Stroke(tuple(places), colour, 1.6, series.style.is_dashed))
    for point, (x, _) in zip(series.points, places, strict=True):
        if point.error:
            low, high = y_axis(max(point.y - point.error, y_axis.low)), y_axis(min(point.y + point.error, y_axis.high))
            elements.append(Stroke(((x, low), (x, high)), colour, 1.2))
            elements += [Stroke(((x - 4, end), (x + 4, end)), colour, 1.2) for end in (low, high)]
    return elements


def _names(named: Sequence[tuple[Position, str]], obstacles: Sequence[Box], frame: Box) -> list[Element]:
    boxes = place_labels(named, obstacles, frame, _SMALL)
    return [
        Label(((box.left + box.right) / 2, box.bottom - 0.18 * _SMALL), name, _SMALL, "middle")
        for box, (_, name) in zip(boxes, named, strict=True)
    ]


def _legend(elements: list[Element], entries: Iterable[LegendEntry], top: float) -> tuple[list[Element], float]:
    """Add the legend in lines as long as the figure is wide; return where it ends.

    The text of an entry that is wider than the figure goes on in the next line.
    """
    x, y, sample = _MARGIN + 8, top + _LINE, 30.0
    is_first = True
    for entry in entries:
        lines = wrapped(entry.text, _SMALL, WIDTH - 2 * _MARGIN - 8 - sample - 8)
        width = sample + 8 + max(text_width(line, _SMALL) for line in lines) + 18
        if not is_first and x + width > WIDTH - _MARGIN:
            x, y = _MARGIN + 8, y + 1.25 * _LINE
        middle = y - 0.35 * _SMALL
        if entry.shows_line:
            ends = ((x, middle), (x + sample, middle))
            elements.append(Stroke(ends, _colour(entry.style), 1.8, entry.style.is_dashed))
        if entry.shows_marker:
            elements.append(mark((x + sample / 2, middle), entry.style))
        elements += [Label((x + sample + 8, y + place * _LINE), line, _SMALL) for place, line in enumerate(lines)]
        x, is_first = x + width, False
        if len(lines) > 1:
            x, y = WIDTH, y + (len(lines) - 1) * _LINE
    return elements, top if is_first else y + 8


def mark(place: Position, style: Style) -> Shape:
    """Return the mark of a style at a place, with a white rim so that marks on top of each other stay apart."""
    colour, radius = _colour(style), _RADIUS[style.marker]
    fill, outline, width = ("#ffffff", colour, 1.8) if style.is_hollow else (colour, "#ffffff", 0.8)
    corners, inner, turn = MARKERS[style.marker]
    if corners == 0:
        return Shape((place,), fill, outline, width, radius)
    outline_points = []
    for index in range(corners):
        angle = math.radians(turn + 360 * index / corners)
        reach = radius * (inner if index % 2 else 1.0)
        outline_points.append((place[0] + reach * math.sin(angle), place[1] - reach * math.cos(angle)))
    return Shape(tuple(outline_points), fill, outline, width)


def _colour(style: Style) -> str:
    """Return a colour of the palette; when it has been gone through, the colours come again, and darker each time."""
    if style.colour is None:
        return _BLACK
    times, place = divmod(style.colour, len(PALETTE))
    parts = [int(PALETTE[place][index : index + 2], 16) for index in (1, 3, 5)]
    return "#" + "".join(f"{round(part * 0.55**times):02X}" for part in parts)
