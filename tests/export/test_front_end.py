"""The JSON beside the graph suffices: the example in NumPy computes the same as the networks' front ends."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import soundfile
import torch

from epanns.audio.short_clips import repeat_to_minimum
from epanns.export.network import front_end_of, named_inputs
from epanns.models.zoo import build_model, spec_of
from tests.export.conftest import small_network

EXAMPLE = Path(__file__).parents[2] / "examples" / "onnx_tags.py"
inputs_of = runpy.run_path(str(EXAMPLE))["inputs_of"]


@pytest.mark.parametrize(
    "name", ["Cnn14_16k", "DaiNet19", "Wavegram_Logmel_Cnn14", "YAMNet", "LEAN", "YAMNet_linear", "mn01"]
)
@pytest.mark.parametrize("length", [0.3, 0.96, 1.0, 2.71])
def test_the_example_makes_the_inputs_of_every_front_end(name, length):
    model = build_model(spec_of(name, width=1 / 32)).eval()
    wave = np.random.default_rng(0).normal(0, 0.2, int(length * model.spec.front_end.sample_rate) + 1)
    waveform = repeat_to_minimum(torch.from_numpy(wave).float()[None], model.minimum_samples)
    expected = named_inputs(model, model.inputs_of(waveform))
    found = inputs_of(wave, front_end_of(model))
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        np.testing.assert_allclose(found[key], values, atol=1e-3 if key == "logmel" else 1e-6)  # dB, or ln


def test_the_example_prints_the_networks_highest_scores(folder, tmp_path):
    wave = np.random.default_rng(0).normal(0, 0.2, 9_001)
    soundfile.write(tmp_path / "noise.wav", wave, 8_000, subtype="FLOAT")
    model = small_network()
    expected = model(torch.from_numpy(wave).float()[None])["clipwise_output"][0].detach().numpy()
    described = json.loads((folder / "front_end.json").read_text())
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    ((scores,),) = session.run(["clipwise_output"], inputs_of(wave, described))
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    names = json.loads(session.get_modelmeta().custom_metadata_map["labels"])
    command = [sys.executable, EXAMPLE, folder, tmp_path / "noise.wav"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert [line.split("  ")[1] for line in printed] == [names[place] for place in np.argsort(-expected)]
    soundfile.write(tmp_path / "fast.wav", wave, 16_000)
    refused = subprocess.run([*command[:-1], tmp_path / "fast.wav"], check=False, capture_output=True, text=True)
    assert "16000 Hz, the network reads 8000 Hz: resample the file first" in refused.stderr
    soundfile.write(tmp_path / "empty.wav", wave[:0], 8_000)
    refused = subprocess.run([*command[:-1], tmp_path / "empty.wav"], check=False, capture_output=True, text=True)
    assert (refused.returncode, refused.stderr) == (1, f"{tmp_path / 'empty.wav'}: holds no samples\n")


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("Cnn14_16k", {"logmel": ["batch", 1, "time", 64]}),
        ("DaiNet19", {"waveform": ["batch", "samples"]}),
        ("Wavegram_Logmel_Cnn14", {"waveform": ["batch", "samples"], "logmel": ["batch", 1, "time", 64]}),
        ("YAMNet", {"logmel": ["batch", 1, "time", 64]}),
        ("LEAN", {"logmel": ["batch", "windows", 96, 64], "pieces": ["batch", "windows", 40, 400]}),
    ],
)
def test_inputs_are_named_with_the_axes_that_grow(name, shapes):
    described = front_end_of(build_model(spec_of(name, width=1 / 32)))
    assert {given["name"]: given["shape"] for given in described["inputs"]} == shapes
    assert ("logmel" in described) == ("logmel" in shapes)
    assert ("windows" in described) == (name == "LEAN")
    assert json.loads(json.dumps(described)) == described


def test_yamnets_front_end_is_shown():
    given = front_end_of(build_model(spec_of("YAMNet", width=1 / 32)))
    assert "zeros" in given["short_clips"]
    assert (given["logmel"]["centred"], given["logmel"]["fft_size"], given["logmel"]["patch_hop"]) == (False, 512, 48)
    assert given["logmel"]["level"] == "ln(mel + 0.001)"
