"""What a figure shows, as data: bands of panels, series and points. `layout` decides where it goes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Style:
    """How a series looks.

    Attributes:
        colour: Index into the palette of `layout`; None for black.
        marker: Name in `layout.MARKERS`.
        is_hollow: Outline only: a result that was quoted, not measured.
        is_dashed: Dashed line between the points.
    """

    colour: int | None
    marker: str
    is_hollow: bool = False
    is_dashed: bool = False


@dataclass(frozen=True)
class Point:
    """One result; `x` > 0 where its axis is logarithmic, `error` is drawn up and down from `y`."""

    x: float
    y: float
    error: float = 0.0
    label: str = ""


@dataclass(frozen=True)
class Series:
    """Points that belong together, joined in their order where `is_joined`; one of `marked_every` has a mark."""

    name: str
    points: tuple[Point, ...]
    style: Style
    is_joined: bool = False
    marked_every: int = 1


@dataclass(frozen=True)
class Panel:
    """One pair of axes: `x` logarithmic or linear, `y` linear, for scores in [0, 1] or for any numbers."""

    x_label: str
    y_label: str
    series: tuple[Series, ...]
    x_is_log: bool = True
    y_is_score: bool = True


@dataclass(frozen=True)
class LegendEntry:
    """A sample of a style and what it stands for; `shows_marker` and `shows_line` say which half of it."""

    text: str
    style: Style
    shows_marker: bool = True
    shows_line: bool = False


@dataclass(frozen=True)
class Band:
    """Panels side by side that show one set of results, their heading and legend."""

    title: str
    subtitle: str
    panels: tuple[Panel, ...]
    legend: tuple[LegendEntry, ...]


@dataclass(frozen=True)
class Chart:
    """Bands from top to bottom; `description` is read out where the figure cannot be seen."""

    bands: tuple[Band, ...]
    description: str
