"""How many channels of which layer stay: exact arithmetic on names and numbers, no tensors."""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from numbers import Real
from pathlib import Path
from typing import Any

from epanns.errors import PruningError, did_you_mean
from epanns.safe_text import printable
from epanns.strict import is_finite, shown
from epanns.text_files import read_json, read_toml


def remaining_width(
    width: int, pruning_ratio: float, *, round_to: int = 1, exact: bool = True, layer: str = "the layer"
) -> int:
    """Return how many of `width` channels stay.

    ``round_half_even(width * pruning_ratio)`` channels go, computed exactly on the ratio's decimal digits: in floating
    point ``10 * (1 - 0.9)`` is less than 1. What stays is then moved to the nearest multiple of `round_to` (up when
    two are equally near), never below one multiple and never above `width`.

    Args:
        width: Channels of the unpruned layer.
        pruning_ratio: Fraction removed, in [0, 1); 0 leaves the layer alone whatever `round_to` is.
        round_to: Multiple that the widths of pruned layers shall have.
        exact: Whether it is an error that none would go or none would stay. Otherwise, for one ratio that is asked of
            a whole network, a layer too narrow for it keeps all of its channels, or one.
        layer: Named in messages.

    Raises:
        PruningError: If a value is out of range, or, where `exact`, a positive ratio removes no channel or every
            channel.
    """
    _refuse_ratio(pruning_ratio, layer)
    if type(round_to) is not int or round_to < 1:
        raise PruningError(f"round_to={round_to!r}: must be a whole number of at least 1")
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


def _refuse_ratio(ratio: object, layer: str) -> None:
    if isinstance(ratio, bool) or not isinstance(ratio, Real):
        raise PruningError(f"ratio {ratio!r} for {layer}: must be a number in [0, 1), the fraction of channels removed")
    value = float(ratio)
    if not 0 <= value < 1:
        percent = f"; for {value:g} % give {value / 100:g}" if 1 < value < 100 else ""
        raise PruningError(f"ratio {ratio} for {layer}: must be in [0, 1), the fraction of channels removed{percent}")


def select_layers(names: Sequence[str], *, prunable: Sequence[str], protected: Mapping[str, str]) -> tuple[str, ...]:
    """Return the layers meant by `names`, in forward order.

    Args:
        names: Layer names or block names: ``conv_block4`` is ``conv_block4.conv1`` and ``conv_block4.conv2``.
        prunable: The network's prunable layers, in forward order.
        protected: Name -> why it cannot be pruned.

    Raises:
        PruningError: If there is no name, one stands twice, or one is unknown (the nearest is offered) or protected.
    """
    if isinstance(names, str) or not names:
        raise PruningError(f"layers={names!r}: give a list of layer names, or leave it out to prune every convolution")
    if twice := [name for place, name in enumerate(names) if name in names[:place]]:
        raise PruningError(f"layers: {twice[0]} stands twice; name each layer or block once")
    chosen = {layer for name in names for layer in _layers_of(name, prunable, protected)}
    return tuple(layer for layer in prunable if layer in chosen)


def layers_within(name: str, prunable: Sequence[str]) -> list[str]:
    """Return the layers that are `name`, or in the block of that name; none where it is neither."""
    return [layer for layer in prunable if layer == name or layer.startswith(f"{name}.")]


def _layers_of(name: str, prunable: Sequence[str], protected: Mapping[str, str]) -> list[str]:
    found = layers_within(name, prunable)
    if found:
        return found
    for layer, reason in protected.items():
        if layer == name or layer.startswith(f"{name}."):
            raise PruningError(f"{name} cannot be pruned: {reason}; leave it out of the layers")
    blocks = dict.fromkeys(layer.split(".")[0] for layer in prunable)
    raise PruningError(
        f"unknown layer {name!r}{did_you_mean(name, [*prunable, *blocks])}: "
        f"name a convolution or a block, among {', '.join(prunable)}"
    )


def ratio_per_layer(
    ratios: Mapping[str, float], *, prunable: Sequence[str], protected: Mapping[str, str]
) -> dict[str, float]:
    """Return layer -> ratio in forward order from names of layers and blocks; a layer's own entry beats its block's.

    Raises:
        PruningError: As `select_layers`, for any of the names; and where a ratio is not in [0, 1).
    """
    if not ratios:
        raise PruningError("ratios is empty: name at least one layer or block, such as conv_block4 = 0.5")
    by_block: dict[str, float] = {}
    by_layer: dict[str, float] = {}
    for name, ratio in ratios.items():
        layers = _layers_of(name, prunable, protected)
        _refuse_ratio(ratio, name)
        (by_layer if name in prunable else by_block).update(dict.fromkeys(layers, float(ratio)))
    asked = by_block | by_layer
    return {layer: asked[layer] for layer in prunable if layer in asked}


def read_ratios(path: Path) -> dict[str, float]:
    """Read ``layer = ratio`` from a TOML file, or an object from a ``.json`` file.

    TOML's dotted keys are joined again, so ``conv_block4.conv1 = 0.5`` means what it says.

    Raises:
        PruningError: If the file cannot be read, holds nothing, or a value is no number; the file is named.
    """
    given = (read_json if path.suffix == ".json" else read_toml)(path, error=PruningError)
    if not isinstance(given, dict) or not given:
        raise PruningError(f"{path}: must hold lines such as conv_block4 = 0.5, one per layer or block")
    entries = list(_flattened(given))
    ratios = dict(entries)
    if len(ratios) < len(entries):
        twice = next(layer for layer in ratios if sum(layer == name for name, _ in entries) > 1)
        raise PruningError(f"{path}: {printable(twice)} stands twice; name each layer or block once")
    for layer, ratio in ratios.items():
        if not is_finite(ratio):
            raise PruningError(
                f"{path}: {printable(layer)} = {shown(ratio)} must be a number in [0, 1), the fraction removed"
            )
    return ratios


def _flattened(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
