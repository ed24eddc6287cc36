"""Numbers of channels: a ratio to a width, and widths rounded to a multiple; exact arithmetic, without tensors."""

from fractions import Fraction
from numbers import Real

from epanns.errors import PruningError


def remaining_width(
    width: int, pruning_ratio: float, *, round_to: int = 1, exact: bool = True, layer: str = "the layer"
) -> int:
    """Return how many of `width` channels are kept.

    ``round_half_even(width * pruning_ratio)`` channels are removed, computed exactly on the ratio's decimal digits: in
    floating point ``10 * (1 - 0.9)`` is less than 1. The width is then rounded to the nearest multiple of `round_to`
    (up from halfway), never below one multiple and never above `width`.

    Args:
        width: Channels of the unpruned layer.
        pruning_ratio: Fraction removed, in [0, 1); 0 leaves the layer unchanged for any `round_to`.
        round_to: Multiple to which the widths of pruned layers are rounded.
        exact: Whether to refuse a ratio that removes no channel or every channel. Otherwise, for one ratio of a whole
            network, a layer too narrow for it keeps all of its channels, or one.
        layer: Name of the layer, for messages.

    Raises:
        PruningError: If a value is out of range, or, where `exact`, a positive ratio removes no channel or every
            channel.
    """
    refuse_ratio(pruning_ratio, layer)
    _refuse_multiple(round_to)
    if pruning_ratio == 0:
        return width
    kept = max(width - round(width * Fraction(repr(float(pruning_ratio)))), 0 if exact else 1)
    if round_to > 1:
        multiples = max(1, (2 * kept + round_to) // (2 * round_to))
        kept = min(width, multiples * round_to)
    if kept == 0:
        raise PruningError(
            f"ratio {pruning_ratio} removes all {width} channels of {layer}: "
            f"give at most {1 - 1 / width:.4g} or leave the layer out"
        )
    if exact and kept == width:
        raise PruningError(
            f"ratio {pruning_ratio} removes none of the {width} channels of {layer} (round_to={round_to}): "
            "raise the ratio, lower round_to, or leave the layer out"
        )
    return kept


def allowed_widths(width: int, *, round_to: int = 1, minimum: float = 0.0) -> tuple[int, ...]:
    """Return the widths a layer may get, ascending: multiples of `round_to` below `width`, and `width` itself.

    Args:
        width: Channels of the unpruned layer.
        round_to: Multiple to which the widths of pruned layers are rounded.
        minimum: Smallest fraction of `width` that is kept, in [0, 1).

    Raises:
        PruningError: If `round_to` or `minimum` is out of range.
    """
    _refuse_multiple(round_to)
    if isinstance(minimum, bool) or not isinstance(minimum, int | float) or not 0 <= minimum < 1:
        raise PruningError(f"minimum={minimum!r}: must be in [0, 1), the fraction of a layer's channels that must stay")
    least = max(round_to, -(-(width * Fraction(repr(float(minimum)))) // round_to) * round_to)
    return (*range(int(least), width, round_to), width)


def refuse_ratio(ratio: object, layer: str) -> None:
    """Raise `PruningError` if a ratio is no number in [0, 1)."""
    if isinstance(ratio, bool) or not isinstance(ratio, Real):
        raise PruningError(f"ratio {ratio!r} for {layer}: must be a number in [0, 1), the fraction of channels removed")
    value = float(ratio)
    if not 0 <= value < 1:
        percent = f"; for {value:g} % give {value / 100:g}" if 1 < value < 100 else ""
        raise PruningError(f"ratio {ratio} for {layer}: must be in [0, 1), the fraction of channels removed{percent}")


def _refuse_multiple(round_to: object) -> None:
    if type(round_to) is not int or round_to < 1:
        raise PruningError(f"round_to={round_to!r}: must be a whole number of at least 1")
