"""Gradients by gates: against finite differences, against autograd on the batch norm, and without a trace."""

import pytest
import torch
import torch.nn.functional as F

from epanns.errors import PruningError
from epanns.models.zoo import ZOO, build_model
from epanns.pruning.ranking.importance import gate_gradients
from epanns.pruning.surgery import forward_order

LAYERS = ("conv_block2.conv1", "conv_block6.conv2")
WAVEFORM = torch.rand(6, 80 * 70, generator=torch.Generator().manual_seed(2)) - 0.5
TARGET = (torch.rand(6, 5, generator=torch.Generator().manual_seed(4)) < 0.3).float()


def in_double(model):
    """Let everything behind the front end, which gives float32 whatever it is, compute in float64."""
    model.double().front_end.float()
    in_single = model.inputs_of
    model.inputs_of = lambda waveform: tuple(part.double() for part in in_single(waveform.float()))
    return model


def measured(model, batches=((WAVEFORM, TARGET),), layers=LAYERS):
    return gate_gradients(model, layers, forward_order(model).norms, batches)


def loss(model, waveform, target):
    if model.spec.task == "single-label":
        logits = model(waveform)["clipwise_logits"]
        return -(target * (logits - logits.logsumexp(1, keepdim=True))).sum(1).mean()
    return F.binary_cross_entropy_with_logits(model(waveform)["clipwise_logits"], target)


@pytest.mark.parametrize("changes", [{}, {"head": "decision_att"}, {"activation": "softmax"}], ids=str)
def test_a_gate_is_factor_and_offset_of_the_batch_norm_clip_by_clip(build, changes):
    model = in_double(build(**changes))
    found = measured(model, [(WAVEFORM.double(), TARGET)])
    for layer in LAYERS:
        norm = model.get_submodule(layer.replace(".conv", ".bn"))
        expected = torch.zeros(norm.num_features, dtype=torch.float64)
        for clip in range(6):
            lost = loss(model, WAVEFORM[clip : clip + 1].double(), TARGET[clip : clip + 1].double())
            scale, offset = torch.autograd.grad(lost, [norm.weight, norm.bias])
            expected += (scale * norm.weight + offset * norm.bias).detach().square() / 6
        torch.testing.assert_close(found[layer], expected, rtol=1e-8, atol=1e-20)


def test_a_gate_says_how_the_loss_changes_when_a_channel_is_shut_a_little(build):
    model = in_double(build())
    found = measured(model, [(WAVEFORM[:1].double().repeat(2, 1), TARGET[:1].repeat(2, 1))])["conv_block6.conv2"]
    norm, slopes = model.conv_block6.bn2, []
    with torch.no_grad():
        for channel in range(norm.num_features):
            values = []
            for step in (1e-5, -1e-5):
                before = norm.weight[channel].clone(), norm.bias[channel].clone()
                norm.weight[channel] *= 1 + step
                norm.bias[channel] *= 1 + step
                values.append(float(loss(model, WAVEFORM[:1].double(), TARGET[:1].double())))
                norm.weight[channel], norm.bias[channel] = before
            slopes.append((values[0] - values[1]) / 2e-5)
    torch.testing.assert_close(found, torch.tensor(slopes, dtype=torch.float64).square(), rtol=1e-4, atol=1e-14)


def test_a_layer_without_a_batch_norm_is_gated_at_its_own_output(model):
    found = gate_gradients(in_double(model), ["fc1"], {}, [(WAVEFORM.double(), TARGET)])["fc1"]
    expected = torch.zeros(9, dtype=torch.float64)
    for clip in range(6):
        lost = loss(model, WAVEFORM[clip : clip + 1].double(), TARGET[clip : clip + 1].double())
        weight, bias = torch.autograd.grad(lost, [model.fc1.weight, model.fc1.bias])
        expected += ((weight * model.fc1.weight).sum(1) + bias * model.fc1.bias).detach().square() / 6
    torch.testing.assert_close(found, expected)


def test_the_batch_size_decides_nothing_not_even_the_last_digit(model):
    pieces = [(WAVEFORM[:1], TARGET[:1]), (WAVEFORM[1:5], TARGET[1:5]), (WAVEFORM[5:], TARGET[5:])]
    whole, apart = measured(model), measured(model, pieces)
    assert all(torch.equal(whole[layer], apart[layer]) for layer in LAYERS)


def test_the_network_is_left_as_it_was(model):
    model.train()
    model.conv_block3.requires_grad_(False).eval()
    loss(model, WAVEFORM, TARGET).backward()
    before = {name: weight.requires_grad for name, weight in model.named_parameters()}
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    with torch.inference_mode():
        measured(model)
    for name, weight in model.named_parameters():
        assert (weight.requires_grad, weight.grad is None) == (before[name], name not in gradients)
        assert weight.grad is None or torch.equal(weight.grad, gradients[name])
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_clips_without_labels_are_refused(model):
    with pytest.raises(PruningError, match=r"criterion 'taylor' needs labels: give batches of"):
        measured(model, [WAVEFORM])


def test_gradients_that_are_not_finite_are_refused(model):
    with pytest.raises(PruningError, match=r"conv_block2\.conv1: gradients are not finite on the calibration clips"):
        measured(model, [(WAVEFORM * float("nan"), TARGET)])


def test_a_clip_has_one_gate_for_all_its_segments():
    """YAMNet hears a clip in patches; the factor of 1 that its batch norms do not learn has a gradient all the same."""
    model = in_double(build_model(ZOO["YAMNet"].scaled(1 / 32), num_classes=5).eval())
    waveform = torch.rand(2, 15_600 + 7_680, generator=torch.Generator().manual_seed(3)) - 0.5
    layers = ("layer3.pointwise_conv", "layer14.pointwise_conv")
    found = measured(model, [(waveform.double(), TARGET[:2])], layers)
    for layer in layers:
        norm = model.get_submodule(layer.replace("_conv", "_bn"))
        norm.weight.requires_grad_()
        expected = torch.zeros(norm.num_features, dtype=torch.float64)
        for clip in range(2):
            lost = loss(model, waveform[clip : clip + 1].double(), TARGET[clip : clip + 1].double())
            scale, offset = torch.autograd.grad(lost, [norm.weight, norm.bias])
            expected += (scale + offset * norm.bias).detach().square() / 2
        assert expected.max() > 0
        torch.testing.assert_close(found[layer], expected, rtol=1e-8, atol=1e-20)
