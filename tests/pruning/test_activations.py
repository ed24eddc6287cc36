"""The covariance of channels as their readers see them, against one computed from stored activations."""

import pytest
import torch

from epanns.errors import PruningError
from epanns.models.tagger import Tagger
from epanns.models.zoo import ZOO, build_model
from epanns.pruning.ranking.importance import read_covariances
from epanns.pruning.surgery import ChannelGroup, Reader, channel_groups

LAYERS = ("conv_block1.conv1", "conv_block3.conv2", "conv_block6.conv2")


def clips(count=7, samples=80 * 70, seed=2):
    return torch.rand(count, samples, generator=torch.Generator().manual_seed(seed)) - 0.5


def chosen(model, layers=LAYERS):
    groups = channel_groups(model)
    return {layer: groups[layer] for layer in layers}


def stored_inputs(model: Tagger, name: str, waveform: torch.Tensor) -> torch.Tensor:
    """Return what a layer reads, ``(clips, positions, channels)`` float64."""
    found = []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda module, inputs: found.append(inputs[0]))
    with torch.no_grad():
        model(waveform)
    handle.remove()
    (read,) = found
    if isinstance(model.get_submodule(name), torch.nn.Linear):
        read = read.unflatten(1, (-1, read.shape[-1])) if read.dim() == 2 else read
        return read.double()
    return read.flatten(2).transpose(1, 2).double()


def slow_covariance(model: Tagger, group: ChannelGroup, waveform: torch.Tensor) -> torch.Tensor:
    total = torch.zeros(group.width, group.width, dtype=torch.float64)
    for reader in group.readers:
        window = slice(reader.offset, reader.offset + group.width)
        rows = stored_inputs(model, reader.name, waveform)[..., window].flatten(0, 1)
        weight = model.get_submodule(reader.name).weight.detach().double()[:, window]
        norms = torch.tensor([float(weight[:, channel].norm()) for channel in range(group.width)], dtype=torch.float64)
        total += torch.cov(rows.T, correction=0) * norms[:, None] * norms[None]
    return total


@pytest.mark.parametrize("head", ["clip", "decision_max"])
def test_streamed_covariances_equal_those_of_stored_activations(build, head):
    model = build(head=head)
    found = read_covariances(model, chosen(model), [clips()])
    for layer, group in chosen(model).items():
        torch.testing.assert_close(found[layer], slow_covariance(model, group, clips()), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["ResNet22", "MobileNetV2"])
def test_streams_and_what_lies_behind_depthwise_convolutions_are_seen_by_every_reader(name):
    model = build_model(ZOO[name].scaled(1 / 16), num_classes=5).eval()
    waveform = clips(3, samples=32_000)
    groups = channel_groups(model)
    for layer, found in read_covariances(model, groups, [waveform]).items():
        torch.testing.assert_close(found, slow_covariance(model, groups[layer], waveform), rtol=1e-5, atol=1e-9)


def test_several_readers_add_up_and_each_sees_its_own_channels(model):
    """The readers of a residual stream, one of which reads it behind other channels."""
    readers = (Reader("conv_block6.conv2", 3), Reader("conv_block6.conv1", 0))
    group = ChannelGroup("conv_block5.conv2", 11, ("conv_block5.conv2",), (), (), readers)
    found = read_covariances(model, {"stream": group}, [clips()])["stream"]
    torch.testing.assert_close(found, slow_covariance(model, group, clips()), rtol=1e-6, atol=1e-9)


def test_the_batch_size_decides_nothing_not_even_the_last_digit(model):
    whole = read_covariances(model, chosen(model), [clips()])
    targets = torch.zeros(7, 5)
    pieces = [(clips()[:1], targets[:1]), (clips()[1:6], targets[1:6]), (clips()[6:], targets[6:])]
    apart = read_covariances(model, chosen(model), pieces)
    assert all(torch.equal(whole[layer], apart[layer]) for layer in LAYERS)


def test_each_clip_weighs_the_same_however_long(model):
    """Repeated to twice its length, a clip weighs no more."""
    group = chosen(model, ["conv_block6.conv2"])  # read by fc1, one row a clip
    pair, long = clips(2), clips(1, 80 * 140, seed=3)
    together = read_covariances(model, group, [pair, long])["conv_block6.conv2"]
    rows = torch.cat([stored_inputs(model, "fc1", wave).flatten(0, 1) for wave in (pair, long)])
    norms = model.fc1.weight.detach().double().norm(dim=0)
    torch.testing.assert_close(together, torch.cov(rows.T, correction=0) * norms[:, None] * norms, rtol=1e-5, atol=1e-9)


def test_the_network_is_left_as_it_was(model):
    model.train()
    model.conv_block2.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    read_covariances(model, chosen(model), [clips()])
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("batches", "match"),
    [
        ([], r"0 calibration clips: give at least two, some hundreds if you can"),
        ([clips(1)], r"1 calibration clips: give at least two"),
        ([clips().to(torch.int16)], r"calibration batch of type torch\.int16, shape \(7, 5600\): give floats in"),
        ([clips()[0]], r"shape \(5600,\): give floats in \[-1, 1\], \(batch, samples\)"),
        ([(clips(), torch.zeros(7, 4))], r"targets of shape \(7, 4\) for 7 clips: give each a row of 5 classes"),
        ([{"waveform": clips()}], r"calibration batch: a dict of 1; give waveforms, or \(waveforms, targets\)"),
        ([clips() * 0], r"all 7 calibration clips are silent \(zeros\): give sound of the kind to be tagged"),
        ([clips() * float("nan")], r"conv_block1\.conv1: not finite on the calibration clips; look for bad clips"),
    ],
)
def test_clips_that_cannot_be_used_are_refused(model, batches, match):
    with pytest.raises(PruningError, match=match):
        read_covariances(model, chosen(model), batches)


def test_segments_of_a_clip_are_positions_in_it():
    """YAMNet hears a clip in patches, which stand in the batch one after the other."""
    model = build_model(ZOO["YAMNet"].scaled(1 / 16), num_classes=3).eval()
    waveform = clips(5, 15_600 + 2 * 7_680)
    groups = chosen(model, ("layer1.conv", "layer6.pointwise_conv", "layer14.pointwise_conv"))
    for layer, found in read_covariances(model, groups, [waveform[:3], waveform[3:]]).items():
        torch.testing.assert_close(found, slow_covariance(model, groups[layer], waveform), rtol=1e-8, atol=1e-14)
        assert found.diagonal().max() > 0
