"""The Cnn class against a reference implementation of PANNs' forward pass; its heads and modes."""

import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from epanns.errors import CheckpointError, ConfigError
from epanns.labels import LabelSet
from epanns.models.families.cnn_2d import Cnn
from epanns.models.layers.pooling import stretch_to_frames
from epanns.models.spec import HEADS
from epanns.models.tagger import released_front_end
from epanns.models.zoo import ZOO


def randomised(model: Cnn) -> Cnn:
    """Give batch norms statistics that matter."""
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.3)
    return model.eval()


def slow_clip_tagger(state: dict[str, torch.Tensor], logmel: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """PANNs' Cnn14 in evaluation mode, written out from section II-B of the paper."""

    def norm(x, prefix, axis):
        shape = [1, 1, 1, 1]
        shape[axis] = -1
        mean, variance = state[f"{prefix}.running_mean"].view(shape), state[f"{prefix}.running_var"].view(shape)
        return (x - mean) / (variance + 1e-5).sqrt() * state[f"{prefix}.weight"].view(shape) + state[
            f"{prefix}.bias"
        ].view(shape)

    x = norm(logmel, "bn0", axis=3)
    for block in range(1, 7):
        for conv in (1, 2):
            x = F.conv2d(x, state[f"conv_block{block}.conv{conv}.weight"], padding=1)
            x = norm(x, f"conv_block{block}.bn{conv}", axis=1).clamp(min=0)
        if block < 6:
            x = F.avg_pool2d(x, (2, 2))
    x = x.mean(3)
    x = x.max(2).values + x.mean(2)
    embedding = (x @ state["fc1.weight"].T + state["fc1.bias"]).clamp(min=0)
    return embedding, embedding @ state["fc_audioset.weight"].T + state["fc_audioset.bias"]


def test_forward_equals_a_reference_implementation(tiny_spec):
    model = randomised(Cnn(tiny_spec))
    waveform = torch.rand(3, 9_000) - 0.5
    with torch.no_grad():
        output = model(waveform)
        embedding, logits = slow_clip_tagger(model.state_dict(), model.front_end(waveform))
    assert torch.allclose(output["embedding"], embedding, atol=1e-5)
    assert torch.allclose(output["clipwise_logits"], logits, atol=1e-5)


@pytest.mark.parametrize(("head", "pool"), [("decision_max", torch.amax), ("decision_avg", torch.mean)])
def test_decision_level_pools_the_segments(tiny_spec, head, pool):
    model = randomised(Cnn(replace(tiny_spec, head=head)))
    with torch.no_grad():
        output = model(torch.rand(2, 16_000) - 0.5)
    segments = output["framewise_output"][:, ::32][:, :6]  # 201 frames: 6 segments of 32, and 9 frames padded
    assert output["framewise_output"].shape == (2, 201, 4)
    assert torch.allclose(output["clipwise_output"], pool(segments, 1), atol=1e-6)


def test_attention_weighs_the_segments(tiny_spec):
    model = randomised(Cnn(replace(tiny_spec, head="decision_att")))
    with torch.no_grad():
        output = model(torch.rand(2, 16_000) - 0.5)
    segments = output["framewise_output"][:, ::32][:, :6]
    assert (output["clipwise_output"] >= segments.amin(1) - 1e-6).all()
    assert (output["clipwise_output"] <= segments.amax(1) + 1e-6).all()


def test_stretching_repeats_segments_and_pads_with_the_last():
    stretched = stretch_to_frames(torch.tensor([[[1.0], [2.0]]]), frames=7, ratio=3)
    assert stretched.flatten().tolist() == [1, 1, 1, 2, 2, 2, 2]


def test_mixup_mixes_neighbours(tiny_spec):
    model = randomised(Cnn(tiny_spec))
    waveform = torch.rand(4, 9_000) - 0.5
    with torch.no_grad():
        both = model(waveform)["clipwise_logits"]
        mixed = model(waveform, torch.tensor([1.0, 0.0]))["clipwise_logits"]
    assert torch.allclose(mixed, both[[0, 3]], atol=1e-5)


def test_evaluation_is_deterministic_and_training_is_not(tiny_spec):
    model, waveform = Cnn(tiny_spec).eval(), torch.rand(2, 9_000) - 0.5
    assert torch.equal(model(waveform)["clipwise_logits"], model(waveform)["clipwise_logits"])
    model.train()
    assert not torch.equal(model(waveform)["clipwise_logits"], model(waveform)["clipwise_logits"])


@pytest.mark.parametrize("head", HEADS)
def test_reset_classifier_keeps_everything_else(tiny_spec, head):
    model = Cnn(replace(tiny_spec, head=head)).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.reset_classifier(7, LabelSet.of([f"sound {index}" for index in range(7)]))
    changed = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])]
    assert all(name.startswith(model.classifier_names) for name in changed)
    assert model.spec.num_classes == 7
    assert model.labels.names[6] == "sound 6"
    assert model(torch.zeros(1, 9_000))["clipwise_output"].shape == (1, 7)
    assert not any(module.training for module in model.modules())


def test_reset_classifier_counts_the_labels(tiny_spec):
    with pytest.raises(ConfigError, match="2 labels for num_classes=3"):
        Cnn(tiny_spec).reset_classifier(3, LabelSet.of(["a", "b"]))


@pytest.mark.parametrize("head", HEADS)
def test_freezing_leaves_the_classifier_trainable(tiny_spec, head):
    model = Cnn(replace(tiny_spec, head=head))
    model.freeze_backbone()
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning == {name for name, _ in model.named_parameters() if name.startswith(model.classifier_names)}


@pytest.mark.parametrize("num_classes", [0, -1, 2.5])
def test_an_impossible_number_of_classes_changes_nothing(tiny_spec, num_classes):
    model = Cnn(tiny_spec)
    with pytest.raises(ConfigError, match=re.escape(f"num_classes={num_classes!r}: must be a whole number")):
        model.reset_classifier(num_classes)
    assert model.fc_audioset.out_features == model.spec.num_classes == 4


def test_batch_norms_of_a_frozen_backbone_do_not_drift(tiny_spec):
    model = Cnn(tiny_spec)
    model.freeze_backbone()
    before = model.bn0.running_mean.clone()
    model.train()(torch.rand(2, 9_000) - 0.5)
    assert torch.equal(model.bn0.running_mean, before)
    assert model.training


@pytest.mark.parametrize(("clips", "weights"), [(3, 1), (4, 1), (4, 4)])
def test_mixup_needs_one_weight_per_pair(tiny_spec, clips, weights):
    with pytest.raises(ConfigError, match=re.escape(f"shape ({weights},) for {clips} clips: give one per pair")):
        Cnn(tiny_spec)(torch.rand(clips, 9_000), torch.rand(weights))


def test_released_state_dict_loads_as_it_is(tiny_spec):
    model, other = randomised(Cnn(tiny_spec)), Cnn(tiny_spec).eval()
    released = {**model.state_dict(), **released_front_end(model.spec.front_end)}
    other.load_state_dict(released)
    assert torch.equal(other(torch.ones(1, 9_000))["embedding"], model(torch.ones(1, 9_000))["embedding"])


def test_weights_of_another_front_end_are_refused(tiny_spec):
    model = Cnn(tiny_spec)
    wrong = {**model.state_dict(), **released_front_end(ZOO["Cnn14_16k"].front_end)}
    with pytest.raises(CheckpointError, match=re.escape("is not of the front end at 8000 Hz")):
        model.load_state_dict(wrong)
