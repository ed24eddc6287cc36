"""Windows cover every sample; whole clips and windows agree where they must; the model is left as it was."""

import copy
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from epanns.audio.frontend import FrontEndSpec
from epanns.data.batches.dataset import ClipBatch, PackDataset
from epanns.errors import CheckpointError, ConfigError, PackError
from epanns.evaluation import predict as predict_module
from epanns.evaluation.predict import predict, score_windows
from epanns.evaluation.protocol import EvaluationProtocol, cut_windows, windows_of
from epanns.labels import LabelSet
from epanns.models.families.cnn_2d import Cnn
from epanns.models.spec import ModelSpec
from tests.builders import make_network

RATE = 8000
LABELS = LabelSet.of(["dog", "rain", "sea"])
SPEC = ModelSpec(
    name="Tiny",
    family="cnn",
    front_end=FrontEndSpec(RATE, 256, 80, 16, 50, 4000),
    widths={"conv_block1.conv1": 4, "conv_block1.conv2": 6},
    embedding_size=8,
    num_classes=3,
)


class FakeDataset(torch.utils.data.Dataset):
    """What `predict` needs of a `PackDataset`, from memory."""

    labels, sample_rate, clip_samples, dataset_name = LABELS, RATE, RATE, "fake"
    sources = ()

    def __init__(self, lengths):
        rng = np.random.default_rng(0)
        self.lengths = lengths
        self.waveform = torch.from_numpy(rng.integers(-9000, 9000, (len(lengths), RATE)).astype(np.int16))
        for row, length in zip(self.waveform, lengths, strict=True):
            row[length:] = 0
        self.target = torch.from_numpy(rng.random((len(lengths), 3)) < 0.5)

    def __len__(self):
        return len(self.lengths)

    def __getitems__(self, indices):
        ids = tuple(f"clip{index}" for index in indices)
        lengths = torch.tensor([self.lengths[index] for index in indices], dtype=torch.int32)
        return ClipBatch(ids, self.waveform[indices], lengths, self.target[indices])


@pytest.fixture(scope="module")
def model():
    return make_network(SPEC, LABELS, seed=0)


def test_whole_clip_is_the_models_own_output(model):
    dataset = FakeDataset([8000, 5000, 3000])
    found = predict(model, dataset, batch_size=2)
    with torch.no_grad():
        expected = model(dataset.waveform.float() / 32767)["clipwise_output"]
    assert found.clip_ids == ("clip0", "clip1", "clip2")
    assert found.scores.dtype == np.float64
    assert np.allclose(found.scores, expected.numpy(), atol=1e-6)
    assert (found.target == dataset.target.numpy()).all()


@pytest.mark.parametrize("aggregate", ["mean_prob", "mean_logit", "max_prob"])
def test_windows_equal_one_clip_at_a_time(model, aggregate):
    dataset = FakeDataset([8000, 4100, 900])
    found = predict(model, dataset, EvaluationProtocol(0.25, 0.125, aggregate), batch_size=2)
    for clip, length in enumerate(dataset.lengths):
        waveform = dataset.waveform[clip, :length].float() / 32767
        logits = []
        for start, _ in windows_of([waveform], 2000, 1000):
            window = waveform[start : start + 2000]
            window = torch.cat([window, window, window])[:2000]
            with torch.no_grad():
                logits.append(model(window[None])["clipwise_logits"][0])
        stacked = torch.stack(logits)
        expected = {
            "mean_prob": stacked.sigmoid().mean(0),
            "mean_logit": stacked.mean(0).sigmoid(),
            "max_prob": stacked.sigmoid().amax(0),
        }[aggregate]
        assert np.allclose(found.scores[clip], expected.numpy(), atol=1e-6)


def test_padding_is_part_of_whole_clips_and_not_of_windows(model):
    dataset = FakeDataset([3000, 3000])
    dataset.waveform[1] = dataset.waveform[0]
    dataset.waveform[1, 3000:] = 5000  # what stands after a clip's end must not matter to windows
    windows = predict(model, dataset, EvaluationProtocol(0.25)).scores
    assert np.allclose(windows[0], windows[1], atol=1e-6)
    assert not np.allclose(*predict(model, dataset).scores, atol=1e-6)


def test_at_its_own_length_a_clip_is_scored_without_padding(model):
    dataset = FakeDataset([3000, 8000, 900, 3000, 20])
    found = predict(model, dataset, EvaluationProtocol(own_length=True), batch_size=4)
    for clip, length in enumerate(dataset.lengths):
        with torch.no_grad():
            alone = model(dataset.waveform[clip : clip + 1, :length].float() / 32767)["clipwise_output"][0]
        assert np.allclose(found.scores[clip], alone.numpy(), atol=1e-6)
    assert not np.allclose(found.scores[0], predict(model, dataset).scores[0], atol=1e-6)


def test_every_modules_mode_comes_back(model):
    model.train()
    model.bn0.eval()
    modes = {name: module.training for name, module in model.named_modules()}
    predict(model, FakeDataset([8000]))
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    model.eval()


def test_progress_receives_the_clips_done_and_their_total(model):
    told = []
    predict(model, FakeDataset([8000] * 5), batch_size=2, progress=lambda done, total: told.append((done, total)))
    assert told == [(2, 5), (4, 5), (5, 5)]


def test_other_sample_rate_is_refused(model):
    dataset = FakeDataset([8000])
    dataset.sample_rate = 16_000
    message = (
        "Tiny has a sample rate of 8000 Hz, the pack fake has 16000 Hz: pack the manifest again with --sample-rate 8000"
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        predict(model, dataset)


@pytest.mark.parametrize(
    ("names", "difference"),
    [
        (["dog", "sea", "rain"], "class 1 is 'rain' in the model, 'sea' in the pack"),
        (["dog", "rain"], "3 classes in the model, 2 in the pack"),
    ],
)
def test_other_classes_are_refused(model, names, difference):
    dataset = FakeDataset([8000])
    dataset.labels = LabelSet.of(names)
    with pytest.raises(ConfigError, match=re.escape(f"different classes ({difference}): fine-tune on this label set")):
        predict(model, dataset)


def test_empty_pack_is_refused(model):
    with pytest.raises(PackError, match="the pack has no clip: nothing to evaluate"):
        predict(model, FakeDataset([]))


def test_scores_that_are_not_finite_are_refused(model):
    broken = Cnn(SPEC, LABELS).eval()
    with torch.no_grad():
        broken.fc_audioset.bias.fill_(float("nan"))
    with pytest.raises(CheckpointError, match=r"not finite for 2 of 2 clips, first 'clip0': its weights have diverged"):
        predict(broken, FakeDataset([8000, 8000]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"aggregate": "mean_prop"}, "aggregate='mean_prop' (did you mean 'mean_prob'?): must be one of"),
        ({"hop": 0.5}, "hop=0.5 without a window: applies to windows alone; give window too"),
        ({"aggregate": "max_prob"}, "aggregate='max_prob' without a window: applies to windows alone"),
        ({"window": 0}, "window=0: must be a length in seconds, 0.01 to 3600"),
        ({"window": float("nan")}, "window=nan: must be a number of seconds"),
        (
            {"window": 1.0, "own_length": True},
            "own_length: windows of 1.0 s have no padding: give one of the two",
        ),
        ({"window": "1"}, "window='1': must be a number of seconds"),
        ({"window": 1.0, "hop": True}, "hop=True: must be a number of seconds"),
        ({"own_length": "yes"}, "own_length='yes': must be true or false"),
        ({"window": 1.0, "hop": 1.5}, "hop=1.5: must be in (0, window=1.0], or samples would be skipped"),
    ],
)
def test_protocols_that_mean_nothing_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        EvaluationProtocol(**arguments)


def test_protocol_is_described_in_words():
    assert EvaluationProtocol().describe() == "whole clip"
    assert EvaluationProtocol(own_length=True).describe() == "whole clip at its own length, without padding"
    edges = "(last window shifted back, short clips repeated)"
    assert EvaluationProtocol(1.0, 0.5).describe() == f"1 s windows, 0.5 s hop, mean_prob {edges}"
    assert EvaluationProtocol(2.0).describe() == EvaluationProtocol(2.0, 2.0).describe()


@pytest.mark.parametrize("given", [(), (None, None, "mean_prob", True), (2,), (1.0, 0.5, "max_prob")])
def test_settings_of_a_protocol_make_it_again(given):
    protocol = EvaluationProtocol(*given)
    assert EvaluationProtocol(**protocol.settings()).describe() == protocol.describe()
    assert (protocol.settings() == {}) == (given == ())
    assert EvaluationProtocol(2.0).settings() == EvaluationProtocol(2, 2).settings()


@pytest.mark.parametrize("aggregate", ["mean_prob", "mean_logit"])
def test_windows_of_a_single_label_network_give_one_distribution(single_label_packs, aggregate):
    dataset = PackDataset([single_label_packs["test"]])
    model = Cnn(SPEC.with_task("single-label"), dataset.labels).eval()
    found = predict(model, dataset, EvaluationProtocol(0.2, 0.1, aggregate))
    assert found.task == "single-label"
    assert np.allclose(found.scores.sum(axis=1), 1, atol=1e-6)
    with torch.no_grad():
        clip = dataset[0].float_waveform()[0]
        logits = model(cut_windows(clip, 1600, 800))["clipwise_logits"].double()
    one = logits.softmax(1).mean(0) if aggregate == "mean_prob" else logits.mean(0).softmax(0)
    assert np.allclose(found.scores[0], one, atol=1e-5)


def test_a_single_label_network_refuses_clips_of_no_or_several_classes(tiny_packs):
    dataset = PackDataset([tiny_packs["test"]])
    counts = dataset.targets.counts_by_clip()
    first = int(np.flatnonzero(counts != 1)[0])
    model = Cnn(replace(SPEC, num_classes=4, activation="softmax"), dataset.labels)
    clip = dataset.clip_ids[first].decode()
    message = f"{(counts != 1).sum()} of 20 clips of synthetic have no class or several, first {clip!r} with "
    with pytest.raises(ConfigError, match=re.escape(f"{message}{counts[first]}: a single-label network needs")):
        predict(model, dataset)


def test_the_memory_format_of_a_network_is_restored(tiny_spec, tiny_packs):
    dataset = PackDataset([tiny_packs["val"]])
    model = Cnn(tiny_spec, dataset.labels)
    seen = []
    model.conv_block2.conv1.register_forward_pre_hook(lambda layer, _: seen.append(layer.weight.stride()))
    before = {name: (parameter.data_ptr(), parameter.stride()) for name, parameter in model.named_parameters()}
    predict(model, dataset)
    assert {name: (parameter.data_ptr(), parameter.stride()) for name, parameter in model.named_parameters()} == before
    assert seen[0] == model.conv_block2.conv1.weight.to(memory_format=torch.channels_last).stride()
    assert seen[0] != model.conv_block2.conv1.weight.stride()


@pytest.mark.parametrize(
    "protocol",
    [None, EvaluationProtocol(own_length=True), EvaluationProtocol(window=2.0, hop=1.0)],
    ids=["whole", "own length", "windows"],
)
def test_a_pass_on_a_cpu_is_twenty_seconds_of_sound(tiny_spec, tiny_packs, protocol, monkeypatch):
    dataset = PackDataset([tiny_packs["val"]])
    model, heard = Cnn(tiny_spec, dataset.labels), []
    model.register_forward_pre_hook(lambda module, arguments: heard.append(arguments[0].shape))
    whole = predict(model, dataset, protocol, batch_size=20)
    assert max(n_clips * samples for n_clips, samples in heard) <= 20.5 * 8_000
    monkeypatch.setattr(predict_module, "_CPU_PASS", 0.001)
    heard.clear()
    single = predict(model, dataset, protocol, batch_size=20)
    assert {n_clips for n_clips, _ in heard} == {1}
    np.testing.assert_allclose(single.scores, whole.scores, atol=1e-6)


def test_windows_are_scored_as_they_come_as_in_one_batch(model):
    windows = [clip[None] for clip in FakeDataset([8000] * 5).waveform.float() / 32767]
    with torch.no_grad():
        expected = torch.cat([model(window)["clipwise_output"] for window in windows])
    batches = list(score_windows(model.train(), (window[0] for window in windows), batch_size=2))
    assert [len(scores) for scores in batches] == [2, 2, 1]
    assert model.training
    torch.testing.assert_close(torch.cat(batches), expected)
    assert torch.is_grad_enabled()


def test_a_score_that_is_not_finite_is_refused(model):
    broken = copy.deepcopy(model)
    broken.fc_audioset.bias.data[0] = torch.nan
    with pytest.raises(CheckpointError, match="Tiny gives scores that are not finite: its weights are damaged"):
        list(score_windows(broken, [torch.zeros(8000)]))
