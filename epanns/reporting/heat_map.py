"""Tables whose cells are coloured by their value, side by side over the same rows."""

from collections.abc import Sequence
from dataclasses import dataclass

from epanns.reporting.drawing import Drawing, Label, Shape, Stroke, text_width

_TEXT, _SMALL, _HEADING = 13.0, 12.0, 15.0
_LINE, _MARGIN = 18.0, 16.0
_ROW, _COLUMN, _GAP = 24.0, 58.0, 22.0
_GREY = "#555555"

Element = Stroke | Shape | Label


@dataclass(frozen=True)
class HeatMap:
    """One table.

    Attributes:
        title: Stands over its columns.
        columns: Their heads.
        values: A row of numbers for each row of the figure, None where there is none.
        full: The value that gets the full colour, > 0; larger ones too.
        colour: Of values above 0, ``#rrggbb``; `opposite` of those below.
        decimals: Shown of each value.
    """

    title: str
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    full: float
    colour: str
    opposite: str
    decimals: int

    @property
    def column_width(self) -> float:
        """Width of a column in pixels."""
        return max(_COLUMN, text_width(self.title, 1.1 * _TEXT) / len(self.columns))

    @property
    def width(self) -> float:
        """Width of the table in pixels."""
        return self.column_width * len(self.columns)


@dataclass(frozen=True)
class RowName:
    """A row's name, what is said beside it in grey, and whether a thin line separates it from the row above."""

    text: str
    remark: str = ""
    begins_group: bool = False


def heat_map_drawing(
    title: str, subtitle: Sequence[str], rows: Sequence[RowName], maps: Sequence[HeatMap], description: str
) -> Drawing:
    """Return the drawing: heading, the names of the rows, and the tables from left to right."""
    elements: list[Element] = [Label((_MARGIN, _MARGIN + _HEADING), title, _HEADING, is_bold=True)]
    top = _MARGIN + _HEADING + 4
    for line in subtitle:
        top += _LINE
        elements.append(Label((_MARGIN, top), line, _SMALL, colour=_GREY))
    top += 2.6 * _LINE + _SMALL
    names = max(text_width(row.text, _TEXT) for row in rows)
    remarks = max(text_width(row.remark, _SMALL) for row in rows)
    left = _MARGIN + names + remarks + 20
    for index, row in enumerate(rows):
        y = top + index * _ROW
        if row.begins_group and index:
            right = left + sum(table.width + _GAP for table in maps) - _GAP
            elements.append(Stroke(((_MARGIN, y), (right, y)), "#cccccc", 1))
        elements.append(Label((_MARGIN, _baseline(y)), row.text, _TEXT))
        elements.append(Label((left - 10, _baseline(y)), row.remark, _SMALL, "end", colour=_GREY))
    for table in maps:
        elements += _table(table, left, top)
        left += table.width + _GAP
    widest = max(text_width(text, _SMALL) for text in subtitle)
    width = max(left - _GAP, _MARGIN + widest, _MARGIN + text_width(title, _HEADING) * 1.1) + _MARGIN
    return Drawing(width, top + len(rows) * _ROW + _MARGIN, tuple(elements), description)


def _table(table: HeatMap, left: float, top: float) -> list[Element]:
    middle, column_width = left + table.width / 2, table.column_width
    elements: list[Element] = [Label((middle, top - 8 - 1.4 * _LINE), table.title, _TEXT, "middle", is_bold=True)]
    for column, head in enumerate(table.columns):
        elements.append(Label((left + (column + 0.5) * column_width, top - 8), head, _SMALL, "middle"))
    for index, row in enumerate(table.values):
        for column, value in enumerate(row):
            elements += _cell(table, value, left + column * column_width, top + index * _ROW)
    return elements


def _cell(table: HeatMap, value: float | None, x: float, y: float) -> list[Element]:
    width = table.column_width
    middle = (x + width / 2, _baseline(y))
    if value is None:
        return [Label(middle, "–", _SMALL, "middle", colour=_GREY)]
    strength = min(1.0, abs(value) / table.full)
    fill = _mixed(table.colour if value > 0 else table.opposite, strength)
    inner = ((x + 1, y + 1), (x + width - 1, y + 1), (x + width - 1, y + _ROW - 1), (x + 1, y + _ROW - 1))
    text = f"{round(value, table.decimals) + 0.0:.{table.decimals}f}".replace("-", "−")
    return [Shape(inner, fill, fill, 0.5), Label(middle, text, _SMALL, "middle")]


def _baseline(y: float) -> float:
    return y + _ROW / 2 + 0.36 * _SMALL


def _mixed(colour: str, strength: float) -> str:
    """Return white mixed with a colour, `strength` 0 to 1."""
    parts = [int(colour[index : index + 2], 16) for index in (1, 3, 5)]
    return "#" + "".join(f"{round(255 + (part - 255) * strength):02x}" for part in parts)
