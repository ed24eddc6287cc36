"""Where the names of points go: beside their mark, clear of marks, lines and each other."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from epanns.reporting.drawing import Position, text_width

_DISTANCE = 9.0
_REACHES = (1.0, 1.5, 2.0, 2.8, 3.6)
_SAMPLE = 4.0
_TOUCH = 20.0

# Where a label may stand relative to its point: (horizontal, vertical) direction, best first.
_SIDES = ((0, -1), (1, -1), (1, 0), (-1, -1), (-1, 0), (0, 1), (1, 1), (-1, 1))


class Box(NamedTuple):
    """A rectangle in pixels, y downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: "Box") -> float:
        """Return the shared area."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, width) * max(0.0, height)

    @property
    def area(self) -> float:
        """Width times height."""
        return (self.right - self.left) * (self.bottom - self.top)


def box_around(position: Position, radius: float) -> Box:
    """Return the square around a mark."""
    x, y = position
    return Box(x - radius, y - radius, x + radius, y + radius)


def boxes_along(start: Position, end: Position) -> list[Box]:
    """Return small boxes along a line, so that labels keep off it."""
    (x0, y0), (x1, y1) = start, end
    steps = max(1, int(max(abs(x1 - x0), abs(y1 - y0)) / _SAMPLE))
    return [
        box_around((x0 + (x1 - x0) * index / steps, y0 + (y1 - y0) * index / steps), 1.5) for index in range(steps + 1)
    ]


def place_labels(
    labels: Iterable[tuple[Position, str]], obstacles: Sequence[Box], inside: Box, size: float
) -> list[Box]:
    """Return a box for each label, in order: where it covers least, and there as near to its point as can be."""
    taken = list(obstacles)
    placed = []
    for position, text in labels:
        candidates = [
            _box_beside(position, text, size, side, reach * _DISTANCE) for reach in _REACHES for side in _SIDES
        ]
        best = min(candidates, key=lambda box: _cover(box, taken, inside))
        taken.append(best)
        placed.append(best)
    return placed


def _cover(box: Box, taken: Iterable[Box], inside: Box) -> float:
    """Return how bad a place is: what it covers, touching anything at all, and above all leaving the axes."""
    covered = [overlap for other in taken if (overlap := box.overlap(other)) > 0]
    return sum(covered) + _TOUCH * len(covered) + 4 * (box.area - box.overlap(inside))


def _box_beside(position: Position, text: str, size: float, side: tuple[int, int], distance: float) -> Box:
    width, height = text_width(text, size), size
    x = position[0] + side[0] * (distance + width / 2)
    y = position[1] + side[1] * (distance + height / 2)
    if side[0] and side[1]:  # a corner may move in towards its point
        x -= side[0] * distance * 0.5
        y -= side[1] * distance * 0.4
    return Box(x - width / 2, y - height / 2, x + width / 2, y + height / 2)
