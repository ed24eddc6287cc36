"""Waveforms: tensors and arrays of any floating-point type are accepted, others refused with the remedy."""

import numpy as np
import pytest
import torch

from epanns.errors import ConfigError
from epanns.models.zoo import build_model

NAMES = ["Cnn6", "LeeNet11", "Wavegram_Logmel_Cnn14", "YAMNet", "LEAN"]


@pytest.mark.parametrize("name", NAMES)
def test_any_floating_point_waveform_gives_the_same_scores(name: str) -> None:
    model = build_model(name, width=0.1 if name == "YAMNet" else 1 / 32).eval()
    wave = np.random.default_rng(0).uniform(-1, 1, (2, 16_000)).astype(np.float16)
    waves = [wave, wave.astype("float32"), wave.astype("float64"), wave.astype(">f4"), np.asfortranarray(wave)]
    waves += [wave[::-1][::-1], *(torch.from_numpy(some) for some in waves[:3]), torch.from_numpy(wave).bfloat16()]
    with torch.no_grad():
        expected, *found = [model(some)["clipwise_output"] for some in waves]
    for some in found[:-1]:
        torch.testing.assert_close(some, expected, rtol=1e-5, atol=1e-6)
    assert found[-1].isfinite().all()


@pytest.mark.parametrize(
    ("waveform", "message"),
    [
        (np.zeros(16_000), r"shape \(16000,\): must be \(batch, samples\); give waveform\[None\] for one clip"),
        (torch.zeros(16_000), r"shape \(16000,\): must be \(batch, samples\); give waveform\[None\] for one clip"),
        (np.zeros((1, 16_000), "int16"), r"type int16: must be float in \[-1, 1\]; divide int16 by 32767"),
        (np.array(["a"]), r"type <U1: must be float in"),
        (
            np.zeros((1, 1, 16_000)),
            r"shape \(1, 1, 16000\): must be \(batch, samples\) with at least 1 clip and 1 samp",
        ),
        (np.zeros((0, 16_000)), r"shape \(0, 16000\): must be \(batch, samples\) with at least 1 clip and 1 sample"),
        ([0.0], r"type list: must be a tensor or a NumPy array; give torch.tensor\(waveform\)"),
    ],
)
def test_invalid_waveforms_are_refused_with_the_remedy(waveform: object, message: str) -> None:
    model = build_model("Cnn6", width=0.05).eval()
    with pytest.raises(ConfigError, match=f"^waveform of {message}"):
        model(waveform)
