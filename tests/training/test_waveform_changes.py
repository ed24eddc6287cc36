"""Random shifts and gains of training clips: what they keep, their range, and what they depend on."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from epanns.data.batches.dataset import PackDataset
from epanns.errors import ConfigError
from epanns.models.families.cnn_2d import Cnn
from epanns.training import learner as learner_module
from epanns.training.config import TrainingConfig
from epanns.training.learner import Learner
from epanns.training.waveform_changes import changed

SEEDS = st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=5)


@given(seeds=SEEDS, samples=st.integers(1, 40))
def test_a_shift_keeps_every_sample_in_circular_order(seeds, samples):
    waveform = torch.arange(len(seeds) * samples, dtype=torch.float32).reshape(len(seeds), samples)
    shifted = changed(waveform, seeds, shift=True, gain_decibels=0)
    for before, after in zip(waveform, shifted, strict=True):
        place = int((after == before[0]).nonzero())
        assert torch.equal(after.roll(-place), before)


def test_shifts_reach_every_sample_of_a_clip():
    shifted = changed(torch.eye(8)[:1].repeat(400, 1), range(400), shift=True, gain_decibels=0)
    assert set(shifted.argmax(dim=1).tolist()) == {*range(8)}


@given(seeds=SEEDS, decibels=st.floats(0.1, 60))
def test_a_gain_multiplies_a_clip_by_a_number_within_its_range(seeds, decibels):
    waveform = torch.linspace(-1, 1, 10).repeat(len(seeds), 1)
    gains = changed(waveform, seeds, shift=False, gain_decibels=decibels) / waveform
    assert torch.allclose(gains, gains[:, :1].expand_as(gains), rtol=1e-5)
    assert bool((20 * gains.log10().abs() <= decibels + 1e-3).all())


def test_gains_are_spread_evenly_over_the_decibels():
    gains = 20 * changed(torch.ones(500, 1), range(500), shift=False, gain_decibels=6).log10()
    assert float(gains.mean()) == pytest.approx(0, abs=0.5)
    assert float(gains.std()) == pytest.approx(12 / 12**0.5, rel=0.1)


def test_a_clip_is_changed_by_its_seed_alone():
    waveform = torch.rand(4, 30)
    whole = changed(waveform, [5, 6, 7, 8], shift=True, gain_decibels=9)
    parts = [changed(waveform[index : index + 1], [5 + index], shift=True, gain_decibels=9) for index in range(4)]
    assert torch.equal(whole, torch.cat(parts))
    shifted = changed(waveform, [5, 6, 7, 8], shift=True, gain_decibels=0)  # a gain does not move the shift
    assert torch.allclose(whole / whole.norm(dim=1)[:, None], shifted / shifted.norm(dim=1)[:, None], atol=1e-6)
    assert changed(waveform, [1, 2, 3, 4], shift=False, gain_decibels=0) is waveform


def test_a_step_trains_on_changed_clips_the_same_in_parts(tiny_spec, tiny_packs, monkeypatch):
    """With fixed batch norms and no dropout, parts and the whole batch have one gradient."""
    monkeypatch.setattr(learner_module, "set_learning_mode", lambda model, spec_augment: model.eval())
    train, gradients = PackDataset([tiny_packs["train"]]), []
    for settings in ({}, {"shift": True, "gain_decibels": 6.0}, {"shift": True, "gain_decibels": 6.0, "accumulate": 2}):
        torch.manual_seed(1)
        config = replace(TrainingConfig(iterations=8, batch_size=4), **settings)
        learner = Learner(Cnn(tiny_spec, train.labels), config)
        learner.step(train.__getitems__(range(config.drawn_clips)), 3)
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in learner.model.parameters()]))
    unchanged, whole, parts = gradients
    assert torch.allclose(whole, parts, rtol=1e-3, atol=1e-7)
    assert not torch.allclose(whole, unchanged, rtol=1e-2)


def test_gains_out_of_range_are_refused():
    with pytest.raises(ConfigError, match=r"gain_decibels=-1.0: must be a number in \[0, 60\]; 0 for no gain"):
        TrainingConfig(gain_decibels=-1.0)
