"""Importance of channels: a criterion's score, or the mean of several layers' scores where they make one channel."""

import pytest
import torch

from epanns.errors import PruningError
from epanns.pruning.prune import prune
from epanns.pruning.ranking import importance
from epanns.pruning.ranking.criteria import CRITERIA, NEEDS, LayerFilters, criterion_named
from epanns.pruning.ranking.importance import channel_importance, joined
from epanns.pruning.surgery import ChannelGroup, Reader, channel_groups, forward_order

LAYER = "conv_block6.conv1"
WAVEFORM = torch.rand(6, 80 * 70, generator=torch.Generator().manual_seed(2)) - 0.5
TARGET = (torch.rand(6, 5, generator=torch.Generator().manual_seed(4)) < 0.3).float()


def calibration():
    return [(WAVEFORM, TARGET)]


def l1_of(model, layer):
    return model.get_submodule(layer).weight.detach().double().flatten(1).abs().sum(1)


def test_a_channel_of_one_layer_has_the_score_of_its_filter(model):
    found = channel_importance(model, model.layer_names, criterion="l1")
    assert tuple(found) == model.layer_names
    for layer in model.layer_names:
        torch.testing.assert_close(found[layer], l1_of(model, layer), rtol=1e-14, atol=0)


@pytest.fixture
def stream(model, monkeypatch):
    """Let two layers make one channel, as in a residual stream; a depthwise one filters it."""
    readers = (Reader("conv_block6.conv2", 0), Reader("fc1", 0))
    group = ChannelGroup(LAYER, 14, (LAYER, "conv_block6.conv2"), (), ("conv_block5.conv1",), readers)
    monkeypatch.setattr(importance, "groups_and_order", lambda network: ({LAYER: group}, forward_order(network)))
    return model


@pytest.mark.parametrize("criterion", sorted(set(CRITERIA)))
def test_every_criterion_ranks_a_stream(stream, criterion):
    scores = channel_importance(stream, [LAYER], criterion=criterion, calibration=calibration())[LAYER]
    assert scores.shape == (14,)
    assert bool(scores.isfinite().all())


def test_the_makers_of_a_stream_count_equally_whatever_their_size(stream):
    with torch.no_grad():
        stream.conv_block6.conv2.weight *= 1000
    found = channel_importance(stream, [LAYER], criterion="l1")[LAYER]
    parts = [l1_of(stream, layer) for layer in (LAYER, "conv_block6.conv2")]
    torch.testing.assert_close(found, sum(part / part.mean() for part in parts) / 2)


def test_scores_below_zero_keep_their_order_when_joined():
    scores = torch.tensor([-3.0, -1.0, -2.0], dtype=torch.float64)
    assert joined([scores, scores]).argsort().tolist() == scores.argsort().tolist()
    assert joined([torch.zeros(3, dtype=torch.float64)] * 2).tolist() == [0, 0, 0]


@pytest.mark.parametrize(("criterion", "needs"), [(name, needs) for name, needs in NEEDS.items() if needs != "weights"])
def test_a_criterion_that_measures_clips_needs_them(model, criterion, needs):
    with pytest.raises(
        PruningError,
        match=rf"criterion '{criterion}' measures {needs} on sound: give calibration clips \((un)?labelled; --calib",
    ):
        prune(model, criterion=criterion, ratio=0.5)


def test_clips_are_not_gone_through_by_a_criterion_that_needs_none(model):
    clips = iter([(WAVEFORM, TARGET)])
    channel_importance(model, [LAYER], criterion="l1", calibration=clips)
    assert len(list(clips)) == 1


@pytest.mark.parametrize("criterion", ["taylor", "activation", "interpolative"])
def test_a_channel_that_does_nothing_goes_first(model, criterion):
    with torch.no_grad():
        model.conv_block4.bn1.bias.fill_(5)
        model.conv_block4.bn1.weight[3] = 0
        model.conv_block4.bn1.bias[3] = -1  # after ReLU: never anything
    _, plan = prune(model, criterion=criterion, ratios={"conv_block4.conv1": 0.1}, calibration=calibration())
    assert set(range(10)) - set(plan.kept_channels["conv_block4.conv1"]) == {3}
    assert (plan.criterion, plan.widths["conv_block4.conv1"]) == (criterion, 9)


@pytest.mark.parametrize("shape", [(6, 1, 3), (6, 4, 1), (6, 4, 3), (6, 4, 1, 1)], ids=str)
@pytest.mark.parametrize("name", [name for name, needs in NEEDS.items() if needs == "weights"])
def test_criteria_of_weights_take_one_dimensional_kernels_and_single_taps(name, shape):
    """A kernel of one dimension scores as the same one with a second one of size 1."""
    weight = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    scale = torch.rand(6, dtype=torch.float64)
    scores = criterion_named(name)(LayerFilters("layer", weight, 0, scale))
    assert bool(scores.isfinite().all())
    assert len(set(scores.tolist())) == 6  # one score for all would rank by index
    as_images = criterion_named(name)(LayerFilters("layer", weight.unsqueeze(-1), 0, scale))
    torch.testing.assert_close(as_images, scores)


def test_groups_are_found_without_touching_the_network(model):
    model.conv_block1.requires_grad_(False)
    with torch.inference_mode():
        assert tuple(channel_groups(model)) == model.layer_names
    assert not model.conv_block1.conv1.weight.requires_grad
