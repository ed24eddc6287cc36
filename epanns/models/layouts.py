"""The layers with a width of their own, family by family; the family ``cnn`` has a rule in `spec` instead."""

from collections.abc import Mapping

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

# YAMNet: the stride of the 3x3 convolution of each layer, the first one's over all channels, the others' depthwise.
YAMNET_STRIDES = (2, 1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)


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


def _convs(*blocks: str, depth: int) -> tuple[str, ...]:
    return tuple(f"{block}.conv{conv}" for block in blocks for conv in range(1, depth + 1))


def _wavegram(*log_mel: str) -> tuple[str, ...]:
    """Of the wavegram, the channels of ``pre_block3.conv2`` become rows and must stay; then log-mel, then both."""
    waveform = _convs("pre_block1", "pre_block2", depth=2)
    joined = _convs(*(f"conv_block{block}" for block in range(2, 7)), depth=2)
    return ("pre_conv0", *waveform, "pre_block3.conv1", *_convs("pre_block4", *log_mel, depth=2), *joined)


def _dainet19() -> tuple[str, ...]:
    """The first stream is led by ``conv0``, each other one by the last convolution of the block that begins it."""
    return ("conv0", *_convs("conv_block1", depth=3), *_convs("conv_block2", "conv_block3", "conv_block4", depth=4))


def _leenet(*, depth: int) -> tuple[str, ...]:
    return _convs(*(f"conv_block{block}" for block in range(1, 10)), depth=depth)


def _res1dnet(*blocks: int) -> tuple[str, ...]:
    """The first stream is led by ``conv0``, each other one by the last convolution of the block that begins it."""
    layers = ["conv0"]
    for layer, depth in enumerate(blocks, start=1):
        for block in range(depth):
            layers.append(f"resnet.layer{layer}.{block}.conv1")
            if layer > 1 and block == 0:
                layers.append(f"resnet.layer{layer}.{block}.conv2")
    return tuple(layers)


_YAMNET = ("layer1.conv", *(f"layer{layer}.pointwise_conv" for layer in range(2, len(YAMNET_STRIDES) + 1)))

# LEAN's rows all hear windows of 1 s: YAMNet with another classifier, and those that join it to a wave encoder.
FUSION_FAMILIES = ("lean_concat", "lean_affinity", "lean")
LEAN_FAMILIES = ("yamnet_linear", "yamnet_projection", *FUSION_FAMILIES)

# Family -> names of the layers that lead its channel groups, in forward order: the keys of `ModelSpec.widths`.
LAYOUTS: dict[str, tuple[str, ...]] = {
    **{family: _resnet(depths, convs) for family, (depths, convs) in RESNETS.items()},
    "mobilenet_v1": ("features.0.0", *(f"features.{block}.4" for block in range(1, len(SEPARABLE_POOLS) + 1))),
    "mobilenet_v2": _mobilenet_v2(),
    "wavegram_cnn14": _wavegram(),
    "wavegram_logmel_cnn14": _wavegram("conv_block1"),
    "dainet19": _dainet19(),
    "leenet11": _leenet(depth=1),
    "leenet24": _leenet(depth=2),
    "res1dnet31": _res1dnet(2, 2, 2, 2, 2, 2, 2),
    "res1dnet51": _res1dnet(2, 3, 4, 6, 4, 3, 2),
    "yamnet": _YAMNET,
    **dict.fromkeys(LEAN_FAMILIES, _YAMNET),
}

# Families on YAMNet's log-mel, and those of them whose classifier reads the channels of the last layer themselves.
YAMNET_FAMILIES = frozenset({"yamnet", *LEAN_FAMILIES})
WITHOUT_FC1 = frozenset({"yamnet", "yamnet_linear"})

# Families that read the waveform and no log-mel: of their front end, only the sample rate counts.
WAVEFORM_FAMILIES = frozenset({"wavegram_cnn14", "dainet19", "leenet11", "leenet24", "res1dnet31", "res1dnet51"})


def layout_widths(family: str, blocks: Mapping[str, int]) -> dict[str, int]:
    """Return the width of every layer of a family from those of its blocks, ``conv_block1`` for all that it holds."""
    return {
        layer: next(width for block, width in blocks.items() if layer == block or layer.startswith(f"{block}."))
        for layer in LAYOUTS[family]
    }
