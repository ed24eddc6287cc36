"""Families that read the waveform: their groups in closed form, and layers that cannot be pruned."""

import re

import pytest

from epanns.errors import PruningError
from epanns.pruning.prune import prune
from epanns.pruning.surgery import ChannelGroup, Reader, channel_groups
from tests.families import narrow

CHAINS = ("Wavegram_Cnn14", "LeeNet11", "LeeNet24")


def behind(layer: str) -> str:
    """Return the name of the batch norm behind a convolution, as in PANNs."""
    before, _, last = layer.rpartition(".")
    named = {"downsample": "bn_downsample", "1": "2"}.get(last, last.replace("conv", "bn"))
    return f"{before}.{named}" if before else named


def group_of(width: int, producers: list[str], readers: list[Reader | str]) -> ChannelGroup:
    return ChannelGroup(
        layer=producers[0],
        width=width,
        producers=tuple(producers),
        norms=tuple(behind(producer) for producer in producers),
        depthwise=(),
        readers=tuple(Reader(reader, 0) if isinstance(reader, str) else reader for reader in readers),
    )


@pytest.mark.parametrize("name", CHAINS)
def test_each_group_of_a_chain_is_read_by_the_next_layer(name):
    model = narrow(name)
    groups = channel_groups(model)
    readers = dict(zip(model.layer_names, [*model.layer_names[1:], "fc1"], strict=True))
    if name == "Wavegram_Cnn14":
        readers["pre_block3.conv1"] = "pre_block3.conv2"  # whose channels become rows: it has no group
    assert groups == {layer: group_of(width, [layer], [readers[layer]]) for layer, width in model.spec.widths.items()}


def test_concatenated_maps_are_read_at_an_offset():
    model = narrow("Wavegram_Logmel_Cnn14")
    groups, widths = channel_groups(model), model.spec.widths
    assert "pre_block3.conv2" not in groups
    assert groups["conv_block1.conv2"].readers == (Reader("conv_block2.conv1", 0),)
    assert groups["pre_block4.conv2"].readers == (Reader("conv_block2.conv1", widths["conv_block1.conv2"]),)
    assert model.conv_block2.conv1.in_channels == widths["conv_block1.conv2"] + widths["pre_block4.conv2"]


def test_a_stream_of_dainet_is_one_group():
    model = narrow("DaiNet19")
    groups = channel_groups(model)
    assert groups["conv0"] == group_of(
        model.spec.widths["conv0"],
        ["conv0", "conv_block1.conv4"],
        ["conv_block1.conv1", "conv_block2.conv1", "conv_block2.downsample"],
    )
    assert groups["conv_block3.conv4"] == group_of(
        model.spec.widths["conv_block3.conv4"],
        ["conv_block3.conv4", "conv_block3.downsample"],
        ["conv_block4.conv1", "conv_block4.downsample"],
    )
    assert groups["conv_block4.conv4"].readers == (Reader("fc1", 0),)


@pytest.mark.parametrize(("name", "depths"), [("Res1dNet31", [2] * 7), ("Res1dNet51", [2, 3, 4, 6, 4, 3, 2])])
def test_a_stream_of_res1dnet_is_one_group(name, depths):
    model = narrow(name)
    expected = {}
    for layer, depth in enumerate(depths, start=1):
        blocks = [f"resnet.layer{layer}.{block}" for block in range(depth)]
        following = f"resnet.layer{layer + 1}.0"
        after = [f"{following}.conv1", f"{following}.downsample.1"] if layer < 7 else ["fc1"]
        ends = [f"{block}.conv2" for block in blocks]
        begins = [f"{block}.conv1" for block in blocks]
        if layer == 1:
            ends, inside = ["conv0", *ends], begins
        else:
            ends, inside = [ends[0], f"{blocks[0]}.downsample.1", *ends[1:]], begins[1:]
        expected[ends[0]] = group_of(model.spec.widths[ends[0]], ends, [*inside, *after])
        for begin in begins:
            expected[begin] = group_of(model.spec.widths[begin], [begin], [begin.replace("conv1", "conv2")])
    assert channel_groups(model) == expected


@pytest.mark.parametrize(
    ("name", "layer", "reason"),
    [
        ("Wavegram_Cnn14", "pre_block3.conv2", "its channels become the rows of the wavegram"),
        ("Wavegram_Cnn14", "conv_block1", "no forward pass uses it"),
        ("Wavegram_Logmel_Cnn14", "bn0", "it normalises the mel bins of the front end"),
        ("DaiNet19", "conv_block1.downsample", "no forward pass uses it"),
        ("DaiNet19", "conv_block1.conv4", "its channels are those of conv0, so name that"),
        ("DaiNet19", "conv_block1.bn4", "a batch norm shrinks with its convolution, so name conv0"),
        ("Res1dNet31", "resnet.layer3.0.downsample.1", "its channels are those of resnet.layer3.0.conv2, so name that"),
        ("Res1dNet31", "fc1", "its inputs shrink when resnet.layer7.0.conv2 is pruned"),
    ],
)
def test_layers_without_a_group_are_refused_with_the_reason(name, layer, reason):
    with pytest.raises(PruningError, match=rf"{re.escape(layer)}\S* cannot be pruned: .*{re.escape(reason)}"):
        prune(narrow(name), ratio=0.5, layers=[layer])
