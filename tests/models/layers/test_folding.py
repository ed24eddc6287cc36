"""Folded batch norms: equal scores from fewer passes, and the network restored afterwards."""

import pytest
import torch
from torch import nn

from epanns.models.layers.folding import batch_norms_folded, fold_batch_norms
from epanns.models.zoo import build_model
from tests.families import noise, randomised


def network(name: str) -> nn.Module:
    """Return a narrow network whose batch norms do something, in evaluation mode."""
    torch.manual_seed(0)
    model = build_model(name, width=1 / 16)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2.0)
            nn.init.normal_(module.bias, 0.0, 0.5)
            nn.init.normal_(module.running_mean, 0.0, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model.eval()


def tone(pitch: float) -> torch.Tensor:
    """Return a second of a tone that comes and goes."""
    time = torch.arange(32_000) / 32_000
    return 0.5 * torch.sin(2 * torch.pi * pitch * time) * torch.sin(pitch / 50 * time)


def n_norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize(("name", "left"), [("Cnn14_16k", 1), ("Cnn10", 1), ("Cnn6", 1), ("ResNet22", 20)])
@torch.no_grad()
def test_folding_removes_batch_norms_and_keeps_the_scores(name, left):
    model = network(name)
    waveform = torch.stack([tone(pitch) for pitch in (200, 700, 3_000)])
    norms, expected = n_norms(model), model(waveform)
    with batch_norms_folded(model):
        found = model(waveform)
        assert n_norms(model) == left
    assert n_norms(model) == norms
    for key in ("clipwise_output", "embedding"):
        assert expected[key].std(dim=0).max() > 1e-3  # clips differ, or the comparison would say nothing
        torch.testing.assert_close(found[key], expected[key], rtol=1e-4, atol=1e-5)


def test_the_modules_are_restored_also_after_an_error():
    model = network("Cnn14_16k")
    modules, state = dict(model.named_modules()), {name: each.clone() for name, each in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="amid"), batch_norms_folded(model):
        assert dict(model.named_modules()) != modules
        raise RuntimeError("amid")
    assert dict(model.named_modules()) == modules
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(each, state[name]) for name, each in model.state_dict().items())


def test_a_training_or_hooked_norm_or_one_of_a_special_convolution_is_kept():
    model = network("Cnn14_16k")
    model.conv_block1.bn1.train()
    model.conv_block2.bn2.register_forward_hook(lambda *_: None)
    model.conv_block3.bn1.register_forward_pre_hook(lambda *_: None)
    model.conv_block4.conv2.register_forward_hook(lambda *_: None)
    nn.utils.parametrizations.weight_norm(model.conv_block5.conv1)
    with batch_norms_folded(model):
        left = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert left == [
        "bn0",
        "conv_block1.bn1",
        "conv_block2.bn2",
        "conv_block3.bn1",
        "conv_block4.bn2",
        "conv_block5.bn1",
    ]


FAMILIES = {
    **dict.fromkeys(("Cnn6", "ResNet22", "ResNet38", "ResNet54", "MobileNetV1", "MobileNetV2"), ["bn0"]),
    **dict.fromkeys(("DaiNet19", "LeeNet11", "Res1dNet31", "YAMNet", "LEAN", "mn01", "mn04"), []),
    "Cnn14_DecisionLevelAtt": ["bn0", "att_block.bn_att"],
    "Wavegram_Logmel_Cnn14": ["bn0"],
}


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_every_norm_behind_a_convolution_is_folded_in_every_family(name):
    torch.manual_seed(0)
    model = randomised(name)
    inputs = noise(model, clips=2, seed=0)
    expected = model.forward_inputs(inputs)
    fold_batch_norms(model)
    left = [path for path, module in model.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert set(left) - set(model.idle_layers) == set(FAMILIES[name]) - set(model.idle_layers)
    torch.testing.assert_close(model.forward_inputs(inputs)["clipwise_logits"], expected["clipwise_logits"])


@pytest.mark.parametrize("pool", [None, nn.AvgPool2d(2), nn.AvgPool2d(3, padding=1), nn.MaxPool2d(2)])
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_a_norm_is_folded_through_a_pooling_where_the_function_stays(pool, bias):
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 4, 3, bias=bias), nn.BatchNorm2d(4)
    for tensor in (norm.running_mean, norm.weight, norm.bias):
        nn.init.normal_(tensor)
    model = nn.Sequential(*[each for each in (conv, pool, norm) if each is not None]).eval()
    maps = torch.randn(2, 3, 8, 10)
    expected = model(maps)
    fold_batch_norms(model)
    assert (n_norms(model) == 0) == (pool is None or (isinstance(pool, nn.AvgPool2d) and not pool.padding))
    torch.testing.assert_close(model(maps), expected)
