"""Families that read the waveform: their groups in closed form, and surgery against zeroed channels."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from epanns.errors import PruningError
from epanns.models.files.checkpoint import save_checkpoint
from epanns.models.tagger import Tagger
from epanns.pruning.prune import prune
from epanns.pruning.surgery import ChannelGroup, Reader, channel_groups, remove_channels
from tests.families import narrow, noise, silenced

CHAINS = ("Wavegram_Cnn14", "LeeNet11", "LeeNet24")
NAMES = (*CHAINS, "Wavegram_Logmel_Cnn14", "Wavegram_Logmel128_Cnn14", "DaiNet19", "Res1dNet31", "Res1dNet51")
RATIOS = (0.1, 0.25, 0.5, 0.75, 0.9, 0.97)


def some_channels(model: Tagger, ratio: float, seed: int = 0) -> dict[str, list[int]]:
    """Return a random choice of the channels of each group, at least one."""
    generator = torch.Generator().manual_seed(seed)
    return {
        layer: sorted(torch.randperm(width, generator=generator)[: max(1, round(width * (1 - ratio)))].tolist())
        for layer, width in model.spec.widths.items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_pruned_network_equals_dense_network_with_zeroed_channels(name):
    model = narrow(name)
    inputs = noise(model)
    for ratio in RATIOS:
        kept = some_channels(model, ratio)
        pruned = remove_channels(model, kept)
        assert dict(pruned.spec.widths) == {layer: len(channels) for layer, channels in kept.items()}
        expected = silenced(model, kept, inputs)
        with torch.no_grad():
            outputs = pruned.forward_inputs(inputs)
        if ratio <= 0.25:  # networks of few channels give the same output for every clip
            assert not torch.allclose(expected["embedding"][0], expected["embedding"][1], rtol=1e-3)
        for key, value in expected.items():
            torch.testing.assert_close(outputs[key], value, rtol=1e-5, atol=1e-5 * float(value.abs().max()))


@given(seed=st.integers(0, 999), name=st.sampled_from(NAMES))
@settings(max_examples=15)
def test_pruning_any_groups_equals_zeroing_their_channels(seed, name):
    model = narrow(name)
    chosen = [layer for index, layer in enumerate(model.layer_names) if seed >> index % 10 & 1]
    kept = {layer: channels for layer, channels in some_channels(model, 0.6, seed).items() if layer in chosen}
    pruned = remove_channels(model, kept)
    inputs = noise(model, clips=1)
    expected = silenced(model, kept, inputs)["clipwise_logits"]
    with torch.no_grad():
        actual = pruned.forward_inputs(inputs)["clipwise_logits"]
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


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


_FRESH = """
import sys
import torch
import epanns
from pathlib import Path
from epanns.pruning.prune import prune

folder = Path(sys.argv[1])
waveform = torch.load(folder / "waveform.pt")
for saved in sorted(path for path in folder.iterdir() if path.is_dir()):
    once = epanns.load(saved)
    twice, _ = prune(once, ratio=0.5)
    with torch.no_grad():
        torch.save([once(waveform)["embedding"], twice(waveform)["embedding"]], folder / f"{saved.name}.pt")
"""


@pytest.mark.slow
def test_pruned_networks_are_loaded_and_pruned_again_in_another_process(tmp_path):
    waveform = torch.rand(1, 26_000) - 0.5
    torch.save(waveform, tmp_path / "waveform.pt")
    expected = {}
    for name in NAMES:
        once, _ = prune(narrow(name), ratio=0.5)
        save_checkpoint(once, tmp_path / name)
        with torch.no_grad():
            expected[name] = [model(waveform)["embedding"] for model in (once, prune(once, ratio=0.5)[0])]
    subprocess.run([sys.executable, "-c", _FRESH, tmp_path], check=True, cwd=Path(__file__).parents[2])
    for name in NAMES:
        for actual, value in zip(torch.load(tmp_path / f"{name}.pt"), expected[name], strict=True):
            assert torch.equal(actual, value), name


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
