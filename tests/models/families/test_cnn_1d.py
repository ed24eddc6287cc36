"""Networks on the waveform: PANNs' tensors, reference forward passes, and training mode."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from epanns.audio.frontend import LogMel
from epanns.errors import CheckpointError, ConfigError
from epanns.models.files.released import to_panns
from epanns.models.tagger import FRONT_END_NAMES, Tagger
from epanns.models.tensors import forms_of
from epanns.models.zoo import ZOO, build_model
from tests.families import SlowLayers, randomised
from tests.golden.make_panns_tensors import condensed

GOLDEN = Path(__file__).parents[2] / "golden" / "panns_tensors.txt"
DEPTHS = {"Res1dNet31": (2, 2, 2, 2, 2, 2, 2), "Res1dNet51": (2, 3, 4, 6, 4, 3, 2)}
ON_WAVEFORM = ("Wavegram_Cnn14", "DaiNet19", "LeeNet11", "LeeNet24", *DEPTHS)
WITH_LOGMEL = ("Wavegram_Logmel_Cnn14", "Wavegram_Logmel128_Cnn14")
NAMES = (*ON_WAVEFORM, *WITH_LOGMEL)


class Slow(SlowLayers):
    """PANNs' networks in evaluation mode, from a state dict."""

    def leenet(self, x: Tensor, depth: int) -> Tensor:
        for block in range(1, 10):
            for index in range(1, depth + 1):
                x = self.step(x, f"conv_block{block}", index, stride=3 if (block, index) == (1, 1) else 1)
            if block > 1 and (block < 9 or depth == 1):
                edge = torch.full_like(x[:, :, :1], -torch.inf)
                x = torch.cat([edge, x, edge], 2).unfold(2, 3, 3).amax(3)
        return self.tags(x)

    def dainet(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x, "conv0", stride=4, padding=0), "bn0")
        for number in range(1, 5):
            block, before = f"conv_block{number}", x
            for index in (1, 2, 3):
                x = self.step(x, block, index)
            if number > 1:
                before = self.norm(self.conv(before, f"{block}.downsample"), f"{block}.bn_downsample")
            x = (self.norm(self.conv(x, f"{block}.conv4"), f"{block}.bn4") + before).clamp(min=0)
            x = x.unfold(2, 4, 4).amax(3) if number < 4 else x
        return self.tags(x)

    def res1dnet(self, x: Tensor, depths: tuple[int, ...]) -> Tensor:
        x = self.norm(self.conv(x, "conv0", stride=5), "bn0")
        for layer, depth in enumerate(depths, start=1):
            for number in range(depth):
                block, before = f"resnet.layer{layer}.{number}", x
                if layer > 1 and number == 0:
                    before = self.conv(x.unfold(2, 4, 4).mean(3), f"{block}.downsample.1")
                    before, x = self.norm(before, f"{block}.downsample.2"), x.unfold(2, 4, 4).amax(3)
                x = self.conv(self.step(x, block, 1), f"{block}.conv2", dilation=2)
                x = (self.norm(x, f"{block}.bn2") + before).clamp(min=0)
        return self.tags(x)

    def wavegram(self, x: Tensor, logmel: Tensor | None) -> Tensor:
        x = self.norm(self.conv(x, "pre_conv0", stride=5), "pre_bn0").clamp(min=0)
        for block in ("pre_block1", "pre_block2", "pre_block3"):
            x = self.step(self.step(x, block, 1), block, 2, dilation=2).unfold(2, 4, 4).amax(3)
        rows = x.shape[1] // 4
        x = torch.stack([x[:, group * rows : (group + 1) * rows].transpose(1, 2) for group in range(4)], 1)
        x = self.step(self.step(x, "pre_block4", 1), "pre_block4", 2).unfold(2, 2, 2).mean(4)
        if logmel is not None:
            y = self.norm(logmel, "bn0", axis=3)
            y = F.avg_pool2d(self.step(self.step(y, "conv_block1", 1), "conv_block1", 2), 2)
            x = torch.cat([y, x], 1)
        for number in range(2, 7):
            block = f"conv_block{number}"
            x = self.step(self.step(x, block, 1), block, 2)
            x = F.avg_pool2d(x, 2) if number < 6 else x
        return self.tags(x)


def slow_logits(model: Tagger, waveform: Tensor) -> Tensor:
    slow, name = Slow(model.state_dict()), model.spec.name
    x = waveform[:, None]
    if name in DEPTHS:
        return slow.res1dnet(x, DEPTHS[name])
    if name.startswith("LeeNet"):
        return slow.leenet(x, 1 if name == "LeeNet11" else 2)
    if name == "DaiNet19":
        return slow.dainet(x)
    return slow.wavegram(x, LogMel(model.spec.front_end).eval()(waveform) if name in WITH_LOGMEL else None)


@pytest.mark.parametrize("name", NAMES)
def test_forward_equals_a_reference_implementation(name):
    model, waveform = randomised(name), torch.rand(2, 25_777) - 0.5  # 80 hops and a part of one
    with torch.no_grad():
        logits, expected = model(waveform)["clipwise_logits"], slow_logits(model, waveform)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_names_and_shapes_of_tensors_are_panns(name):
    golden = dict(line.split(": ", 1) for line in GOLDEN.read_text().splitlines())
    with torch.device("meta"):
        state = build_model(name).state_dict()
    assert condensed({tensor: form.shape for tensor, form in forms_of(state).items()}) == golden[name]


def test_clips_of_any_number_of_hops_are_joined_to_their_log_mel():
    """Where the number of hops is odd one map is a frame longer, which is left out: that of the log-mel alone."""
    model, slow = randomised("Wavegram_Logmel_Cnn14"), torch.rand(1, 320 * 81) - 0.5
    with torch.no_grad():
        logmel = model.front_end(slow)
        assert logmel.shape[2] == 82
        expected = Slow(model.state_dict()).wavegram(slow[:, None], logmel[:, :, :81])
        torch.testing.assert_close(model(slow)["clipwise_logits"], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_mixup_mixes_neighbours(name):
    model, waveform = randomised(name), torch.rand(4, 25_777) - 0.5
    with torch.no_grad():
        both = model(waveform)["clipwise_logits"]
        mixed = model(waveform, torch.tensor([1.0, 0.0]))["clipwise_logits"]
    torch.testing.assert_close(mixed, both[[0, 3]], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["DaiNet19", "LeeNet11", "Res1dNet31"])
def test_networks_on_the_waveform_mix_the_waveform(name):
    model, waveform = randomised(name), torch.rand(2, 25_777) - 0.5
    with torch.no_grad():
        mixed = model(waveform, torch.tensor([0.3]))["clipwise_logits"]
        expected = model(0.3 * waveform[:1] + 0.7 * waveform[1:])["clipwise_logits"]
    torch.testing.assert_close(mixed, expected, rtol=1e-5, atol=1e-5)


def test_the_wavegram_is_mixed_behind_its_last_layer():
    model, waveform, seen = randomised("Wavegram_Cnn14"), torch.rand(2, 25_777) - 0.5, []
    for layer in ("pre_block4.bn2", "conv_block2.conv1"):
        model.get_submodule(layer).register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    with torch.no_grad():
        model(waveform, torch.tensor([0.3]))
    assert seen == [2, 1]


@pytest.mark.parametrize(("name", "masked"), [("Wavegram_Cnn14", False), ("Wavegram_Logmel_Cnn14", True)])
def test_specaugment_masks_the_log_mel_alone(name, masked):
    model, calls = randomised(name), []
    model.spec_augmenter.register_forward_hook(lambda *call: calls.append(call))
    model.train()(torch.rand(2, 25_777) - 0.5)
    assert bool(calls) == masked


@pytest.mark.parametrize("name", NAMES)
def test_panns_files_hold_a_front_end_where_there_is_one(name):
    model = randomised(name)
    state = to_panns(model)["model"]
    assert (state.keys() - model.state_dict().keys()) == (set(FRONT_END_NAMES) if name in WITH_LOGMEL else set())
    other = build_model(model.spec)
    other.load_state_dict(state)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in other.state_dict().items())


def test_front_end_of_another_network_is_refused_by_the_one_that_has_one():
    model = randomised("Wavegram_Logmel_Cnn14")
    wrong = {**to_panns(model)["model"], FRONT_END_NAMES[2]: torch.zeros(513, 64)}
    with pytest.raises(CheckpointError, match="is not of the front end at 32000 Hz"):
        model.load_state_dict(wrong)


def test_wavegram_and_log_mel_must_have_the_same_frames():
    spec = ZOO["Wavegram_Logmel_Cnn14"]
    with pytest.raises(ConfigError, match="hop_size=160 must be 320, the hop of the wavegram"):
        build_model(type(spec)(**{**vars(spec), "front_end": ZOO["Cnn14_16k"].front_end}))


def test_residual_blocks_begin_as_the_identity():
    for name, norm in (("DaiNet19", "conv_block2.bn4"), ("Res1dNet31", "resnet.layer2.0.bn2")):
        assert not build_model(name, width=1 / 32).get_submodule(norm).weight.any()
