"""A drawing as PNG and PDF, where matplotlib is installed; the SVG of `svg` shows the same."""

import importlib.util
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from epanns.atomic import replacing
from epanns.feedback import note
from epanns.reporting.drawing import Drawing, Label, Shape, Stroke
from epanns.safe_text import printable

_DOTS_PER_INCH = 200
_NO_LETTER = re.compile("Glyph .* missing from|Matplotlib currently does not support .* natively")
_ALIGNMENT = {"start": "left", "middle": "center", "end": "right"}


def can_draw() -> bool:
    """Return whether matplotlib is installed (the extra ``plot``)."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(drawing: Drawing, path: Path) -> None:
    """Write a drawing in the format of the path's suffix, ``.png`` or ``.pdf``; one pixel is one point.

    The same drawing gives the same bytes: no date is written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    points_per_inch = 72
    figure = Figure(figsize=(drawing.width / points_per_inch, drawing.height / points_per_inch))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, drawing.width)
    axes.set_ylim(drawing.height, 0)
    axes.set_axis_off()
    for order, element in enumerate(drawing.elements):
        _add(axes, element, order)
    file_format = path.suffix.removeprefix(".")
    metadata = {"CreationDate": None} if file_format == "pdf" else {"Software": None}
    with matplotlib.rc_context({"pdf.fonttype": 42}), replacing(path) as partial, _missing_letters_noted(path):
        figure.savefig(partial, format=file_format, dpi=_DOTS_PER_INCH, metadata=metadata)


@contextmanager
def _missing_letters_noted(path: Path) -> Iterator[None]:
    """Give one note in place of a warning of matplotlib for each letter that its font lacks."""
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        yield
    others = [each for each in given if not _NO_LETTER.match(str(each.message))]
    if len(others) < len(given):
        note(f"{path.with_suffix('')}: PNG and PDF lack letters that matplotlib's font has not; the SVG has all")
    for each in others:
        warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)


def _add(axes: Any, element: Stroke | Shape | Label, order: int) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Circle, Polygon

    if isinstance(element, Stroke):
        dashes = (0, (5 / element.width, 4 / element.width)) if element.is_dashed else "-"
        xs, ys = zip(*element.points, strict=True)
        axes.add_line(Line2D(xs, ys, color=element.colour, lw=element.width, ls=dashes, zorder=order))
    elif isinstance(element, Label):
        axes.text(
            *element.position,
            printable(element.text),
            fontsize=element.size,
            color=element.colour,
            ha=_ALIGNMENT[element.anchor],
            va="baseline",
            rotation=90 if element.is_upright else 0,
            rotation_mode="anchor",
            fontweight="bold" if element.is_bold else "normal",
            parse_math=False,
            zorder=order,
        )
    else:
        paint = {"facecolor": element.fill, "edgecolor": element.outline, "linewidth": element.width, "zorder": order}
        shape = Circle(element.points[0], element.radius) if element.radius else Polygon(element.points, closed=True)
        shape.set(**paint)
        axes.add_patch(shape)
