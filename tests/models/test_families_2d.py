"""ResNets and MobileNets: PANNs' tensors, and reference forward passes."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from epanns.models.files.released import TORCH_FILES
from epanns.models.tagger import Tagger
from epanns.models.tensors import forms_of
from epanns.models.zoo import build_model
from tests.families import SlowLayers, randomised, uneven
from tests.golden.make_panns_tensors import condensed

GOLDEN = Path(__file__).parents[1] / "golden" / "panns_tensors.txt"
RESIDUAL = ("ResNet22", "ResNet38", "ResNet54")
MOBILE = ("MobileNetV1", "MobileNetV2")


class Slow(SlowLayers):
    """PANNs' networks in evaluation mode, from a state dict and a log-mel."""

    def conv(self, x: Tensor, name: str) -> Tensor:
        weight = self.state[f"{name}.weight"]
        if weight.shape[1] == 1 and x.shape[1] == weight.shape[0]:  # one filter per channel
            padding = weight.shape[-1] // 2
            filtered = [F.conv2d(x[:, [channel]], weight[[channel]], padding=padding) for channel in range(x.shape[1])]
            return torch.cat(filtered, dim=1)
        return super().conv(x, name)

    def two_convs(self, x: Tensor, name: str) -> Tensor:
        return self.step(self.step(x, name, 1), name, 2)

    def residual(self, x: Tensor, name: str, *, halves: bool) -> Tensor:
        shortcut = x = F.avg_pool2d(x, 2) if halves else x
        if any(key.startswith(f"{name}.downsample") for key in self.state):
            first = 1 if halves else 0
            shortcut = self.norm(self.conv(x, f"{name}.downsample.{first}"), f"{name}.downsample.{first + 1}")
        last = 3 if f"{name}.conv3.weight" in self.state else 2
        for index in range(1, last + 1):
            x = self.norm(self.conv(x, f"{name}.conv{index}"), f"{name}.bn{index}")
            x = x.clamp(min=0) if index < last else x
        return (x + shortcut).clamp(min=0)

    def resnet(self, logmel: Tensor, depths: tuple[int, ...]) -> Tensor:
        x = F.avg_pool2d(self.two_convs(self.norm(logmel, "bn0", axis=3), "conv_block1"), 2)
        for layer, depth in enumerate(depths, start=1):
            for block in range(depth):
                x = self.residual(x, f"resnet.layer{layer}.{block}", halves=layer > 1 and block == 0)
        return self.tags(self.two_convs(F.avg_pool2d(x, 2), "conv_block_after1"))

    def mobilenet_v1(self, logmel: Tensor) -> Tensor:
        x = self.norm(logmel, "bn0", axis=3)
        x = self.norm(F.avg_pool2d(self.conv(x, "features.0.0"), 2), "features.0.2").clamp(min=0)
        for block in range(1, 14):
            name = f"features.{block}"
            x = self.conv(x, f"{name}.0")
            x = F.avg_pool2d(x, 2) if block in (2, 4, 6, 12) else x
            x = self.norm(x, f"{name}.2").clamp(min=0)
            x = self.norm(self.conv(x, f"{name}.4"), f"{name}.5").clamp(min=0)
        return self.tags(x)

    def mobilenet_v2(self, logmel: Tensor) -> Tensor:
        x = self.norm(logmel, "bn0", axis=3)
        x = self.norm(F.avg_pool2d(self.conv(x, "features.0.0"), 2), "features.0.2").clamp(0, 6)
        for block in range(1, 18):
            before, name, place = x, f"features.{block}.conv", 0
            if block > 1:
                x, place = self.norm(self.conv(x, f"{name}.0"), f"{name}.1").clamp(0, 6), 3
            x = self.conv(x, f"{name}.{place}")
            x = F.avg_pool2d(x, 2) if block in (2, 4, 7, 11) else x
            x = self.norm(x, f"{name}.{place + 2}").clamp(0, 6)
            x = self.norm(self.conv(x, f"{name}.{place + 4}"), f"{name}.{place + 5}")
            x = x if block in (1, 2, 4, 7, 11, 14, 17) else x + before
        return self.tags(self.norm(self.conv(x, "features.18.0"), "features.18.1").clamp(0, 6))


def slow_logits(model: Tagger, logmel: Tensor) -> Tensor:
    slow = Slow(model.state_dict())
    if model.spec.name in RESIDUAL:
        return slow.resnet(logmel, (2, 2, 2, 2) if model.spec.name == "ResNet22" else (3, 4, 6, 3))
    return slow.mobilenet_v1(logmel) if model.spec.name == "MobileNetV1" else slow.mobilenet_v2(logmel)


@pytest.mark.parametrize("name", [*RESIDUAL, *MOBILE])
def test_forward_equals_a_reference_implementation(name):
    model = randomised(name)
    logmel = torch.randn(2, 1, 101, 64)  # halves five times to 3: every pooling but one drops a frame
    with torch.no_grad():
        logits = model.forward_inputs((logmel,))["clipwise_logits"]
        expected = slow_logits(model, logmel)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [*RESIDUAL, *MOBILE])
def test_names_and_shapes_of_tensors_are_panns(name):
    golden = dict(line.split(": ", 1) for line in GOLDEN.read_text().splitlines())
    with torch.device("meta"):
        state = build_model(name).state_dict()
    assert condensed({tensor: form.shape for tensor, form in forms_of(state).items()}) == golden[name]


def test_every_family_but_cnn_is_compared_with_panns():
    golden = {line.split(": ", 1)[0] for line in GOLDEN.read_text().splitlines()}
    assert golden == {spec.name for spec in TORCH_FILES if spec.family != "cnn" and spec.front_end.kind == "panns"}


@pytest.mark.parametrize("name", RESIDUAL)
def test_new_residual_blocks_are_the_identity(name):
    """As in PANNs, the last batch norm of each block begins at 0, and no other one does."""
    model = build_model(name, width=1 / 32)
    last = 3 if name == "ResNet54" else 2
    norms = {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    idle = {name for name, norm in norms.items() if not norm.weight.any()}
    assert idle == {name for name in norms if name.startswith("resnet.") and name.endswith(f".bn{last}")}


@pytest.mark.parametrize("name", [*RESIDUAL, *MOBILE])
def test_stages_are_convolutions_and_blocks(name):
    """Two convolutions before and after the residual blocks; depthwise ones by themselves; whole inverted residuals."""
    n_stages = {"ResNet22": 12, "ResNet38": 20, "ResNet54": 20, "MobileNetV1": 27, "MobileNetV2": 19}
    assert len(uneven(name).stages()) == n_stages[name]


def test_only_mobilenet_v2_has_no_dropout_before_fc1(monkeypatch):
    rates = []
    monkeypatch.setattr(F, "dropout", lambda features, rate, training: rates.append(rate) or features)
    for name, expected in {
        "ResNet22": [0.2, *[0.1] * 8, 0.2, 0.2, 0.5, 0.5],
        "MobileNetV1": [0.5, 0.5],
        "MobileNetV2": [0.5],
    }.items():
        uneven(name).train().forward_inputs((torch.randn(2, 1, 64, 64),))
        assert rates == expected, name
        rates.clear()
