"""A laid-out figure: plain shapes in pixels from the top left corner, which any renderer can draw."""

from dataclasses import dataclass
from unicodedata import east_asian_width

Position = tuple[float, float]

# Letters that are narrower or wider than the average, in parts of the font's size.
_WIDTHS = {**dict.fromkeys(" .,;:ilIj|!'()[]", 0.38), **dict.fromkeys("%mwMW@—…", 0.96)}


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
    return sum(_WIDTHS.get(letter) or (1.0 if east_asian_width(letter) in "WF" else 0.63) for letter in text) * size


def wrapped(text: str, size: float, width: float) -> list[str]:
    """Return a text in lines that are at most `width` pixels wide, broken between words and, if need be, within one."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if text_width(longer, size) <= width:
            lines[-1] = longer
            continue
        lines += [""] if lines[-1] else []
        for letter in word:
            if lines[-1] and text_width(lines[-1] + letter, size) > width:
                lines.append("")
            lines[-1] += letter
    return lines


def shortened(text: str, size: float, width: float) -> str:
    """Return a text that is at most `width` pixels wide, with an ellipsis where its end is left out."""
    if text_width(text, size) <= width:
        return text
    while text and text_width(f"{text}…", size) > width:
        text = text[:-1]
    return f"{text}…"
