"""A laid-out figure: plain shapes in pixels from the top left corner, which any renderer can draw."""

from dataclasses import dataclass

Position = tuple[float, float]


@dataclass(frozen=True)
class Stroke:
    """An open line through `points`."""

    points: tuple[Position, ...]
    colour: str
    width: float
    is_dashed: bool = False


@dataclass(frozen=True)
class Shape:
    """A closed polygon, or a circle of `radius` where there is one point."""

    points: tuple[Position, ...]
    fill: str
    outline: str
    width: float
    radius: float = 0.0


@dataclass(frozen=True)
class Label:
    """Text whose baseline starts, centres or ends (`anchor`) at a position."""

    position: Position
    text: str
    size: float
    anchor: str = "start"
    is_bold: bool = False
    is_upright: bool = False
    colour: str = "#1a1a1a"


@dataclass(frozen=True)
class Drawing:
    """Elements in the order they are drawn, later ones on top."""

    width: float
    height: float
    elements: tuple[Stroke | Shape | Label, ...]
    description: str


def text_width(text: str, size: float) -> float:
    """Estimate the width of a text, generously: that of DejaVu Sans, the widest of the usual sans-serifs."""
    widths = {**dict.fromkeys(" .,;:ilIj|!'()[]", 0.38), **dict.fromkeys("%mwMW@—…", 0.96)}
    return sum(widths.get(letter, 0.63) for letter in text) * size
