"""Layer names in few words."""

import re
from collections.abc import Sequence

_LAYER = re.compile(r"conv_block(?P<block>\d+)(?:\.(?P<conv>conv\d+))?")


def short_layers(layers: Sequence[str]) -> str:
    """Return ``blocks 4–6`` for both convolutions of consecutive blocks; other choices by name; a dash for none."""
    matches = [_LAYER.fullmatch(name) for name in layers]
    if not layers:
        return "–"
    convs_of: dict[int, set[str]] = {}
    for match in matches:
        if match is None:
            return ", ".join(layers)
        convs_of.setdefault(int(match["block"]), set()).add(match["conv"] or "")
    blocks = sorted(convs_of)
    are_alike = all(convs == convs_of[blocks[0]] for convs in convs_of.values())
    if not are_alike or blocks != list(range(blocks[0], blocks[-1] + 1)):
        return ", ".join(layers)
    span = f"block {blocks[0]}" if len(blocks) == 1 else f"blocks {blocks[0]}–{blocks[-1]}"
    convs = convs_of[blocks[0]]
    return span if convs in ({""}, {"conv1", "conv2"}) else f"{span}, {' and '.join(sorted(convs - {''}))}"
