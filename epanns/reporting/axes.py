"""From values to pixels, and where the ticks go."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

_MOST_TICKS = 7
_SHORT_AXIS = 5.0


@dataclass(frozen=True)
class Axis:
    """Maps [low, high] onto [start, end] in pixels, linearly or by logarithm."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool
    ticks: tuple[float, ...]

    def __call__(self, value: float) -> float:
        """Return the pixel of a value."""
        scale = math.log10 if self.is_log else float
        fraction = (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))
        return self.start + fraction * (self.end - self.start)


def log_axis(values: Sequence[float], start: float, end: float) -> Axis:
    """Return a logarithmic axis around values > 0, at least a factor of 2.5 long."""
    middle, half = math.sqrt(min(values) * max(values)), math.sqrt(max(max(values) / min(values), 2.0))
    margin = half**0.28
    low, high = middle / half / margin, middle * half * margin
    return Axis(low, high, start, end, True, _log_ticks(low, high))


def linear_axis(values: Sequence[float], start: float, end: float) -> Axis:
    """Return a linear axis for any numbers: around the values, ends on round ticks."""
    low, high = min(values), max(values)
    span = (high - low) or abs(high) or 1.0
    size = 10.0 ** math.floor(math.log10(span / _MOST_TICKS))
    step = next(factor * size for factor in (1.0, 2.0, 5.0, 10.0) if span / (factor * size) < _MOST_TICKS)
    first, last = math.floor(low / step), math.ceil(high / step)
    last += first == last
    ticks = tuple(float(f"{index * step:.12g}") for index in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], start, end, False, ticks)


def score_axis(values: Sequence[float], start: float, end: float) -> Axis:
    """Return a linear axis for scores in [0, 1]: around the values, ends on round ticks.

    An error bar may reach beyond what a score can be; the axis does not.
    """
    values = [min(max(value, 0.0), 1.0) for value in values]
    span = max(max(values) - min(values), 0.01)
    step = next(size for size in (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2) if span / size <= 5)
    low = max(0.0, math.floor((min(values) - 0.06 * span) / step) * step)
    high = math.ceil((max(values) + 0.1 * span) / step) * step
    count = round((high - low) / step)
    ticks = tuple(round(low + index * step, 10) for index in range(count + 1))
    if high > 1:  # no score is above 1, but its mark needs room
        high, ticks = 1 + 0.04 * span, tuple(tick for tick in ticks if tick <= 1)
    return Axis(low, high, start, end, False, ticks)


def _log_ticks(low: float, high: float) -> tuple[float, ...]:
    """Return evenly spaced ticks on a short axis; 1-2-5 or powers of ten on a longer one."""
    if high / low < _SHORT_AXIS:
        size = 10.0 ** math.floor(math.log10(high - low))
        step = next(factor * size for factor in (0.2, 0.5, 1.0, 2.0) if (high - low) / (factor * size) < _MOST_TICKS)
        return tuple(index * step for index in range(math.ceil(low / step), math.floor(high / step) + 1))
    decades = [10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    ticks = [factor * decade for decade in decades for factor in (1, 2, 5) if low <= factor * decade <= high]
    return tuple(ticks if len(ticks) <= _MOST_TICKS else [decade for decade in decades if low <= decade <= high])
