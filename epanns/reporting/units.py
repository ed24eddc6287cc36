"""Numbers as people read them in tables and on axes."""

from collections.abc import Sequence
from statistics import fmean, stdev

_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def si(value: float | None) -> str:
    """Return a count with three significant digits and a prefix: 23,205,839 is ``23.2 M``; None is a dash."""
    if value is None:
        return "–"
    for factor, prefix in _PREFIXES:
        if value >= 0.9995 * factor:
            return f"{three_digits(value / factor)} {prefix}"
    return three_digits(value)


def si_tick(value: float) -> str:
    """Return a round count without needless zeros: 5,000,000 is ``5 M``."""
    factor, prefix = next(((factor, prefix) for factor, prefix in _PREFIXES if value >= 0.9995 * factor), (1.0, ""))
    return f"{value / factor:g} {prefix}".rstrip()


def megabytes(n_bytes: float | None) -> str:
    """Return bytes in units of 10^6, with three significant digits; None is a dash."""
    return "–" if n_bytes is None else three_digits(n_bytes / 1e6)


def signed_percent(fraction: float) -> str:
    """Return a change as ``−38.1 %``, with a minus sign and one decimal."""
    return f"{fraction * 100:+.1f} %".replace("-", "−")


def mean_and_sd(values: Sequence[float], *, digits: int = 3, sign: bool = False) -> str:
    """Return the mean and, of several values, the sample standard deviation: ``0.612 ± 0.021``."""
    mean = f"{fmean(values):{'+' if sign else ''}.{digits}f}"
    return f"{mean} ± {stdev(values):.{digits}f}" if len(values) > 1 else mean


def three_digits(value: float) -> str:
    """Return a number with three significant digits and no exponent: 80.8, 5.02, 308, 0.0123."""
    for bound, decimals in ((99.95, 0), (9.995, 1), (0.9995, 2)):
        if abs(value) >= bound:
            return f"{value:.{decimals}f}"
    return f"{value:.3g}" if abs(value) >= 1e-4 or value == 0 else f"{value:.2e}"
