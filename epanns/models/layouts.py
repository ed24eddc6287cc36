"""The layers with a width of their own, family by family; the family ``cnn`` has a rule in `spec` instead."""

# ResNet family -> residual blocks in each of its four layers, and convolutions in a block.
RESNETS: dict[str, tuple[tuple[int, ...], int]] = {
    "resnet22": ((2, 2, 2, 2), 2),
    "resnet38": ((3, 4, 6, 3), 2),
    "resnet54": ((3, 4, 6, 3), 3),
}

# MobileNetV1: by how much each separable block shrinks time and mel.
SEPARABLE_POOLS = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)

# MobileNetV2: the inverted residuals that share an output width, how many, and by how much the first one shrinks
# time and mel. The first group alone does not expand its channels.
INVERTED_GROUPS = ((1, 1), (2, 2), (3, 2), (4, 2), (3, 2), (3, 1), (1, 1))


def _resnet(depths: tuple[int, ...], convs: int) -> tuple[str, ...]:
    """Name the convolutions inside each block, and of a layer's outputs the first, to which the others are added.

    Where a block has two convolutions, the outputs of layer 1 are added to those of ``conv_block1.conv2``.
    """
    names = ["conv_block1.conv1", "conv_block1.conv2"]
    for layer, depth in enumerate(depths, start=1):
        for block in range(depth):
            leads = block == 0 and (layer, convs) != (1, 2)
            names += [f"resnet.layer{layer}.{block}.conv{conv}" for conv in range(1, convs + leads)]
    return (*names, "conv_block_after1.conv1", "conv_block_after1.conv2")


def _mobilenet_v2() -> tuple[str, ...]:
    """Name each expansion, and of the projections that are added to each other the first."""
    names = ["features.0.0"]
    block = 0
    for group, (depth, _) in enumerate(INVERTED_GROUPS):
        for index in range(depth):
            block += 1
            expansion, projection = [] if group == 0 else ["conv.0"], "conv.4" if group == 0 else "conv.7"
            parts = [*expansion, projection] if index == 0 else expansion
            names += [f"features.{block}.{part}" for part in parts]
    return (*names, f"features.{block + 1}.0")


# Family -> names of the layers that lead its channel groups, in forward order: the keys of `ModelSpec.widths`.
LAYOUTS: dict[str, tuple[str, ...]] = {
    **{family: _resnet(depths, convs) for family, (depths, convs) in RESNETS.items()},
    "mobilenet_v1": ("features.0.0", *(f"features.{block}.4" for block in range(1, len(SEPARABLE_POOLS) + 1))),
    "mobilenet_v2": _mobilenet_v2(),
}
