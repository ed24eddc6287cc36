"""What a matplotlib figure shows, for tests: its texts, and those that overlap or leave the figure."""

import re
from itertools import combinations
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from epanns.reporting.figures.style import paper_style


@paper_style()
def texts_of(figure: Figure) -> list[Text]:
    """Return the texts that are visible."""
    FigureCanvasAgg(figure).draw()
    hidden = [axis for axes in figure.axes if not axes.axison for axis in (axes.xaxis, axes.yaxis)]
    unseen = {text for axis in hidden for text in axis.findobj(Text)}
    ticks = [tick for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for tick in axis.get_major_ticks()]
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            margin = 1e-9 * (high - low)
            for tick in axis.get_major_ticks():
                if not low - margin <= tick.get_loc() <= high + margin or not tick.label1.get_visible():
                    unseen.add(tick.label1)
    unseen |= {tick.label2 for tick in ticks}
    return [text for text in figure.findobj(Text) if text.get_text() and text.get_visible() and text not in unseen]


@paper_style()
def overlapping(figure: Figure) -> list[tuple[str, str]]:
    """Return pairs of texts that share more than a hair."""
    boxes = [(text.get_text(), Text.get_window_extent(text)) for text in texts_of(figure)]
    found = []
    for (one, first), (other, second) in combinations(boxes, 2):
        width = min(first.x1, second.x1) - max(first.x0, second.x0)
        height = min(first.y1, second.y1) - max(first.y0, second.y0)
        if width > 0.5 and height > 1.5:  # pt; boxes hold room for ascenders that most letters do not have
            found.append((one, other))
    return found


@paper_style()
def outside(figure: Figure) -> list[str]:
    """Return the texts that reach beyond the figure."""
    width, height = figure.get_size_inches() * 72
    boxes = [(text.get_text(), Text.get_window_extent(text)) for text in texts_of(figure)]
    return [text for text, box in boxes if box.x0 < 0 or box.y0 < 0 or box.x1 > width or box.y1 > height]


def assert_drawn_again(committed: Path, drawn: Path) -> None:
    """Check that a committed SVG is drawn again with the same bytes or, by another matplotlib, the same texts."""
    first, again = committed.read_text(), drawn.read_text()
    version, texts = re.compile("Matplotlib v[0-9.]+"), re.compile("(?<=>)[^<>]+(?=</text>)")
    assert texts.findall(first) == texts.findall(again), f"{committed} is not of its records: draw it again"
    assert version.findall(first) != version.findall(again) or first == again
