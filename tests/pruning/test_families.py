"""Every family pruned at any ratio; groups of the residual and depthwise families in closed form."""

import subprocess
import sys
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from epanns.errors import PruningError
from epanns.models.files.checkpoint import save
from epanns.models.files.load import load
from epanns.models.zoo import build_model
from epanns.pruning.prune import prune
from epanns.pruning.surgery import ChannelGroup, Reader, channel_groups, forward_order, remove_channels
from tests.families import narrow, noise, silenced

FAMILIES = (
    *("ResNet22", "ResNet38", "ResNet54", "MobileNetV1", "MobileNetV2"),
    *("YAMNet", "YAMNet_projection", "LEAN", "LEAN_affinity", "LEAN_concat", "mn01", "mn10"),
)
FAMILIES_1D = (
    *("Wavegram_Cnn14", "LeeNet11", "LeeNet24", "Wavegram_Logmel_Cnn14", "Wavegram_Logmel128_Cnn14"),
    *("DaiNet19", "Res1dNet31", "Res1dNet51"),
)
DEPTHS = {"ResNet22": (2, 2, 2, 2), "ResNet38": (3, 4, 6, 3), "ResNet54": (3, 4, 6, 3)}


@pytest.mark.parametrize("name", [*FAMILIES, *FAMILIES_1D])
def test_pruned_network_equals_dense_network_with_zeroed_channels(name):
    model = narrow(name)
    inputs = noise(model)
    for ratio in (0.1, 0.5, 0.9):
        pruned, plan = prune(model, ratio=ratio, criterion="random")
        widths = {layer: max(1, width - round(width * ratio)) for layer, width in model.spec.widths.items()}
        assert plan.widths == dict(pruned.spec.widths) == widths
        expected = silenced(model, plan.kept_channels, inputs)
        with torch.no_grad():
            output = pruned.forward_inputs(inputs)
        if ratio == 0.1:  # networks of few channels give the same output for every clip
            assert not torch.allclose(expected["embedding"][0], expected["embedding"][1], rtol=1e-3)
        for key, value in expected.items():
            torch.testing.assert_close(output[key], value, rtol=1e-5, atol=1e-5 * max(1.0, float(value.abs().max())))


@given(name=st.sampled_from([*FAMILIES, *FAMILIES_1D]), seed=st.integers(0, 999), is_single=st.booleans())
@settings(max_examples=25)
def test_pruning_any_groups_equals_zeroing_their_channels(name, seed, is_single):
    model, generator = narrow(name), torch.Generator().manual_seed(seed)
    layers = [layer for layer in model.layer_names if model.spec.widths[layer] > 1]
    chosen = torch.randperm(len(layers), generator=generator)[: 1 if is_single else len(layers) // 2].tolist()
    kept = {}
    for layer in [layers[index] for index in sorted(chosen)]:
        width = model.spec.widths[layer]
        kept[layer] = sorted(torch.randperm(width, generator=generator)[: max(1, round(0.4 * width))].tolist())
    inputs = noise(model, clips=1)
    expected = silenced(model, kept, inputs)["clipwise_logits"]
    with torch.no_grad():
        actual = remove_channels(model, kept).forward_inputs(inputs)["clipwise_logits"]
    # Deep networks add up the rounding of float32 (3.5e-5 in Res1dNet51).
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-4 * max(1.0, float(expected.abs().max())))


def streams_of(name: str) -> dict[str, ChannelGroup]:
    """Return the residual streams of a ResNet by definition: the layers that are added, and the readers of the sum."""
    last = 3 if name == "ResNet54" else 2
    model, streams = narrow(name), {}
    for layer, depth in enumerate(DEPTHS[name], start=1):
        prefix, after = f"resnet.layer{layer}", f"resnet.layer{layer + 1}.0"
        producers = [f"{prefix}.{block}.conv{last}" for block in range(depth)]
        norms = [f"{prefix}.{block}.bn{last}" for block in range(depth)]
        readers = [f"{prefix}.{block}.conv1" for block in range(1, depth)]
        if layer == 1 and last == 2:  # the first block has no downsample layer
            producers, norms = ["conv_block1.conv2", *producers], ["conv_block1.bn2", *norms]
            readers = [f"{prefix}.0.conv1", *readers]
        else:
            place = 0 if layer == 1 else 1
            producers.insert(1, f"{prefix}.0.downsample.{place}")
            norms.insert(1, f"{prefix}.0.downsample.{place + 1}")
        readers += ["conv_block_after1.conv1"] if layer == 4 else [f"{after}.conv1", f"{after}.downsample.1"]
        lead = producers[0]
        streams[lead] = ChannelGroup(
            lead,
            model.spec.widths[lead],
            tuple(producers),
            tuple(norms),
            (),
            tuple(Reader(reader, 0) for reader in readers),
        )
    return streams


@pytest.mark.parametrize("name", DEPTHS)
def test_a_residual_stream_is_one_group(name):
    groups = channel_groups(narrow(name))
    streams = streams_of(name)
    assert {lead: groups[lead] for lead in streams} == streams
    assert all(len(group.producers) == len(group.norms) == 1 for lead, group in groups.items() if lead not in streams)
    assert all(not group.depthwise for group in groups.values())


def test_a_depthwise_convolution_belongs_to_the_group_of_its_input_channels():
    model = narrow("MobileNetV1")
    layers = [*model.layer_names, "fc1"]
    for block, (layer, group) in enumerate(channel_groups(model).items()):
        assert (group.producers, group.readers) == ((layer,), (Reader(layers[block + 1], 0),))
        own = "features.0.2" if block == 0 else f"features.{block}.5"
        behind = (f"features.{block + 1}.0", f"features.{block + 1}.2") if block < 13 else ()
        assert (group.depthwise, group.norms) == (behind[:1], (own, *behind[1:]))


def test_projections_of_inverted_residuals_are_one_group_where_they_are_added():
    groups = channel_groups(narrow("MobileNetV2"))
    first = 2
    for depth in (2, 3, 4, 3, 3, 1):
        blocks, after = range(first, first + depth), first + depth
        stream = groups[f"features.{first}.conv.7"]
        assert stream.producers == tuple(f"features.{block}.conv.7" for block in blocks)
        assert stream.norms == tuple(f"features.{block}.conv.8" for block in blocks)
        expansions = [f"features.{block}.conv.0" for block in (*blocks[1:], after)]
        assert [reader.name for reader in stream.readers] == (expansions if after < 18 else ["features.18.0"])
        for block in blocks:
            expanded = groups[f"features.{block}.conv.0"]
            assert expanded.depthwise == (f"features.{block}.conv.3",)
            assert expanded.norms == (f"features.{block}.conv.1", f"features.{block}.conv.5")
            assert expanded.readers == (Reader(f"features.{block}.conv.7", 0),)
        first = after
    assert first == 18


@pytest.mark.parametrize("name", FAMILIES)
def test_every_layer_is_in_exactly_one_group_and_reads_one_group(name):
    """Each convolution is a producer or depthwise layer of one group; each batch norm belongs to one group."""
    model = narrow(name)
    groups = channel_groups(model)
    layers = forward_order(model).layers
    assert tuple(groups) == model.layer_names == tuple(layer for layer in layers if layer in groups)
    made = [layer for group in groups.values() for layer in (*group.producers, *group.depthwise, *group.gates)]
    linear = {layer for layer in layers if isinstance(model.get_submodule(layer), nn.Linear)} - set(made)
    assert sorted(made) == sorted(set(layers) - linear)
    assert [layer for group in groups.values() for layer in group.gates] == list(model.gate_layers)
    read = Counter(reader.name for group in groups.values() for reader in group.readers)
    read.update(layer for group in groups.values() for layer in group.depthwise)
    behind = next(layer for layer in layers if layer in linear)  # the only linear layer that reads a convolution
    assert read == Counter({*layers, behind} - (linear - {behind}) - {layers[0]})
    norms = {layer for layer, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert sorted(norm for group in groups.values() for norm in group.norms) == sorted(norms - {"bn0"})


@pytest.mark.parametrize(("name", "reader"), [("YAMNet", "fc_audioset"), ("YAMNet_projection", "fc1"), ("LEAN", "fc1")])
def test_groups_of_yamnet_form_a_chain(name, reader):
    layers = [f"layer{number}" for number in range(2, 15)]
    leads = ["layer1.conv", *[f"{layer}.pointwise_conv" for layer in layers]]
    groups = channel_groups(narrow(name))
    assert list(groups) == leads
    for place, (layer, group) in enumerate(groups.items()):
        assert group.producers == (layer,)
        behind = f"{layers[place]}.depthwise" if place < 13 else None
        assert group.depthwise == ((f"{behind}_conv",) if behind else ())
        assert group.norms == (layer.removesuffix("conv") + "bn", *((f"{behind}_bn",) if behind else ()))
        assert group.readers == (Reader(f"{layers[place]}.pointwise_conv" if behind else reader, 0),)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            "encoder",
            "encoder cannot be pruned: the LSTMs of the wave encoder are recurrent: epanns prunes conv",
        ),
        ("encoder.lstm2", "encoder.lstm2 cannot be pruned: the LSTMs of the wave encoder are recurrent"),
        ("attention.key", "attention.key cannot be pruned: it joins the wave encoder's states to the projection"),
        (
            "fc1",
            "fc1 cannot be pruned: its outputs are the embedding; its inputs shrink when layer14.pointwise",
        ),
        ("layer5.depthwise_conv", "layer5.depthwise_conv cannot be pruned"),
    ],
)
def test_layers_of_lean_that_cannot_be_pruned_are_refused_with_the_reason(layer, message):
    with pytest.raises(PruningError, match=message):
        prune(narrow("LEAN"), ratio=0.5, layers=[layer])


@pytest.mark.parametrize("name", FAMILIES)
def test_groups_of_a_network_pruned_to_one_channel_are_the_same(name):
    """torch does not distinguish a depthwise convolution of one channel from an ordinary convolution."""
    model = narrow(name)
    pruned = remove_channels(model, dict.fromkeys(model.spec.widths, (3,)))
    expected = {
        layer: (1, group.producers, group.norms, group.depthwise, group.readers)
        for layer, group in channel_groups(model).items()
    }
    assert {
        layer: (group.width, group.producers, group.norms, group.depthwise, group.readers)
        for layer, group in channel_groups(pruned).items()
    } == expected


def test_pruning_leaves_layers_of_one_channel_unchanged():
    model = narrow("MobileNetV2")
    wide = remove_channels(model, {"features.0.0": (0,), "features.1.conv.4": (2,)})
    twice, _ = prune(wide, ratio=0.5)
    assert twice.spec.widths["features.0.0"] == twice.spec.widths["features.1.conv.4"] == 1
    alone = remove_channels(model, dict.fromkeys(model.spec.widths, (3,)))
    with pytest.raises(
        PruningError, match="removes no channel of any layer of this MobileNetV2, the widest of which has 1 "
    ):
        prune(alone, ratio=0.5)


def test_layers_too_narrow_for_a_ratio_stay_unpruned_and_are_reported():
    """MobileNetV2 has a layer of 16 channels; 3 % of 16 rounds to 0."""
    pruned, plan = prune(build_model("MobileNetV2", width=0.5), ratio=0.03)
    whole = [layer for layer, width in plan.base.widths.items() if round(0.03 * width) == 0]
    assert whole
    assert {layer for layer, width in pruned.spec.widths.items() if width == plan.base.widths[layer]} == set(whole)
    assert plan.summary().endswith(f"; too narrow to lose any: {', '.join(whole)}")


@pytest.mark.parametrize("name", FAMILIES)
def test_every_convolution_has_the_batch_norm_of_the_same_block(name):
    """Also where PANNs pool between convolution and batch norm."""
    model = narrow(name)
    norms = forward_order(model).norms
    convs = [layer for layer, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    assert sorted(norms) == sorted(convs)
    for layer, norm in norms.items():
        assert model.get_submodule(norm).num_features == model.get_submodule(layer).out_channels
        assert norm.rpartition(".")[0] == layer.rpartition(".")[0]


IN_ANOTHER_PROCESS = """
import sys, torch, epanns
from pathlib import Path
for folder in map(Path, sys.argv[1:]):
    inputs, logits = torch.load(folder.with_suffix(".pt"), weights_only=True)
    model = epanns.load(folder)
    twice, _ = epanns.prune(model, ratio=0.5)
    epanns.save(twice, folder.with_suffix(".twice"))
    with torch.no_grad():
        assert torch.equal(model.forward_inputs(inputs)["clipwise_logits"], logits), folder
"""


@pytest.mark.slow
def test_pruned_networks_are_loaded_and_pruned_again_in_another_process(tmp_path):
    folders = {tmp_path / name: narrow(name) for name in (*FAMILIES, *FAMILIES_1D)}
    for folder, model in folders.items():
        pruned, _ = prune(model, ratio=0.25)
        save(pruned, folder)
        with torch.no_grad():
            inputs = noise(model)
            torch.save((inputs, pruned.forward_inputs(inputs)["clipwise_logits"]), folder.with_suffix(".pt"))
    subprocess.run([sys.executable, "-c", IN_ANOTHER_PROCESS, *map(str, folders)], check=True)
    for folder, model in folders.items():
        twice = load(folder.with_suffix(".twice"))
        plan = twice.provenance.plan
        assert (plan.base, plan.widths) == (model.spec, dict(twice.spec.widths))
        expected = silenced(model, plan.kept_channels, noise(model))
        with torch.no_grad():
            output = twice.forward_inputs(noise(model))
        torch.testing.assert_close(output["clipwise_logits"], expected["clipwise_logits"], rtol=1e-5, atol=1e-5)
