"""Convolution of narrow maps as a product of matrices equals torch's convolution."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from epanns.models.layers import convolution as module
from epanns.models.layers.convolution import Convolution, convolution, is_narrow
from epanns.models.zoo import build_model
from epanns.pruning.prune import prune

LAST = torch.channels_last


@pytest.fixture
def calls(monkeypatch):
    """Shapes of the maps that go the other way."""
    seen, forward = [], module._NarrowConvolution.forward

    def noting(context, maps, weight):
        seen.append(tuple(maps.shape))
        return forward(context, maps, weight)

    monkeypatch.setattr(module._NarrowConvolution, "forward", staticmethod(noting))
    return seen


@given(
    batch=st.integers(1, 3),
    channels=st.integers(1, 5),
    out=st.integers(1, 5),
    time=st.integers(1, 6),
    mel=st.integers(1, 4),
    size=st.sampled_from([1, 3, 5]),
    seed=st.integers(0, 99),
)
def test_the_narrow_convolution_equals_torchs_with_its_gradients(batch, channels, out, time, mel, size, seed):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    maps, weight, gradient = (
        draw(batch, channels, time, mel),
        draw(out, channels, size, size),
        draw(batch, out, time, mel),
    )
    results = []
    for function in (lambda *given: F.conv2d(*given, padding=size // 2), module._NarrowConvolution.apply):
        learning = [tensor.clone().requires_grad_() for tensor in (maps, weight)]
        made = function(*learning)
        made.backward(gradient)
        results.append([made.detach(), *(each.grad for each in learning)])
    for ours, torchs in zip(*results, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, LAST])
def test_the_layer_uses_matrix_products_for_narrow_maps_alone(calls, memory_format):
    torch.manual_seed(0)
    layer = convolution(16, 128, 3).to(memory_format=memory_format)
    for mel in (1, 2, 3, 8):
        maps = torch.randn(2, 16, 7, mel).to(memory_format=memory_format)
        expected = F.conv2d(maps, layer.weight, padding=1)
        torch.testing.assert_close(layer(maps), expected, rtol=1e-5, atol=1e-5)
    assert [shape[-1] for shape in calls] == [1, 2]
    assert layer(maps.to(memory_format=LAST)).is_contiguous(memory_format=LAST)


def test_a_bias_is_added(calls):
    layer = Convolution(16, 128, 3, padding=1)
    maps = torch.randn(2, 16, 7, 2, requires_grad=True)
    made = layer(maps)
    torch.testing.assert_close(made, F.conv2d(maps, layer.weight, layer.bias, padding=1), rtol=1e-5, atol=1e-5)
    made.sum().backward()
    torch.testing.assert_close(layer.bias.grad, torch.full((128,), 2.0 * 7 * 2))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(maps).dtype == torch.bfloat16
    assert len(calls) == 2


def test_the_choice_depends_on_the_sizes():
    narrow, wide = torch.empty(8, 1024, 31, 4), torch.empty(8, 1024, 62, 8)
    assert is_narrow(narrow, torch.empty(1024, 1024, 3, 3))
    assert not is_narrow(narrow, torch.empty(256, 1024, 3, 3))  # the weights stay in a cache
    assert not is_narrow(wide, torch.empty(1024, 1024, 3, 3))
    assert is_narrow(narrow[..., :2], torch.empty(128, 1024, 3, 3))
    assert not is_narrow(narrow[..., :2], torch.empty(64, 1024, 3, 3))  # the patches cost more than they save
    assert not is_narrow(narrow[..., :2].repeat(40, 1, 1, 1), torch.empty(128, 1024, 3, 3))  # they need too much memory
    assert not is_narrow(narrow.to("meta"), torch.empty(1024, 1024, 3, 3))


@pytest.mark.parametrize(
    "settings",
    [
        {"stride": (1, 2)},
        {"groups": 2},
        {"padding": (0, 1)},
        {"dilation": (2, 1), "padding": (2, 1)},
        {"kernel_size": (3, 1), "padding": (1, 0)},
        {"padding_mode": "circular"},
    ],
    ids=str,
)
def test_other_convolutions_are_computed_by_torch(calls, settings):
    layer = Convolution(16, 128, **{"kernel_size": 3, "padding": 1, "bias": False} | settings)
    layer(torch.randn(1, 16, 9, 2))
    assert calls == []


def test_autocast_computes_in_bfloat16_with_gradients_in_float32(calls):
    layer = convolution(16, 128, 3)
    maps = torch.randn(2, 16, 7, 2, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        made, expected = layer(maps), F.conv2d(maps, layer.weight, padding=1)
    assert made.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(made, expected, rtol=0.02, atol=0.02)
    made.float().sum().backward()
    assert layer.weight.grad.dtype == maps.grad.dtype == torch.float32
    assert len(calls) == 1


def test_only_trainable_tensors_get_a_gradient():
    layer = convolution(16, 128, 3).requires_grad_(False)
    maps = torch.randn(2, 16, 7, 2, requires_grad=True)
    layer(maps).sum().backward()
    assert (maps.grad is not None, layer.weight.grad) == (True, None)


def test_a_network_with_narrow_convolutions_scores_and_prunes_as_before(calls, monkeypatch):
    torch.manual_seed(0)
    model = build_model("Cnn14_8k", width=0.25).eval()
    waveform = torch.randn(2, 16_000) / 10
    with torch.no_grad():
        scores = model(waveform)["clipwise_logits"]
        assert {shape[-1] for shape in calls} == {2}
        with monkeypatch.context() as patch:
            patch.setattr(module, "is_narrow", lambda *given: False)
            torch.testing.assert_close(scores, model(waveform)["clipwise_logits"], rtol=1e-5, atol=1e-5)
    pruned, _ = prune(model, ratio=0.5, layers=["conv_block6"])
    assert all(isinstance(layer, Convolution) for layer in pruned.modules() if isinstance(layer, nn.Conv2d))
    assert pruned.spec.widths["conv_block6.conv1"] == 256
