"""Charts as SVG text: axes with round ticks, lines, and marks with titles; colours are those of the style sheet."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from epanns.reporting.notation import si_tick
from epanns.safe_text import printable

WIDTH, HEIGHT = 440, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 14, 12, 46
N_COLOURS = 8
# Marks of radius 5 around the origin, which differ without colour.
MARKS = (
    "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0",
    "M-4-4h8v8h-8z",
    "M0-5.2L5 3.8H-5z",
    "M0-5.6L5.6 0L0 5.6L-5.6 0z",
    "M0 5.2L5-3.8H-5z",
    "M-1.8-5h3.6v3.2H5v3.6H1.8V5h-3.6V1.8H-5v-3.6h3.2z",
    "M-5-2.6L-2.6-5L0-2.4L2.6-5L5-2.6L2.4 0L5 2.6L2.6 5L0 2.4L-2.6 5L-5 2.6L-2.4 0z",
)
STAR = "M0-7L1.9-2.3L6.7-2.2L2.9.9L4.1 5.7L0 3L-4.1 5.7L-2.9.9L-6.7-2.2L-1.9-2.3z"


@dataclass(frozen=True)
class Axis:
    """An axis around values, linear or logarithmic, with a margin at both ends and round ticks."""

    label: str
    low: float
    high: float
    is_log: bool = False

    @classmethod
    def around(cls, label: str, values: Iterable[float], *, is_log: bool = False) -> "Axis":
        """Return the axis of values, which are above 0 if it is logarithmic."""
        found = [*values] or [1.0]
        low, high = min(found), max(found)
        if is_log:
            margin = max((high / low) ** 0.06, 1.15)
            return cls(label, low / margin, high * margin, is_log)
        margin = max(0.07 * (high - low), 0.005 * max(abs(high), abs(low)), 1e-9)
        return cls(label, low - margin, high + margin)

    def place(self, value: float) -> float:
        """Return the place of a value along the axis: 0 at its start, 1 at its end."""
        if self.is_log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[tuple[float, str]]:
        """Return round values and their texts, at most seven."""
        if not self.is_log or self.high / self.low < 4:
            step = 10.0 ** math.floor(math.log10((self.high - self.low) / 2))
            factor = next(factor for factor in (0.5, 1, 2, 5, 10) if (self.high - self.low) / (factor * step) <= 6)
            step *= factor
            numbers = range(math.ceil(self.low / step), math.floor(self.high / step) + 1)
            values = [float(f"{number * step:.10g}") for number in numbers]
        else:
            decades = [
                10.0**power for power in range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)))
            ]
            every = -(-len(decades) // 6)
            factors = (1, 2, 5) if len(decades) <= 2 else (1, 3) if len(decades) <= 3 else (1,)
            values = [factor * decade for decade in decades[::every] for factor in factors]
        return [(value, _tick_text(value)) for value in values if self.low <= value <= self.high]


def _tick_text(value: float) -> str:
    return si_tick(value) if value >= 1000 else f"{value:g}".replace("-", "−")


class Chart:
    """One chart; marks and lines are drawn in the order in which they are added."""

    def __init__(self, title: str, x: Axis, y: Axis) -> None:
        """Draw the axes; `title` describes the chart to readers who cannot see it."""
        self._x, self._y = x, y
        self._parts = [self._grid()]
        self._title = title

    def _at(self, x: float, y: float) -> tuple[str, str]:
        left = _LEFT + self._x.place(x) * (WIDTH - _LEFT - _RIGHT)
        top = HEIGHT - _BOTTOM - self._y.place(y) * (HEIGHT - _TOP - _BOTTOM)
        return f"{left:.1f}", f"{top:.1f}"

    def _grid(self) -> str:
        parts, bottom, right = [], HEIGHT - _BOTTOM, WIDTH - _RIGHT
        for value, text in self._x.ticks():
            left, _ = self._at(value, self._y.low)
            parts.append(f'<path class="grid" d="M{left} {_TOP}V{bottom}"/>')
            parts.append(f'<text class="tick" x="{left}" y="{bottom + 17}" text-anchor="middle">{text}</text>')
        for value, text in self._y.ticks():
            _, top = self._at(self._x.low, value)
            parts.append(f'<path class="grid" d="M{_LEFT} {top}H{right}"/>')
            parts.append(f'<text class="tick" x="{_LEFT - 7}" y="{top}" dy=".35em" text-anchor="end">{text}</text>')
        parts.append(f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>')
        middle, height = (_LEFT + right) / 2, (_TOP + bottom) / 2
        parts.append(
            f'<text class="label" x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{text_of(self._x.label)}</text>'
        )
        turned = f'transform="translate(14 {height}) rotate(-90)"'
        parts.append(f'<text class="label" {turned} text-anchor="middle">{text_of(self._y.label)}</text>')
        return "".join(parts)

    def line(self, points: Sequence[tuple[float, float]], look: str) -> None:
        """Add a line of a class of the style sheet."""
        if points:
            self._parts.append(f'<path class="line {look}" d="{self._path(points)}"/>')

    def curve(self, points: Sequence[tuple[float, float]], look: str, title: str, *, row: int | None = None) -> None:
        """Add a line with a title, which is shown as a tooltip, and with the row of the table that it belongs to."""
        path, of_row = self._path(points), "" if row is None else f' data-row="{row}"'
        self._parts.append(
            f'<g class="point {look}"{of_row}><path class="line" d="{path}"/><path class="reach" d="{path}"/>'
            f"<title>{text_of(title)}</title></g>"
        )

    def _path(self, points: Sequence[tuple[float, float]]) -> str:
        return "M" + "L".join(" ".join(self._at(*point)) for point in points)

    def level(self, y: float, look: str) -> None:
        """Add a line across the chart."""
        self.line([(self._x.low, y), (self._x.high, y)], look)

    def step(self, points: Sequence[tuple[float, float]]) -> None:
        """Add the line of a front, which rises at its points and runs to the end of the axis."""
        if points:
            corners = [points[0]]
            for x, y in points[1:]:
                corners += [(x, corners[-1][1]), (x, y)]
            self.line([*corners, (self._x.high, corners[-1][1])], "front")

    def mark(self, place: tuple[float, float], shape: str, look: str, title: str, *, row: int, sd: float = 0.0) -> None:
        """Add the mark of a row of the table, with a bar of its deviation; its title is shown as a tooltip."""
        x, y = place
        left, top = self._at(x, y)
        bar = ""
        if sd:
            low, high = (self._at(x, min(max(end, self._y.low), self._y.high))[1] for end in (y - sd, y + sd))
            bar = f'<path class="bar" d="M{left} {low}V{high}"/>'
        self._parts.append(
            f'<g class="point {look}" data-row="{row}">{bar}'
            f'<path class="mark" transform="translate({left} {top})" d="{shape}"/><title>{text_of(title)}</title></g>'
        )

    def to_svg(self) -> str:
        """Return the element."""
        return (
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" tabindex="0" aria-label="{text_of(self._title)}">'
            f"{''.join(self._parts)}</svg>"
        )


def sample(shape: str, look: str) -> str:
    """Return the mark of a legend."""
    return f'<svg class="sample {look}" viewBox="-8 -8 16 16" aria-hidden="true"><path class="mark" d="{shape}"/></svg>'


def text_of(text: str) -> str:
    """Return any text as HTML: control characters printable, markup escaped, also within an attribute."""
    return escape(printable(text, lines=True), quote=True)
