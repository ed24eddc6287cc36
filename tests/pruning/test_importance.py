"""Importance of channels: scores of a group, covariances and gate gradients measured on clips."""

import copy

import pytest
import torch
import torch.nn.functional as F

from epanns.errors import PruningError
from epanns.feedback import Note
from epanns.models.layers.folding import fold_batch_norms
from epanns.models.tagger import Tagger
from epanns.models.zoo import ZOO, build_model
from epanns.pruning.prune import prune
from epanns.pruning.ranking import importance
from epanns.pruning.ranking.channel_orders import scaled_covariance
from epanns.pruning.ranking.criteria import CRITERIA, NEEDS, LayerFilters, criterion_named
from epanns.pruning.ranking.importance import channel_importance, gate_gradients, joined, read_moments
from epanns.pruning.surgery import ChannelGroup, Reader, channel_groups, forward_order
from tests.builders import random_waveforms, same_tensors, tensors_of
from tests.families import narrow

LAYER = "conv_block6.conv1"
[WAVEFORM] = random_waveforms(6)
TARGET = (torch.rand(6, 5, generator=torch.Generator().manual_seed(4)) < 0.3).float()
MEASURED = ("conv_block1.conv1", "conv_block3.conv2", "conv_block6.conv2")
GATED = ("conv_block2.conv1", "conv_block6.conv2")


def calibration():
    return [(WAVEFORM, TARGET)]


def l1_of(model, layer):
    return model.get_submodule(layer).weight.detach().double().flatten(1).abs().sum(1)


def test_the_importance_of_a_channel_with_one_producer_is_the_score_of_its_filter(model):
    found = channel_importance(model, model.layer_names, criterion="l1")
    assert tuple(found) == model.layer_names
    for layer in model.layer_names:
        torch.testing.assert_close(found[layer], l1_of(model, layer), rtol=1e-14, atol=0)


@pytest.fixture
def stream(model, monkeypatch):
    """Return a network whose only group has two producers, as a residual stream has, and a depthwise layer."""
    readers = (Reader("conv_block6.conv2", 0), Reader("fc1", 0))
    group = ChannelGroup(LAYER, 14, (LAYER, "conv_block6.conv2"), (), ("conv_block5.conv1",), readers)
    monkeypatch.setattr(importance, "groups_and_order", lambda network: ({LAYER: group}, forward_order(network)))
    return model


@pytest.mark.parametrize("criterion", sorted(set(CRITERIA)))
def test_every_criterion_ranks_a_residual_stream(stream, criterion):
    scores = channel_importance(stream, [LAYER], criterion=criterion, calibration=calibration())[LAYER]
    assert scores.shape == (14,)
    assert bool(scores.isfinite().all())


def test_producers_of_a_residual_stream_have_equal_weight_at_any_scale(stream):
    with torch.no_grad():
        stream.conv_block6.conv2.weight *= 1000
    found = channel_importance(stream, [LAYER], criterion="l1")[LAYER]
    parts = [l1_of(stream, layer) for layer in (LAYER, "conv_block6.conv2")]
    torch.testing.assert_close(found, sum(part / part.mean() for part in parts) / 2)


def test_joined_scores_keep_the_order_of_negative_scores():
    scores = torch.tensor([-3.0, -1.0, -2.0], dtype=torch.float64)
    assert joined([scores, scores]).argsort().tolist() == scores.argsort().tolist()
    assert joined([torch.zeros(3, dtype=torch.float64)] * 2).tolist() == [0, 0, 0]


@pytest.mark.parametrize(("criterion", "needs"), [(name, needs) for name, needs in NEEDS.items() if needs != "weights"])
def test_a_criterion_that_measures_clips_is_refused_without_clips(model, criterion, needs):
    with pytest.raises(
        PruningError,
        match=rf"criterion '{criterion}' measures {needs} on sound: give calibration clips \((un)?labelled; --calib",
    ):
        prune(model, criterion=criterion, ratio=0.5)


def test_a_criterion_of_weights_reads_no_clips(model):
    clips = iter([(WAVEFORM, TARGET)])
    channel_importance(model, [LAYER], criterion="l1", calibration=clips)
    assert len(list(clips)) == 1


@pytest.mark.parametrize("criterion", ["taylor", "activation", "interpolative"])
def test_a_channel_that_is_always_zero_is_removed_first(model, criterion):
    with torch.no_grad():
        model.conv_block4.bn1.bias.fill_(5)
        model.conv_block4.bn1.weight[3] = 0
        model.conv_block4.bn1.bias[3] = -1  # always 0 after ReLU
    _, plan = prune(model, criterion=criterion, ratios={"conv_block4.conv1": 0.1}, calibration=calibration())
    assert set(range(10)) - set(plan.kept_channels["conv_block4.conv1"]) == {3}
    assert (plan.criterion, plan.widths["conv_block4.conv1"]) == (criterion, 9)


@pytest.mark.parametrize("shape", [(6, 1, 3), (6, 4, 1), (6, 4, 3), (6, 4, 1, 1)], ids=str)
@pytest.mark.parametrize("name", [name for name, needs in NEEDS.items() if needs == "weights"])
def test_a_kernel_scores_as_the_same_kernel_with_a_further_dimension_of_size_1(name, shape):
    weight = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    scale = torch.rand(6, dtype=torch.float64)
    scores = criterion_named(name)(LayerFilters("layer", weight, 0, scale))
    assert bool(scores.isfinite().all())
    assert len(set(scores.tolist())) == 6  # equal scores would rank by index
    as_images = criterion_named(name)(LayerFilters("layer", weight.unsqueeze(-1), 0, scale))
    torch.testing.assert_close(as_images, scores)


[CLIPS] = random_waveforms(7)


def chosen(model, layers=MEASURED):
    groups = channel_groups(model)
    return {layer: groups[layer] for layer in layers}


def stored_inputs(model: Tagger, name: str, waveform: torch.Tensor) -> torch.Tensor:
    """Return the input of a layer, ``(clips, positions, channels)``, float64."""
    found = []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda module, inputs: found.append(inputs[0]))
    with torch.no_grad():
        model(waveform)
    handle.remove()
    (read,) = found
    if isinstance(model.get_submodule(name), torch.nn.Linear):
        read = read.unflatten(1, (-1, read.shape[-1])) if read.dim() == 2 else read
        return read.double()
    return read.flatten(2).transpose(1, 2).double()


def read_covariances(model, groups, batches):
    return {layer: scaled_covariance(moments) for layer, moments in read_moments(model, groups, batches).items()}


def slow_covariance(model: Tagger, group: ChannelGroup, waveform: torch.Tensor) -> torch.Tensor:
    total = torch.zeros(group.width, group.width, dtype=torch.float64)
    for reader in group.readers:
        window = slice(reader.offset, reader.offset + group.width)
        rows = stored_inputs(model, reader.name, waveform)[..., window].flatten(0, 1)
        weight = model.get_submodule(reader.name).weight.detach().double()[:, window]
        norms = torch.tensor([float(weight[:, channel].norm()) for channel in range(group.width)], dtype=torch.float64)
        total += torch.cov(rows.T, correction=0) * norms[:, None] * norms[None]
    return total


@pytest.mark.parametrize("head", ["clip", "decision_max"])
def test_streamed_covariances_equal_those_of_stored_activations(build, head):
    model = build(head=head)
    found = read_covariances(model, chosen(model), [CLIPS])
    for layer, group in chosen(model).items():
        torch.testing.assert_close(found[layer], slow_covariance(model, group, CLIPS), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["ResNet22", "MobileNetV2"])
def test_covariances_of_residual_streams_and_depthwise_groups_sum_over_all_readers(name):
    model = build_model(ZOO[name].scaled(1 / 16), num_classes=5).eval()
    [waveform] = random_waveforms(3, samples=32_000)
    groups = channel_groups(model)
    for layer, found in read_covariances(model, groups, [waveform]).items():
        torch.testing.assert_close(found, slow_covariance(model, groups[layer], waveform), rtol=1e-5, atol=1e-9)


def test_covariances_sum_over_readers_at_their_offsets(model):
    """One of the two readers of the stream reads it behind three other channels."""
    readers = (Reader("conv_block6.conv2", 3), Reader("conv_block6.conv1", 0))
    group = ChannelGroup("conv_block5.conv2", 11, ("conv_block5.conv2",), (), (), readers)
    found = read_covariances(model, {"stream": group}, [CLIPS])["stream"]
    torch.testing.assert_close(found, slow_covariance(model, group, CLIPS), rtol=1e-6, atol=1e-9)


def test_covariances_are_equal_bit_for_bit_for_any_batch_size(model):
    whole = read_covariances(model, chosen(model), [CLIPS])
    targets = torch.zeros(7, 5)
    pieces = [(CLIPS[:1], targets[:1]), (CLIPS[1:6], targets[1:6]), (CLIPS[6:], targets[6:])]
    apart = read_covariances(model, chosen(model), pieces)
    assert all(torch.equal(whole[layer], apart[layer]) for layer in MEASURED)


def test_clips_of_different_length_have_equal_weight(model):
    group = chosen(model, ["conv_block6.conv2"])  # read by fc1, one row a clip
    [pair], [long] = random_waveforms(2), random_waveforms(1, samples=11_200, seed=3)
    together = read_covariances(model, group, [pair, long])["conv_block6.conv2"]
    rows = torch.cat([stored_inputs(model, "fc1", wave).flatten(0, 1) for wave in (pair, long)])
    norms = model.fc1.weight.detach().double().norm(dim=0)
    torch.testing.assert_close(together, torch.cov(rows.T, correction=0) * norms[:, None] * norms, rtol=1e-5, atol=1e-9)


def test_measuring_covariances_leaves_the_network_unchanged(model):
    model.train()
    model.conv_block2.eval()
    before = tensors_of(model)
    modes = [module.training for module in model.modules()]
    read_covariances(model, chosen(model), [CLIPS])
    assert [module.training for module in model.modules()] == modes
    assert same_tensors(model, before)
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("batches", "match"),
    [
        ([], r"0 calibration clips: give at least two, some hundreds if you can"),
        (random_waveforms(1), r"1 calibration clips: give at least two"),
        ([CLIPS.to(torch.int16)], r"calibration batch of type torch\.int16, shape \(7, 5600\): give floats in"),
        ([CLIPS[0]], r"shape \(5600,\): give floats in \[-1, 1\], \(batch, samples\)"),
        ([(CLIPS, torch.zeros(7, 4))], r"targets of shape \(7, 4\) for 7 clips: give each a row of 5 classes"),
        ([{"waveform": CLIPS}], r"calibration batch: a dict of 1; give waveforms, or \(waveforms, targets\)"),
        ([CLIPS * 0], r"all 7 calibration clips are silent \(zeros\): give sound of the kind to be tagged"),
        ([CLIPS * float("nan")], r"conv_block1\.conv1: not finite on the calibration clips; look for bad clips"),
    ],
)
def test_invalid_calibration_clips_are_refused(model, batches, match):
    with pytest.raises(PruningError, match=match):
        read_covariances(model, chosen(model), batches)


def test_patches_of_a_clip_are_positions_of_the_clip():
    """YAMNet splits a clip into patches along the batch dimension."""
    model = build_model(ZOO["YAMNet"].scaled(1 / 16), num_classes=3).eval()
    [waveform] = random_waveforms(5, samples=15_600 + 2 * 7_680)
    groups = chosen(model, ("layer1.conv", "layer6.pointwise_conv", "layer14.pointwise_conv"))
    for layer, found in read_covariances(model, groups, [waveform[:3], waveform[3:]]).items():
        torch.testing.assert_close(found, slow_covariance(model, groups[layer], waveform), rtol=1e-8, atol=1e-14)
        assert found.diagonal().max() > 0


def in_double(model):
    """Convert all layers behind the front end, which returns float32, to float64."""
    model.double().front_end.float()
    in_single = model.inputs_of
    model.inputs_of = lambda waveform: tuple(part.double() for part in in_single(waveform.float()))
    return model


def measured(model, batches=((WAVEFORM, TARGET),), layers=GATED):
    return gate_gradients(model, layers, forward_order(model).norms, batches)


def loss(model, waveform, target):
    if model.spec.task == "single-label":
        logits = model(waveform)["clipwise_logits"]
        return -(target * (logits - logits.logsumexp(1, keepdim=True))).sum(1).mean()
    return F.binary_cross_entropy_with_logits(model(waveform)["clipwise_logits"], target)


@pytest.mark.parametrize("changes", [{}, {"head": "decision_att"}, {"activation": "softmax"}], ids=str)
def test_a_gate_gradient_equals_autograd_of_scale_and_offset_per_clip(build, changes):
    model = in_double(build(**changes))
    found = measured(model, [(WAVEFORM.double(), TARGET)])
    for layer in GATED:
        norm = model.get_submodule(layer.replace(".conv", ".bn"))
        expected = torch.zeros(norm.num_features, dtype=torch.float64)
        for clip in range(6):
            lost = loss(model, WAVEFORM[clip : clip + 1].double(), TARGET[clip : clip + 1].double())
            scale, offset = torch.autograd.grad(lost, [norm.weight, norm.bias])
            expected += (scale * norm.weight + offset * norm.bias).detach().square() / 6
        torch.testing.assert_close(found[layer], expected, rtol=1e-8, atol=1e-20)


def test_a_gate_gradient_equals_the_finite_difference_of_the_loss(build):
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


def test_the_gate_of_a_layer_without_batch_norm_is_at_its_output(model):
    found = gate_gradients(in_double(model), ["fc1"], {}, [(WAVEFORM.double(), TARGET)])["fc1"]
    expected = torch.zeros(9, dtype=torch.float64)
    for clip in range(6):
        lost = loss(model, WAVEFORM[clip : clip + 1].double(), TARGET[clip : clip + 1].double())
        weight, bias = torch.autograd.grad(lost, [model.fc1.weight, model.fc1.bias])
        expected += ((weight * model.fc1.weight).sum(1) + bias * model.fc1.bias).detach().square() / 6
    torch.testing.assert_close(found, expected)


def test_gate_gradients_are_equal_bit_for_bit_for_any_batch_size(model):
    pieces = [(WAVEFORM[:1], TARGET[:1]), (WAVEFORM[1:5], TARGET[1:5]), (WAVEFORM[5:], TARGET[5:])]
    whole, apart = measured(model), measured(model, pieces)
    assert all(torch.equal(whole[layer], apart[layer]) for layer in GATED)


def test_measuring_gradients_leaves_the_network_unchanged(model):
    model.train()
    model.conv_block3.requires_grad_(False).eval()
    loss(model, WAVEFORM, TARGET).backward()
    before = {name: weight.requires_grad for name, weight in model.named_parameters()}
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    state = tensors_of(model)
    modes = [module.training for module in model.modules()]
    with torch.inference_mode():
        measured(model)
    for name, weight in model.named_parameters():
        assert (weight.requires_grad, weight.grad is None) == (before[name], name not in gradients)
        assert weight.grad is None or torch.equal(weight.grad, gradients[name])
    assert [module.training for module in model.modules()] == modes
    assert same_tensors(model, state)
    assert not any(module._forward_hooks for module in model.modules())


def test_clips_without_labels_are_refused(model):
    with pytest.raises(PruningError, match=r"criterion 'taylor' needs labels: give batches of"):
        measured(model, [WAVEFORM])


def test_infinite_or_nan_gradients_are_refused(model):
    with pytest.raises(PruningError, match=r"conv_block2\.conv1: gradients are not finite on the calibration clips"):
        measured(model, [(WAVEFORM * float("nan"), TARGET)])


def test_a_clip_has_one_gate_for_all_its_patches():
    """The batch norms of YAMNet have a constant scale of 1, which has a gradient too."""
    model = in_double(build_model(ZOO["YAMNet"].scaled(1 / 32), num_classes=5).eval())
    [waveform] = random_waveforms(2, samples=15_600 + 7_680, seed=3)
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


def test_layers_inside_gates_are_ranked_by_l1_where_the_criterion_is_the_batch_norms():
    """No batch norm follows them in any checkpoint; a layer whose batch norm was folded is still refused."""
    gated = narrow("mn01")
    with pytest.warns(Note, match=r"criterion 'bn': no batch norm follows the 8 layers inside gates, features\.4\."):
        found = channel_importance(gated, gated.layer_names, criterion="bn")
    by_l1 = channel_importance(gated, gated.layer_names, criterion="l1")
    inside = {layer for layer in found if layer.endswith("fc1")}
    assert len(inside) == 8
    assert all(torch.equal(found[layer], by_l1[layer]) == (layer in inside) for layer in found)
    folded = copy.deepcopy(gated)
    fold_batch_norms(folded)
    with pytest.raises(PruningError, match=r"features\.0\.0: no batch norm with a scale follows it"):
        channel_importance(folded, folded.layer_names, criterion="bn")
