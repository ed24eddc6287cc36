"""Shared by all figures: the paper style, measured text, labels that do not overlap, and the files."""

import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epanns.atomic import replacing
from epanns.feedback import note
from epanns.reporting.notation import si_tick
from epanns.safe_text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".svg", ".pdf", ".png")
COLUMN = 8.5  # cm: width of one column of a paper
BLACK, GREY = "#1a1a1a", "#595959"
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

_CM = 1 / 2.54  # inches
_POINT = 2.54 / 72  # cm
_LINE = 0.33  # cm: height of a line of text of 7 pt
_ENTRY_GAP = 0.4  # cm between the entries of a legend
_OVERHANG = 0.15  # cm by which the label of a tick may reach beyond its axis
_SAMPLE = 0.7  # cm: width of the sample of a legend entry and of the gap after it
_MISSING_LETTER = re.compile("Glyph .* missing from|Matplotlib currently does not support .* natively")
# Metadata that would differ from run to run or name a person is left out.
_METADATA: dict[str, dict[str, Any]] = {
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
    ".png": {"Software": None},
}


@contextmanager
def paper_style() -> Iterator[None]:
    """Apply ``paper.mplstyle`` on top of matplotlib's defaults; usable as a decorator."""
    import matplotlib

    style = matplotlib.rc_params_from_file(Path(__file__).with_name("paper.mplstyle"), use_default_template=True)
    settings = {name: value for name, value in style.items() if not name.startswith("backend")}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", _MISSING_LETTER.pattern)
        yield


@paper_style()
def save(figure: "Figure", out: Path, stem: str, *, title: str, images: bool = True) -> tuple[Path, ...]:
    """Write a figure as SVG, PDF and PNG; the same figure and matplotlib release give the same bytes.

    Args:
        figure: Any figure made under `paper_style`.
        out: Folder of the files; files of the same names are replaced.
        stem: Name of the files without suffix.
        title: Description for readers who cannot see the figure.
        images: Whether to write PDF and PNG. Without them, older ones are removed.

    Returns:
        The files written.
    """
    out.mkdir(parents=True, exist_ok=True)
    written = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for suffix in FORMATS:
            path = out / f"{stem}{suffix}"
            if not images and suffix != ".svg":
                path.unlink(missing_ok=True)
                continue
            metadata = _METADATA[suffix] | {"Title": printable(title)}
            with replacing(path) as partial:
                figure.savefig(partial, format=suffix[1:], metadata=metadata)
            written.append(path)
    others = [warning for warning in caught if not _MISSING_LETTER.match(str(warning.message))]
    if len(others) < len(caught) and len(written) > 1:
        note(f"{out / stem}: PDF and PNG lack letters that are missing from matplotlib's font; the SVG has all letters")
    for warning in others:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return tuple(written)


def new_figure(height: float, width: float = COLUMN) -> "Figure":
    """Return an empty figure; sizes in cm."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width * _CM, height * _CM))


def add_axes(figure: "Figure", left: float, top: float, width: float, height: float, **options: Any) -> "Axes":
    """Add axes at a place in cm from the top left corner."""
    full_width, full_height = figure.get_size_inches() / _CM
    box = (left / full_width, 1 - (top + height) / full_height, width / full_width, height / full_height)
    return figure.add_axes(box, **options)


def text_width(text: str, size: float = 7, *, is_bold: bool = False) -> float:
    """Return the width in cm of a text in the font of the figures."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=size, weight="bold" if is_bold else "normal")
    return float(text_to_path.get_text_width_height_descent(printable(text), font, ismath=False)[0]) * _POINT


def wrapped(text: str, width: float, size: float = 7, *, is_bold: bool = False) -> list[str]:
    """Return a text as lines of at most `width` cm, broken between words and, where a word is longer, within it."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if text_width(longer, size, is_bold=is_bold) <= width:
            lines[-1] = longer
            continue
        lines += [""] if lines[-1] else []
        if text_width(word, size, is_bold=is_bold) <= width:
            lines[-1] = word
            continue
        for letter in word:
            if lines[-1] and text_width(lines[-1] + letter, size, is_bold=is_bold) > width:
                lines.append("")
            lines[-1] += letter
    return lines


def shortened(text: str, width: float, size: float = 7) -> str:
    """Return a text of at most `width` cm, with an ellipsis in place of an end that does not fit."""
    if text_width(text, size) <= width:
        return text
    while text and text_width(f"{text}…", size) > width:
        text = text[:-1]
    return f"{text}…"


class Legend:
    """Legend in rows from left to right, as wide as a given width in cm; long entries are wrapped."""

    def __init__(self, entries: Sequence[tuple[Any, str]], width: float) -> None:
        """Lay out the entries, each a matplotlib artist and its text."""
        self._rows: list[list[tuple[Any, str]]] = []
        used = width
        for handle, text in entries:
            lines = wrapped(text, width - _SAMPLE)
            needed = _SAMPLE + max(map(text_width, lines))
            if used + needed > width or len(lines) > 1:
                self._rows.append([])
                used = 0.0
            self._rows[-1].append((handle, "\n".join(map(printable, lines))))
            used += needed + _ENTRY_GAP
        self.height = sum(map(self._height_of, self._rows))

    def draw(self, figure: "Figure", left: float, top: float) -> None:
        """Draw the legend with its top left corner at a place in cm."""
        width, height = figure.get_size_inches() / _CM
        for row in self._rows:
            handles, texts = zip(*row, strict=True)
            figure.legend(
                handles,
                texts,
                loc="upper left",
                bbox_to_anchor=(left / width, 1 - top / height),
                ncols=len(row),
                borderpad=0,
                borderaxespad=0,
                handlelength=2.2,
                handletextpad=0.5,
                columnspacing=_ENTRY_GAP / _POINT / 7,
            )
            top += self._height_of(row)

    @staticmethod
    def _height_of(row: Sequence[tuple[Any, str]]) -> float:
        return max(1 + text.count("\n") for _, text in row) * _LINE + 0.06


class Heading:
    """Title of one line or more in bold, and a remark below it in grey, wrapped to a width in cm."""

    def __init__(self, title: str, remark: str, width: float) -> None:
        """Wrap both texts."""
        self._title = wrapped(title, width, 8, is_bold=True)
        self._remark = wrapped(remark, width)
        self.height = (len(self._title) * 8 / 7 + len(self._remark)) * _LINE + 0.2

    def draw(self, figure: "Figure", left: float, top: float) -> None:
        """Draw both with the top left corner at a place in cm."""
        width, height = figure.get_size_inches() / _CM
        for line in self._title:
            figure.text(left / width, 1 - top / height, printable(line), va="top", size=8, weight="bold")
            top += _LINE * 8 / 7
        for line in self._remark:
            figure.text(left / width, 1 - top / height, printable(line), va="top", color=GREY)
            top += _LINE


def set_log_axis(axes: "Axes", values: Sequence[float], width: float) -> tuple[float, float]:
    """Give axes of `width` cm a logarithmic x axis around values > 0, with as many round ticks as fit.

    Returns:
        The limits.
    """
    from matplotlib.ticker import MaxNLocator

    low, high = min(values), max(values)
    margin = max((high / low) ** 0.09, 1.2)
    low, high = low / margin, high * margin
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.minorticks_off()
    decades = [10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    choices = [[factor * decade for decade in decades for factor in factors] for factors in ((1, 2, 5), (1, 3), (1,))]
    choices += [choices[-1][first::step] for step in (2, 3, 5, 9) for first in (0, 1)]
    if high / low < 5:  # too short for the round numbers of each decade
        linear = [MaxNLocator(most, steps=[1, 2, 5, 10]).tick_values(low, high) for most in (6, 4, 2)]
        choices = [list(ticks[first::step]) for ticks in linear for first, step in ((0, 1), (0, 2), (1, 2))] + choices
    for choice in choices:
        ticks: list[float] = []
        ends: list[float] = []  # left and right end of each label, in turn
        for tick in choice:
            place = width * math.log(tick / low) / math.log(high / low) if tick > 0 else -1.0
            half = text_width(si_tick(tick)) / 2
            if low <= tick <= high and place - half >= -_OVERHANG and place + half <= width + _OVERHANG:
                ticks.append(tick)
                ends += [place - half, place + half]
        if len(ticks) > 1 and all(right + 0.12 < left for right, left in zip(ends[1::2], ends[2::2], strict=False)):
            break
    axes.set_xticks(ticks, [si_tick(tick) for tick in ticks])
    return low, high


# Where a label may lie relative to its point, best first: (horizontal, vertical) direction.
_SIDES = (
    *((0, 1), (1, 1), (1, 0), (-1, 1), (-1, 0), (0, -1), (1, -1), (-1, -1)),
    *((0.5, 1), (-0.5, 1), (0.5, -1), (-0.5, -1), (1, 0.5), (-1, 0.5), (1, -0.5), (-1, -0.5)),
)
_DISTANCES = (5.0, 8.0, 12.0, 17.0, 24.0, 32.0, 42.0, 54.0)  # pt from the point to the nearer edge of the label
_BESIDE = 10.0  # pt: a label farther away is joined to its point by a line
_ON_LABEL, _ON_MARK, _ON_LEADER, _ON_LINE = 500.0, 200.0, 60.0, 1.0  # cost of touching each, in pt² of covered area
_LEADER = 25.0  # cost of a line from a point to its label
_OF_ANOTHER = 30.0  # cost of a label beside another labelled point and hardly closer to its own


class Labels:
    """Labels of the points of one panel, placed where they cover the fewest marks, lines and other labels."""

    def __init__(self, axes: "Axes", longest: float = 3.2) -> None:
        """Use axes that have their final limits; labels longer than `longest` cm are shortened."""
        self._axes, self._longest = axes, longest
        self._taken: list[Sequence[float]] = []  # left, bottom, right, top in pt, and what touching the box costs
        self._labels: list[tuple[tuple[float, float], str]] = []

    def keep_off(self, *line: tuple[float, float], has_marks: bool = False) -> None:
        """Keep labels off a line through places in data coordinates and, where it has marks, off the marks."""
        import numpy as np

        places = np.asarray(self._axes.transData.transform(line)).tolist() if line else []
        if has_marks:
            self._taken += [(x - 4.2, y - 4.2, x + 4.2, y + 4.2, _ON_MARK) for x, y in places]
        for (x0, y0), (x1, y1) in pairwise(places):
            count = max(1, int(max(abs(x1 - x0), abs(y1 - y0)) / 3))
            for x, y in ((x0 + (x1 - x0) * part / count, y0 + (y1 - y0) * part / count) for part in range(1, count)):
                self._taken.append((x - 1, y - 1, x + 1, y + 1, _ON_LINE))

    def add(self, x: float, y: float, text: str) -> None:
        """Add the label of a point, unless the text is empty."""
        if text:
            self._labels.append(((x, y), printable(shortened(text, self._longest))))

    def place(self) -> None:
        """Write the labels."""
        import numpy as np

        sides = np.array([(distance, right, up) for distance in _DISTANCES for right, up in _SIDES])
        along = np.linspace(0.15, 1, 12)[:, None, None]  # parts of the way from a point to its label
        leader = {"arrowstyle": "-", "linewidth": 0.4, "color": GREY, "shrinkA": 0, "shrinkB": 2.5}
        points = np.array([self._axes.transData.transform(place) for place, _ in self._labels]).reshape(-1, 2)
        for place, text in self._labels:
            point = self._axes.transData.transform(place)
            half = np.array([text_width(text) / _POINT + 1, 8.5]) / 2
            reach = sides[:, :1] * np.where((np.abs(sides[:, 1:]) == 1).all(axis=1, keepdims=True), 0.85, 1.0)
            shifts = sides[:, 1:] * (reach + half)
            boxes = np.concatenate([point + shifts - half, point + shifts + half], axis=1)
            steps = point + along * shifts
            is_outside = (np.abs(steps - point - shifts) > half).any(axis=2) & (sides[:, 0] > _BESIDE)
            dots = np.concatenate([steps - 0.5, steps + 0.5], axis=2)
            costs = sides[:, 0] + _LEADER * (sides[:, 0] > _BESIDE) + self._cost(boxes)
            gaps = np.maximum(np.maximum(boxes[:, None, :2] - points, points - boxes[:, None, 2:]), 0)
            distances = np.hypot(gaps[..., 0], gaps[..., 1])  # from each place of the label to each labelled point
            nearest = np.where((points == point).all(axis=1), np.inf, distances).min(axis=1)
            own = np.hypot(*np.maximum(np.abs(shifts) - half, 0).T)
            costs += _OF_ANOTHER * (nearest < np.minimum(2 * own, 1.2 * _BESIDE))
            costs += 0.2 * np.where(is_outside, self._cost(dots.reshape(-1, 4)).reshape(is_outside.shape), 0).sum(
                axis=0
            )
            best = int(np.argmin(costs))
            kept = [boxes[best], *dots[is_outside[:, best], best]]
            self._taken += [
                (*box.tolist(), cost) for box, cost in zip(kept, [_ON_LABEL, *[_ON_LEADER] * len(kept)], strict=False)
            ]
            self._axes.annotate(
                text,
                place,
                xytext=tuple(shifts[best].tolist()),
                textcoords="offset points",
                ha="center",
                va="center",
                arrowprops=leader if sides[best, 0] > _BESIDE else None,
                bbox={"boxstyle": "square,pad=0.05", "facecolor": "white", "edgecolor": "none", "alpha": 0.6},
                zorder=6,
            )

    def _cost(self, boxes: Any) -> Any:
        """Return how bad each place is: what it covers, and above all what leaves the axes."""
        import numpy as np

        taken = np.array([*self._taken, (*self._axes.bbox.extents, 0.0)])
        sizes = np.minimum(boxes[:, None, 2:], taken[:, 2:4]) - np.maximum(boxes[:, None, :2], taken[:, :2])
        areas = np.maximum(sizes, 0).prod(axis=2)
        covered = (areas + (areas > 0) * taken[:, 4])[:, :-1].sum(axis=1)
        return covered + 8 * ((boxes[:, 2:] - boxes[:, :2]).prod(axis=1) - areas[:, -1])
