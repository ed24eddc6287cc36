"""LEAN: its windows, reference implementations of its three fusions, and a frozen body of a YAMNet."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from epanns.audio.frontend import SILENCE
from epanns.errors import ConfigError
from epanns.evaluation.protocol import cut_windows
from epanns.labels import LabelSet, fsd50k
from epanns.models.families.lean import BiLSTM, Lean
from epanns.models.families.yamnet import ShiftNorm2d
from epanns.models.spec import FUSION_FAMILIES, LEAN_FAMILIES, WITHOUT_FC1
from epanns.models.zoo import ZOO, build_model
from tests.families import uneven

NAMES = [name for name, spec in ZOO.items() if spec.family in LEAN_FAMILIES]
FUSIONS = [name for name, spec in ZOO.items() if spec.family in FUSION_FAMILIES]


def sound(clips: int, samples: int) -> Tensor:
    """Return tones that come and go, each clip's of its own."""
    time = torch.arange(samples) / 16_000
    pitch = torch.linspace(200, 3_000, clips)[:, None]
    return 0.5 * torch.sin(2 * math.pi * pitch * time * (1 + time)) * torch.sin(40 * pitch / 200 * time)


def heard(name: str) -> Lean:
    """Return a narrow network whose batch norms fit its input and whose encoder has large outputs."""
    model = uneven(name, least=6)
    assert isinstance(model, Lean)
    for module in model.modules():
        if isinstance(module, ShiftNorm2d):
            nn.init.normal_(module.bias, 0.2, 0.3)
            module.momentum = 1.0
    for parameter, values in model.named_parameters():
        if parameter.startswith(("encoder", "attention")):
            nn.init.normal_(values, 0, 0.5)
    model.spec_augmenter.eval()
    with torch.no_grad():
        model(sound(8, 16_000))
    return model.eval()


def slow_lstm(lstm: BiLSTM, steps: Tensor, suffix: str) -> Tensor:
    """Return one direction's states ``(steps, hidden)`` of ``(steps, inputs)``, gate by gate."""
    state, cell, states = torch.zeros(lstm.hidden_size), torch.zeros(lstm.hidden_size), []
    into, back = lstm.get_parameter(f"weight_ih_{suffix}"), lstm.get_parameter(f"weight_hh_{suffix}")
    bias = lstm.get_parameter(f"bias_ih_{suffix}")
    for step in steps:
        keep, forget, new, out = (into @ step + back @ state + bias).chunk(4)
        cell = forget.sigmoid() * cell + keep.sigmoid() * new.tanh()
        state = out.sigmoid() * cell.tanh()
        states.append(state)
    return torch.stack(states)


def slow_bilstm(lstm: BiLSTM, steps: Tensor) -> Tensor:
    """Return the states of both directions side by side, ``(steps, 2 * hidden)``."""
    backward = slow_lstm(lstm, steps.flip(0), "l0_reverse").flip(0)
    return torch.cat([slow_lstm(lstm, steps, "l0"), backward], dim=1)


def slow_context(model: Lean, scene: Tensor, states: Tensor) -> Tensor:
    """Return the context vector of the paper's equations, for one window."""
    state = model.state_dict()
    half = len(scene) // 2
    if model.spec.family == "lean_concat":
        return torch.cat([states[-1, :half], states[0, half:]])
    if model.spec.family == "lean_affinity":
        scores = torch.stack([(scene * h).sum().tanh() for h in states])
    else:
        query = state["attention.query.weight"] @ scene + state["attention.query.bias"]
        keys = [state["attention.key.weight"] @ h + state["attention.key.bias"] for h in states]
        score, bias = state["attention.score.weight"][0], state["attention.score.bias"][0]
        scores = torch.stack([score @ (query + key).tanh() + bias for key in keys])
    weights = scores.exp() / scores.exp().sum()
    return sum((weight * h for weight, h in zip(weights, states, strict=True)), torch.zeros(len(scene)))


@pytest.mark.parametrize("name", FUSIONS)
def test_the_classifier_reads_the_equations_of_the_paper(name):
    model = heard(name)
    waveform = sound(2, 16_000)
    with torch.no_grad():
        output = model(waveform)
        features = model.begin(model.inputs_of(waveform))
        for stage in model.stages():
            features = stage(features)
        scenes = model.fc1(features[0].mean((2, 3)))
        for clip, scene in enumerate(scenes):
            pieces = waveform[clip].reshape(40, 400)
            states = slow_bilstm(model.encoder.lstm2, slow_bilstm(model.encoder.lstm1, pieces))
            expected = torch.cat([scene, slow_context(model, scene, states)])
            torch.testing.assert_close(output["embedding"][clip], expected, rtol=1e-5, atol=1e-5)
    logits = output["embedding"] @ model.fc_audioset.weight.T + model.fc_audioset.bias
    torch.testing.assert_close(output["clipwise_logits"], logits)
    torch.testing.assert_close(output["clipwise_output"], logits.sigmoid())
    context = output["embedding"][:, model.fc1.out_features :]
    assert (context[0] - context[1]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["YAMNet_linear", "YAMNet_projection"])
def test_ablations_without_an_encoder_are_yamnet_with_another_classifier(name):
    model = heard(name)
    yamnet = build_model(replace(ZOO["YAMNet"], num_classes=5).with_widths(model.spec.widths)).eval()
    yamnet.load_state_dict({**yamnet.state_dict(), **{k: v for k, v in model.state_dict().items() if "layer" in k}})
    waveform = sound(2, 15_600)
    with torch.no_grad():
        scene = yamnet(waveform)["embedding"]
        scene = scene if name == "YAMNet_linear" else model.fc1(scene)
        output = model(torch.cat([waveform, torch.ones(2, 400)], dim=1))  # the last 25 ms of a second go unheard
    torch.testing.assert_close(output["embedding"], scene)
    assert (name == "YAMNet_linear") == (model.spec.family in WITHOUT_FC1) == ("fc1" not in dict(model.named_modules()))


@pytest.mark.parametrize("samples", [16_000, 20_000, 24_000, 40_001])
@pytest.mark.parametrize("name", ["YAMNet_projection", "LEAN"])
def test_the_score_of_a_clip_is_the_mean_over_windows_of_the_papers_protocol(name, samples):
    """Windows of 1 s, 50 % overlap, mean of scores: `evaluate --window 1 --hop 0.5` and the whole clip are the same."""
    model = heard(name).double()  # float32's rounding, larger on some processors, would hide a difference
    clip = sound(3, samples).double()
    with torch.no_grad():
        windows = cut_windows(clip[1], 16_000, 8_000)
        expected, found = model(windows), model(clip)
    for key in ("clipwise_output", "embedding"):
        assert samples == 16_000 or expected[key].std(0).max() > 0.02
        torch.testing.assert_close(found[key][1], expected[key].mean(0), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found["clipwise_logits"].sigmoid(), found["clipwise_output"])


@pytest.mark.parametrize("name", NAMES)
def test_clips_under_a_second_are_repeated(name):
    model = heard(name)
    clip = sound(2, 7_000)
    with torch.no_grad():
        torch.testing.assert_close(model(clip), model(clip.repeat(1, 3)[:, :16_000]), rtol=0, atol=0)


def test_pairs_are_mixed_in_both_inputs_and_stripes_masked_in_one():
    model = heard("LEAN").train()
    logmel, pieces = torch.randn(4, 2, 96, 64), torch.randn(4, 2, 40, 400)
    weights = torch.tensor([0.25, 1.0])
    mixed, waves = model.begin((logmel, pieces), weights)
    assert (mixed.shape, waves.shape) == ((4, 1, 96, 64), (4, 40, 400))
    torch.testing.assert_close(waves[1], 0.25 * pieces[0, 1] + 0.75 * pieces[1, 1])
    torch.testing.assert_close(waves[2], pieces[2, 0])
    model.spec_augmenter.eval()
    mixed, _ = model.begin((logmel, pieces), weights)
    torch.testing.assert_close(mixed[1, 0], 0.25 * logmel[0, 1] + 0.75 * logmel[1, 1])
    model.spec_augmenter.train()
    masked, waves = model.begin((logmel, pieces))
    changed = (masked.view(4, 2, 96, 64) - logmel).abs() > 1e-3
    assert changed.any()
    assert torch.allclose(masked.view(4, 2, 96, 64)[changed], torch.tensor(SILENCE))
    assert torch.equal(waves, pieces.flatten(0, 1))


def test_the_second_bias_of_torchs_lstm_is_no_parameter():
    lstm = BiLSTM(5, 3)
    assert sum(parameter.numel() for parameter in lstm.parameters()) == 2 * 4 * 3 * (5 + 3 + 1)
    assert len(lstm.state_dict()) == 6
    plain = nn.LSTM(5, 3, batch_first=True, bidirectional=True)
    zeros = {name: torch.zeros_like(value) for name, value in plain.state_dict().items()}
    plain.load_state_dict(zeros | lstm.state_dict())
    steps = torch.randn(2, 7, 5)
    torch.testing.assert_close(lstm(steps), plain(steps)[0])
    assert torch.equal(lstm.bias_ih_l0.detach(), torch.tensor([0.0] * 3 + [1] * 3 + [0] * 6))
    weight = lstm.weight_hh_l0[:3].detach()
    torch.testing.assert_close(weight @ weight.T, torch.eye(3))


def test_labels_are_fsd50ks_where_classes_are_as_many():
    assert build_model("LEAN", width=1 / 32).labels is fsd50k()
    assert build_model("LEAN", width=1 / 32, num_classes=10).labels == LabelSet.numbered(10)
    assert build_model("Cnn6", width=1 / 32, num_classes=200).labels == LabelSet.numbered(200)


def test_the_embedding_size_must_be_a_multiple_of_4():
    with pytest.raises(ConfigError, match="embedding_size=510 must be a multiple of 4 in lean: two of two halves"):
        replace(ZOO["LEAN"], embedding_size=510)
    assert ZOO["LEAN"].scaled(1 / 3).embedding_size == 172


# Freezing.


def test_the_body_is_taken_from_a_yamnet_and_frozen():
    yamnet = build_model(ZOO["YAMNet"].scaled(1 / 8))
    for module in yamnet.modules():
        if isinstance(module, ShiftNorm2d):
            module.running_mean.normal_()
    model = build_model(ZOO["LEAN"].scaled(1 / 8), num_classes=3)
    model.take_yamnet(yamnet)
    model.freeze_yamnet()
    theirs = {name: value for name, value in yamnet.state_dict().items() if name.startswith("layer")}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert all(torch.equal(before[name], value) for name, value in theirs.items())
    model.train()
    model(sound(4, 16_000))["clipwise_logits"].square().sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.sub_(parameter.grad)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    others = {name for name, _ in model.named_parameters() if not name.startswith("layer")}
    cancelled = {"attention.score.bias"}  # by the softmax, but for rounding
    assert changed - cancelled == others - cancelled
    assert {name.split(".")[0] for name in changed} == {"fc1", "encoder", "attention", "fc_audioset"}


@pytest.mark.parametrize("other", [ZOO["YAMNet"], ZOO["YAMNet_linear"].scaled(1 / 8), ZOO["Cnn6"].scaled(1 / 8)])
def test_a_body_that_does_not_fit_is_refused(other):
    with torch.device("meta"):
        network = build_model(other)
    model = build_model(ZOO["LEAN"].scaled(1 / 8))
    with pytest.raises(ConfigError, match=f"{other.name} cannot be the body of this LEAN: give a YAMNet of its widths"):
        model.take_yamnet(network)
