"""Loss, mixup, optimizer and schedule against their definitions."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from epanns.audio.specaugment import SpecAugmenter
from epanns.errors import ConfigError
from epanns.models.families.cnn_2d import Cnn
from epanns.models.layers.mixup import draw_lambda, mix_target
from epanns.training.config import TrainingConfig
from epanns.training.learner import set_learning_mode
from epanns.training.losses import clip_bce, clip_cross_entropy
from epanns.training.optimizer import build_optimizer, learning_rate_at


def test_bce_equals_its_definition():
    logits, target = torch.tensor([[0.3, -2.0], [1.5, 0.0]]), torch.tensor([[1.0, 0.0], [0.25, 0.5]])
    expected = np.mean(
        [
            -(t * math.log(1 / (1 + math.exp(-x))) + (1 - t) * math.log(1 - 1 / (1 + math.exp(-x))))
            for x, t in zip(logits.flatten().tolist(), target.flatten().tolist(), strict=True)
        ]
    )
    assert clip_bce(logits, target).item() == pytest.approx(expected, rel=1e-6)


def test_cross_entropy_equals_its_definition_also_for_mixed_clips():
    logits, target = torch.tensor([[0.3, -2.0, 1.0], [1.5, 0.0, 0.5]]), torch.tensor([[0.0, 0.0, 1.0], [0.25, 0.75, 0]])
    scores = [[math.exp(x) / sum(math.exp(other) for other in row) for x in row] for row in logits.tolist()]
    mean = -(math.log(scores[0][2]) + 0.25 * math.log(scores[1][0]) + 0.75 * math.log(scores[1][1])) / 2
    assert clip_cross_entropy(logits, target).item() == pytest.approx(mean, rel=1e-6)


def test_targets_are_mixed_with_the_weights_of_the_spectrograms():
    target = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    assert torch.allclose(mix_target(target, torch.tensor([0.3, 0.6])), torch.tensor([[0.3, 0.7], [0.6, 0.6]]))


def test_lambda_is_a_function_of_seed_and_step():
    draw = {"alpha": 1.0, "seed": 3, "step": 5}
    assert torch.equal(draw_lambda(8, **draw), draw_lambda(8, **draw))
    assert not torch.equal(draw_lambda(8, **draw), draw_lambda(8, **{**draw, "step": 6}))
    many = draw_lambda(20_000, **draw)
    assert many.mean() == pytest.approx(0.5, abs=0.01)  # Beta(1, 1) is uniform
    assert many.var() == pytest.approx(1 / 12, abs=0.005)


@given(step=st.integers(0, 99), warmup=st.integers(0, 50))
def test_rate_stays_in_range_and_ends_low(step, warmup):
    config = TrainingConfig(iterations=100, schedule="cosine", warmup_iterations=warmup, learning_rate=2e-3)
    assert 0 < learning_rate_at(step, config) <= 2e-3
    assert learning_rate_at(99, config) < 2e-5


def test_rate_is_linear_then_constant_or_a_half_cosine():
    constant = TrainingConfig(iterations=10, warmup_iterations=4, learning_rate=1.0)
    assert [learning_rate_at(step, constant) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    cosine = TrainingConfig(iterations=8, warmup_iterations=0, learning_rate=1.0, schedule="cosine")
    assert learning_rate_at(0, cosine) == 1
    assert learning_rate_at(4, cosine) == pytest.approx(0.5)


def test_the_optimizer_is_that_of_panns_over_the_trainable_parameters(tiny_spec):
    model = Cnn(tiny_spec)
    model.freeze_backbone()
    optimizer = build_optimizer(model, TrainingConfig())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 2
    assert optimizer.defaults["amsgrad"]
    model.requires_grad_(False)
    with pytest.raises(ConfigError, match="no parameter of the model may learn"):
        build_optimizer(model, TrainingConfig())


def test_frozen_batch_norms_do_not_drift(tiny_spec):
    model = Cnn(tiny_spec)
    model.freeze_backbone()
    set_learning_mode(model, spec_augment=True)
    before = model.bn0.running_mean.clone()
    model(torch.rand(2, 4_000) - 0.5)
    assert torch.equal(model.bn0.running_mean, before)
    model.requires_grad_(True)
    set_learning_mode(model, spec_augment=True)
    model(torch.rand(2, 4_000) - 0.5)
    assert not torch.equal(model.bn0.running_mean, before)


def test_spec_augment_masks_stripes_per_clip_in_training_only():
    augment, logmel = SpecAugmenter(), torch.ones(50, 1, 500, 64)
    masked = augment.train()(logmel)[:, 0] == 0
    lost_frames, lost_bins = masked.all(2).sum(1), masked.all(1).sum(1)
    assert lost_frames.max() <= 126
    assert lost_bins.max() <= 14
    assert lost_frames.float().mean() == pytest.approx(61, abs=12)  # two stripes of 31.5 frames, some overlap
    assert len(set(lost_frames.tolist())) > 10
    assert augment.eval()(logmel) is logmel


def test_spec_augment_masks_no_short_clip_completely():
    logmel = torch.ones(200, 1, 32, 64)
    masked = SpecAugmenter(time_width=64, mel_width=64, stripes=1).train()(logmel)
    assert (masked.flatten(1).sum(1) > 0).all()
