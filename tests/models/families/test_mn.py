"""EfficientAT's mn: what its own code computes, its front end, its files."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from epanns.audio.efficientat_logmel import EfficientatLogMel
from epanns.audio.frontend import htk_mel_bank, torchaudio_problem
from epanns.complexity.macs import profile
from epanns.errors import CheckpointError, ConfigError
from epanns.labels import audioset
from epanns.models.files.checkpoint import save
from epanns.models.files.load import load
from epanns.models.files.released import export_panns
from epanns.models.spec import mn_layers
from epanns.models.zoo import ZOO, build_model
from epanns.pruning.surgery import Reader, channel_groups, remove_channels
from tests.families import narrow, noise
from tests.golden.make_mn_golden import CLASSES, FILLED, LOGMEL_SAMPLES, filled, waveforms

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "mn.npz")
# MACs of a clip of 10 s and of 1 s in millions, counted on EfficientAT's code by its own hooks.
MACS = {"mn01": (18.1, 2.0), "mn02": (40.3, 4.6), "mn04": (110.6, 12.7), "mn05": (160, 18.5), "mn10": (541, 63.0)}
WAVES = waveforms()


def tagged(model, wave):
    """Return the logits and the pooled maps of a waveform, as upstream's code returns them."""
    waveform = torch.from_numpy(wave)[None]
    with torch.no_grad():
        features = model.through_stages(model.inputs_of(waveform))
        return model(waveform)["clipwise_logits"][0].numpy(), model.pooled(features)[0].numpy()


@pytest.mark.parametrize("wave", WAVES)
def test_the_log_mel_is_upstreams(wave):
    """Upstream's float32 loses up to 3e-4 in the quiet bins between loud tones."""
    front_end = EfficientatLogMel(ZOO["mn04"].front_end).eval()
    logmel = front_end(torch.from_numpy(WAVES[wave])[None, :LOGMEL_SAMPLES])[0, 0].numpy()
    expected = GOLDEN[f"logmel/{wave}"]
    assert logmel.shape == expected.shape == (31, 128)
    np.testing.assert_allclose(logmel, expected, rtol=0, atol=4e-4)
    assert np.abs(logmel - expected).mean() < 5e-6
    in_training = front_end.train()(torch.from_numpy(WAVES[wave])[None, :LOGMEL_SAMPLES])[0, 0].numpy()
    np.testing.assert_allclose(in_training, expected, rtol=0, atol=5e-2)


@pytest.mark.parametrize("name", FILLED)
def test_networks_with_weights_by_formula_compute_what_upstreams_do(name):
    model = build_model(name, num_classes=CLASSES).eval()
    model.load_state_dict(filled(model.state_dict()))
    logits = []
    for wave, values in WAVES.items():
        ours, pooled = tagged(model, values)
        np.testing.assert_allclose(ours, GOLDEN[f"{name}/{wave}/logits"], rtol=0, atol=1e-5)
        np.testing.assert_allclose(pooled, GOLDEN[f"{name}/{wave}/pooled"], rtol=0, atol=1e-5)
        logits.append(ours)
    assert np.ptp(logits, axis=0).max() > 1e-3  # different sounds score differently


@pytest.fixture(scope="module")
def released(shared):
    return shared / "weights" / "mn04_as_mAP_432.pt"


def test_the_released_file_scores_as_its_authors_code_does(released):
    model = load(released)
    assert (model.spec, model.labels) == (ZOO["mn04"], audioset())
    assert model.provenance.assumed == ()  # its sha256 is in the catalogue
    for wave, values in WAVES.items():
        logits, pooled = tagged(model, values)
        expected = GOLDEN[f"released/{wave}/logits"]
        np.testing.assert_allclose(1 / (1 + np.exp(-logits)), 1 / (1 + np.exp(-expected)), rtol=0, atol=2e-5)
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-3)
        np.testing.assert_allclose(pooled, GOLDEN[f"released/{wave}/pooled"], rtol=0, atol=1e-4)
    top = model.labels.names[int(GOLDEN["released/tones/logits"].argmax())]
    assert top == model.labels.names[int(tagged(model, WAVES["tones"])[0].argmax())]


@pytest.mark.parametrize("name", MACS)
def test_multiply_adds_are_those_of_upstreams_code(name):
    counted = [profile(ZOO[name], seconds=seconds).backbone_macs / 1e6 for seconds in (10.0, 1.0)]
    assert counted == pytest.approx(MACS[name], abs=0.6 if name == "mn10" else 0.06)


def test_multiply_adds_of_mn04_are_exact():
    assert profile(ZOO["mn04"]).backbone_macs == 110_643_072


@pytest.mark.skipif(torchaudio_problem() is not None, reason="torchaudio cannot be imported")
@pytest.mark.parametrize("mel_bins", [40, 64, 128])
def test_mel_bank_is_kaldis(mel_bins):
    from torchaudio.compliance.kaldi import get_mel_banks

    spec = replace(ZOO["mn04"].front_end, mel_bins=mel_bins)
    theirs, _ = get_mel_banks(mel_bins, 1024, 32_000, 0.0, 15_000.0, 100.0, -500.0, 1.0)
    ours = htk_mel_bank(spec)
    torch.testing.assert_close(ours[:-1].T, theirs, rtol=0, atol=2e-5)  # theirs is computed in float32
    assert not ours[-1].any()


@pytest.mark.parametrize("samples", [514, 515, 832, 833, 834, 32_000, 32_001, 320_000])
def test_frames_are_counted_as_they_are_computed(samples):
    front_end = EfficientatLogMel(ZOO["mn04"].front_end)
    expected = ZOO["mn04"].front_end.frames(samples)
    assert front_end(torch.zeros(1, samples)).shape == (1, 1, expected, 128)
    assert samples != 320_000 or expected == 1_000  # as upstream's for 10 s


def test_shortest_clip_is_the_shortest_that_the_transform_takes():
    model = build_model("mn01", num_classes=2).eval()
    front_end = model.front_end
    assert front_end(torch.zeros(1, model.minimum_samples)).isfinite().all()
    with pytest.raises(RuntimeError, match="padding"):
        front_end(torch.zeros(1, model.minimum_samples - 1))


def test_released_files_are_read_by_their_tensors(tmp_path):
    """Flat state dicts, at any widths and for any classes; their hop and mel bins are in the names of the files."""
    for name, file in (("mn01", "a.pt"), ("mn02", "b.pt"), ("mn10", "mn10_as_hop_15_mAP_463.pt")):
        model = build_model(name, num_classes=3).eval()
        model.load_state_dict(filled(model.state_dict()))
        torch.save(dict(model.state_dict()), tmp_path / file)
        read = load(tmp_path / file)
        hop_size = 480 if "hop" in file else 320
        assert read.spec == replace(model.spec, front_end=replace(model.spec.front_end, hop_size=hop_size))
        assert all(torch.equal(value, model.state_dict()[key]) for key, value in read.state_dict().items())
        assumed = f"a hop of {hop_size // 32} ms and 128 mel bins are assumed"
        assert any(text.startswith(assumed) for text in read.provenance.assumed)
    torch.save(dict(model.state_dict()), tmp_path / "mn10_as_mels_40_mAP_453.pt")
    assert load(tmp_path / "mn10_as_mels_40_mAP_453.pt").spec.front_end.mel_bins == 40


def test_a_pruned_network_is_read_back_from_folder_and_state_dict(tmp_path):
    model = narrow("mn04")
    pruned = remove_channels(model, {layer: range(1, width, 2) for layer, width in model.spec.widths.items()})
    save(pruned, tmp_path / "folder")
    torch.save(pruned.state_dict(), tmp_path / "pruned.pt")
    for path in (tmp_path / "folder", tmp_path / "pruned.pt"):
        read = load(path)
        assert read.spec.widths == pruned.spec.widths
        with torch.no_grad():
            torch.testing.assert_close(
                read.forward_inputs(noise(model))["clipwise_logits"],
                pruned.forward_inputs(noise(model))["clipwise_logits"],
            )


def test_wrong_arguments_and_files_are_refused(tmp_path):
    model = build_model("mn01", num_classes=3)
    path = tmp_path / "a.pt"
    torch.save(model.state_dict(), path)
    with pytest.raises(CheckpointError, match=re.escape("sample_rate=16000: mn01 has 32000: leave it out")):
        load(path, sample_rate=16_000)
    torch.save({key: value for key, value in model.state_dict().items() if "fc2.bias" not in key}, path)
    with pytest.raises(CheckpointError, match=r"is not a mn01: 8 missing: features\.4\.block\.1\.conc_se_layers"):
        load(path)
    with pytest.raises(CheckpointError, match="mn01 is none of PANNs' networks"):
        export_panns(model, tmp_path / "b.pth")
    with pytest.raises(ConfigError, match=r"front_end.kind='panns' must be 'efficientat' in mn"):
        replace(ZOO["mn04"], front_end=ZOO["Cnn14"].front_end)


@pytest.mark.parametrize("name", ["mn01", "mn04"])
def test_gates_and_depthwise_layers_go_with_the_channels_of_their_expansion(name):
    model = narrow(name)
    groups = channel_groups(model)
    for layers in mn_layers(model.spec.family):
        if layers.expansion is None:
            continue
        group = groups[layers.expansion]
        assert (group.producers, group.depthwise) == ((layers.expansion,), (layers.depthwise,))
        assert group.gates == (() if layers.excitation is None else (layers.excitation,))
        readers = [layers.projection] if layers.squeeze is None else [layers.squeeze, layers.projection]
        assert group.readers == tuple(Reader(reader, 0) for reader in readers)
        if layers.squeeze is not None:
            squeezed = groups[layers.squeeze]
            assert (squeezed.producers, squeezed.norms) == ((layers.squeeze,), ())
            assert squeezed.readers == (Reader(layers.excitation, 0),)


def test_outputs_of_blocks_that_are_added_are_one_group():
    model = narrow("mn04")
    groups, blocks = channel_groups(model), mn_layers("mn")
    streams = {
        lead: [blocks[number - 1].projection for number in numbers]
        for lead, numbers in {
            "features.2.block.2.0": (2, 3),
            "features.4.block.3.0": (4, 5, 6),
            "features.7.block.2.0": (7, 8, 9, 10),
            "features.11.block.3.0": (11, 12),
            "features.13.block.3.0": (13, 14, 15),
        }.items()
    }
    assert {lead: list(groups[lead].producers) for lead in streams} == streams
    assert groups["features.0.0"].producers == ("features.0.0", "features.1.block.1.0")


def test_a_new_classifier_keeps_the_rest():
    model = narrow("mn04")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.reset_classifier(7, keep={2: 4})
    after = model.state_dict()
    assert after["classifier.5.weight"].shape == (7, model.spec.embedding_size)
    assert torch.equal(after["classifier.5.weight"][2], before["classifier.5.weight"][4])
    assert all(torch.equal(after[key], value) for key, value in before.items() if "classifier.5" not in key)
    assert {key for key, _ in model.named_parameters()} - {"classifier.5.weight", "classifier.5.bias"} == {
        key for key, parameter in model.named_parameters() if any(parameter is each for each in model.backbone)
    }
