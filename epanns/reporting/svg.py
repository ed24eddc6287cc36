"""A drawing as SVG text; needs nothing but the standard library."""

import re
from xml.sax.saxutils import escape, quoteattr

from epanns.reporting.drawing import Drawing, Label, Position, Shape, Stroke
from epanns.safe_text import printable

_FONT = "Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"

# Characters XML 1.0 cannot hold even when escaped; a class or file name may contain them.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_svg(drawing: Drawing) -> str:
    """Return the drawing as one SVG document; all text in it is escaped."""
    size = f'width="{drawing.width:g}" height="{drawing.height:g}" viewBox="0 0 {drawing.width:g} {drawing.height:g}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="{_FONT}" role="img">'
    lines = [head, f"<title>{_text(drawing.description)}</title>", '<rect width="100%" height="100%" fill="#ffffff"/>']
    lines += [_element(element) for element in drawing.elements]
    return "\n".join([*lines, "</svg>"]) + "\n"


def _element(element: Stroke | Shape | Label) -> str:
    if isinstance(element, Stroke):
        dash = ' stroke-dasharray="5 4"' if element.is_dashed else ""
        return (
            f'<polyline points="{_points(element.points)}" fill="none" stroke="{element.colour}" '
            f'stroke-width="{element.width:g}" stroke-linejoin="round"{dash}/>'
        )
    if isinstance(element, Label):
        return _label(element)
    paint = f'fill="{element.fill}" stroke="{element.outline}" stroke-width="{element.width:g}"'
    if element.radius:
        x, y = element.points[0]
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{element.radius:g}" {paint}/>'
    return f'<polygon points="{_points(element.points)}" {paint}/>'


def _label(label: Label) -> str:
    x, y = label.position
    weight = ' font-weight="bold"' if label.is_bold else ""
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if label.is_upright else ""
    attributes = f'font-size="{label.size:g}" text-anchor={quoteattr(label.anchor)} fill="{label.colour}"{weight}{turn}'
    return f'<text x="{x:.1f}" y="{y:.1f}" {attributes}>{_text(label.text)}</text>'


def _points(points: tuple[Position, ...]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _text(text: str) -> str:
    return escape(_FORBIDDEN.sub("\ufffd", printable(text)))
