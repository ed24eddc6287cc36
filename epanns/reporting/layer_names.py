"""Layer names in few words."""

import re
from collections.abc import Sequence

_LISTED = 4  # more layers are told by where they are, and counted
_LAYER = re.compile(r"conv_block(?P<block>\d+)(?:\.(?P<conv>conv\d+))?")
_PLACE = re.compile(r"(?P<part>.*?)(?P<number>\d+)(?:\..*)?")


def short_layers(layers: Sequence[str]) -> str:
    """Return ``blocks 4–6`` for both convolutions of consecutive blocks; a dash for none.

    Other choices are listed by name, or, where they are many, by the parts of the network they are in:
    ``conv_block1, resnet.layer1–4 (9 layers)``.
    """
    if not layers:
        return "–"
    if blocks := _whole_blocks(layers):
        return blocks
    return ", ".join(layers) if len(layers) <= _LISTED else f"{_parts(layers)} ({len(layers)} layers)"


def _whole_blocks(layers: Sequence[str]) -> str | None:
    """Name consecutive ``conv_block`` of which the same convolutions are named; None for any other choice."""
    convs_of: dict[int, set[str]] = {}
    for match in map(_LAYER.fullmatch, layers):
        if match is None:
            return None
        convs_of.setdefault(int(match["block"]), set()).add(match["conv"] or "")
    convs = next(iter(convs_of.values()))
    if any(others != convs for others in convs_of.values()) or len(_runs(list(convs_of))) > 1:
        return None
    (span,) = _runs(list(convs_of))
    blocks = f"block {span}" if len(convs_of) == 1 else f"blocks {span}"
    return blocks if convs in ({""}, {"conv1", "conv2"}) else f"{blocks}, {' and '.join(sorted(convs - {''}))}"


def _parts(layers: Sequence[str]) -> str:
    """Join the parts that layers are in, up to the first number of their names: ``features.0–13``."""
    numbers: dict[str, list[int]] = {}
    for layer in layers:
        match = _PLACE.fullmatch(layer)
        part, number = (match["part"], [int(match["number"])]) if match else (layer, [])
        numbers.setdefault(part, []).extend(number)
    return ", ".join(f"{part}{span}" for part, found in numbers.items() for span in _runs(found) or [""])


def _runs(numbers: Sequence[int]) -> list[str]:
    """Return ``["1–3", "5"]`` for 1, 2, 3 and 5, in any order."""
    found = sorted(set(numbers))
    starts = [number for number in found if number - 1 not in found]
    ends = [number for number in found if number + 1 not in found]
    return [str(start) if start == end else f"{start}–{end}" for start, end in zip(starts, ends, strict=True)]
