"""The layers with a width of their own, family by family; the family ``cnn`` has a rule in `spec` instead."""

# Family -> names of the layers that lead its channel groups, in forward order: the keys of `ModelSpec.widths`.
LAYOUTS: dict[str, tuple[str, ...]] = {}
