"""Folded batch norms: the same scores from fewer passes, and the network as it was afterwards."""

import pytest
import torch
from torch import nn

from epanns.models.folding import batch_norms_folded
from epanns.models.zoo import build_model


def heard(name: str) -> nn.Module:
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
def test_scores_stay_and_norms_behind_convolutions_go(name, left):
    model = heard(name)
    waveform = torch.stack([tone(pitch) for pitch in (200, 700, 3_000)])
    norms, expected = n_norms(model), model(waveform)
    with batch_norms_folded(model):
        found = model(waveform)
        assert n_norms(model) == left
    assert n_norms(model) == norms
    for key in ("clipwise_output", "embedding"):
        assert expected[key].std(dim=0).max() > 1e-3  # clips differ, or the comparison would say nothing
        torch.testing.assert_close(found[key], expected[key], rtol=1e-4, atol=1e-5)


def test_the_network_is_its_own_again_even_after_an_error():
    model = heard("Cnn14_16k")
    modules, state = dict(model.named_modules()), {name: each.clone() for name, each in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="amid"), batch_norms_folded(model):
        assert dict(model.named_modules()) != modules
        raise RuntimeError("amid")
    assert dict(model.named_modules()) == modules
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(each, state[name]) for name, each in model.state_dict().items())


def test_a_norm_is_left_that_learns_or_is_listened_to_or_whose_convolution_is_special():
    model = heard("Cnn14_16k")
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
