"""Averages of probabilities as logits: exact against the naive form, with gradients where probabilities saturate."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from epanns.models.families.cnn_2d import Cnn
from epanns.models.layers.pooling import averaged


def drawn(seed: int, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(2, 5, 3, generator=generator, dtype=torch.float64)
    return logits, torch.randn(2, 5, 3, generator=generator, dtype=torch.float64).log_softmax(dim=1)


@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 5), weighted=st.booleans())
def test_equals_the_naive_form_in_float64(seed, scale, weighted):
    segments, log_weights = drawn(seed, scale)
    logits, probability = averaged(segments, log_weights if weighted else None)
    weights = log_weights.exp() if weighted else torch.full_like(segments, 1 / 5)
    naive = (weights * segments.sigmoid()).sum(dim=1)
    torch.testing.assert_close(probability, naive, rtol=0, atol=1e-12)
    torch.testing.assert_close(logits, torch.logit(naive), rtol=1e-9, atol=1e-9)


@given(seed=st.integers(0, 1000))
def test_logits_of_the_complement_are_negated(seed):
    segments, log_weights = drawn(seed, 30.0)
    torch.testing.assert_close(averaged(-segments, log_weights)[0], -averaged(segments, log_weights)[0])


@pytest.mark.parametrize("value", [-20.0, 20.0, -90.0, 90.0])
def test_one_value_everywhere_is_returned_with_its_whole_gradient(value):
    segments = torch.full((1, 4, 2), value, requires_grad=True)
    logits, probability = averaged(segments)
    torch.testing.assert_close(logits, torch.full((1, 2), value), rtol=1e-5, atol=0)
    torch.testing.assert_close(probability, logits.sigmoid(), rtol=0, atol=1e-6)
    logits.sum().backward()
    torch.testing.assert_close(segments.grad, torch.full((1, 4, 2), 0.25), rtol=1e-4, atol=0)


@pytest.mark.parametrize("head", ["decision_max", "decision_avg", "decision_att"])
@pytest.mark.parametrize("bias", [-20.0, 20.0])
def test_a_saturated_head_has_a_gradient(tiny_spec, head, bias):
    model = Cnn(replace(tiny_spec, head=head)).eval()
    classifier = model.att_block.cla if head == "decision_att" else model.fc_audioset
    torch.nn.init.constant_(classifier.bias, bias)
    output = model(torch.rand(2, 16_000) - 0.5)
    torch.testing.assert_close(output["clipwise_logits"].sigmoid(), output["clipwise_output"], rtol=0, atol=1e-6)
    wrong = torch.full((2, 4), float(bias < 0))
    torch.nn.functional.binary_cross_entropy_with_logits(output["clipwise_logits"], wrong).backward()
    assert (classifier.bias.grad.abs() > 0.1).all()


@pytest.mark.parametrize("head", ["decision_max", "decision_avg", "decision_att"])
def test_scores_are_those_of_the_published_heads(tiny_spec, head):
    model = Cnn(replace(tiny_spec, head=head)).eval()
    seen = {}
    names = ("att", "cla") if head == "decision_att" else ("fc_audioset",)
    for name in names:
        module = getattr(model.att_block, name) if head == "decision_att" else model.fc_audioset
        module.register_forward_hook(lambda module, inputs, output, name=name: seen.update({name: output}))
    with torch.no_grad():
        scores = model(torch.rand(2, 16_000) - 0.5)["clipwise_output"]
    if head == "decision_att":
        expected = (seen["att"].clamp(-10, 10).softmax(-1) * seen["cla"].sigmoid()).sum(2)
    else:
        pooled = torch.amax if head == "decision_max" else torch.mean
        expected = pooled(seen["fc_audioset"].sigmoid(), 1)
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-6)
