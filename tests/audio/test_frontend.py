"""The log-mel front end against torchlibrosa's recorded values and against a plain DFT loop."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from epanns.audio.frontend import FrontEndSpec, LogMel, YamnetLogMel, mel_bank, stft_kernels
from epanns.errors import ConfigError
from epanns.models.zoo import ZOO
from tests.any_value import ANY_VALUE

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "logmel.npz")
SPECS = {
    "32k": ZOO["Cnn14"].front_end,
    "16k": ZOO["Cnn14_16k"].front_end,
    "8k": ZOO["Cnn14_8k"].front_end,
    "32k_mel128": ZOO["Cnn14_mel128"].front_end,
}
# Largest difference in dB where mel power is under 1e-6 of the clip's maximum. With 128 narrow filters torchlibrosa's
# own float32 values lie up to 0.13 dB from a float64 computation of the chirp, so 0.1 cannot be asked there.
QUIET_TOLERANCE = {"32k": 0.1, "16k": 0.1, "8k": 0.1, "32k_mel128": 0.15}


@pytest.mark.parametrize("signal", ["noise", "chirp", "clicks", "silence"])
@pytest.mark.parametrize("setting", SPECS)
def test_logmel_equals_torchlibrosa(setting, signal):
    waveform = torch.from_numpy(GOLDEN[f"{setting}/{signal}/waveform"])[None]
    expected = GOLDEN[f"{setting}/{signal}/logmel"]
    logmel = LogMel(SPECS[setting]).eval()(waveform)[0, 0].numpy()
    difference = np.abs(logmel - expected)
    loud = expected > expected.max() - 60  # mel power above 1e-6 of the clip's maximum
    assert logmel.shape == expected.shape
    assert difference[loud].max() < 1e-3
    assert difference.max() < QUIET_TOLERANCE[setting]


@pytest.mark.parametrize("signal", ["noise", "chirp", "clicks", "silence"])
def test_training_mode_differs_only_far_below_the_peak(signal):
    front_end = LogMel(SPECS["32k"])
    waveform = torch.from_numpy(GOLDEN[f"32k/{signal}/waveform"])[None]
    fast, exact = front_end.train()(waveform), front_end.eval()(waveform)
    loud = exact > exact.max() - 60
    assert fast.dtype == exact.dtype == torch.float32
    assert (fast - exact)[loud].abs().max() < 1e-3
    assert (fast - exact).abs().max() < 0.5


@pytest.mark.parametrize("training", [True, False])
def test_autocast_does_not_reach_the_front_end(training):
    front_end = LogMel(SPECS["32k"]).train(training)
    waveform = torch.from_numpy(GOLDEN["32k/noise/waveform"])[None]
    with torch.autocast("cpu", torch.bfloat16):
        logmel = front_end(waveform)
    assert torch.equal(logmel, front_end(waveform))


@pytest.mark.parametrize("setting", SPECS)
def test_mel_bank_equals_torchlibrosa(setting):
    expected = GOLDEN[f"{setting}/melW"]
    assert np.abs(mel_bank(SPECS[setting]).numpy() - expected).max() < 1e-5 * expected.max()


def test_stft_kernels_equal_torchlibrosa():
    real, imaginary = stft_kernels(SPECS["8k"])
    assert np.abs(real.numpy() - GOLDEN["8k/conv_real"]).max() < 1e-6
    assert np.abs(imaginary.numpy() - GOLDEN["8k/conv_imag"]).max() < 1e-6


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.float64, 1e-9)])
def test_logmel_equals_a_plain_dft(dtype, tolerance):
    spec = SPECS["8k"]
    waveform = np.random.default_rng(0).uniform(-1, 1, 1000)
    padded = np.pad(waveform, spec.window_size // 2, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(spec.window_size) / spec.window_size)
    rows = []
    for frame in range(spec.frames(len(waveform))):
        piece = padded[frame * spec.hop_size :][: spec.window_size] * window
        power = [
            abs(sum(piece * np.exp(-2j * np.pi * k * np.arange(spec.window_size) / spec.window_size))) ** 2
            for k in range(spec.frequency_bins)
        ]
        rows.append(10 * np.log10(np.maximum(np.array(power) @ mel_bank(spec).double().numpy(), 1e-10)))
    logmel = LogMel(spec).to(dtype)(torch.from_numpy(waveform).to(dtype)[None])[0, 0]
    assert logmel.dtype == dtype
    assert np.abs(logmel.numpy() - np.array(rows)).max() < tolerance


def test_silence_is_exactly_minus_100_db():
    assert torch.equal(LogMel(SPECS["32k"])(torch.zeros(1, 3200)), torch.full((1, 1, 11, 64), -100.0))


def test_logmel_holds_no_state():
    assert not LogMel(SPECS["16k"]).state_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hop_size": 0}, "hop_size=0: must be a whole number in"),
        ({"mel_bins": 64.0}, "mel_bins=64.0: must be a whole number in"),
        ({"sample_rate": True}, "sample_rate=True: must be a whole number in"),
        ({"fmax": 17_000}, "fmin=50, fmax=17000: must be 0 <= fmin < fmax <= 16000 Hz"),
        ({"fmin": "50"}, "fmin='50': must be a finite number >= 0, in Hz"),
    ],
)
def test_front_end_refuses_impossible_settings(change, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        replace(SPECS["32k"], **change)


def test_front_end_survives_json_and_names_every_wrong_key():
    spec = SPECS["16k"]
    assert FrontEndSpec.from_dict(spec.to_dict()) == spec
    values = {key: value for key, value in spec.to_dict().items() if key != "fmax"}
    with pytest.raises(ConfigError, match="unknown key 'n_fft'; missing key 'fmax'"):
        FrontEndSpec.from_dict({**values, "n_fft": 512})


@given(
    st.dictionaries(st.sampled_from([*SPECS["16k"].to_dict(), "kind", "n_fft"]), ANY_VALUE) | ANY_VALUE, st.booleans()
)
def test_any_json_value_gives_a_front_end_or_one_config_error(values, completed):
    if completed and isinstance(values, dict):
        values = SPECS["16k"].to_dict() | values
    try:
        spec = FrontEndSpec.from_dict(values)
    except ConfigError as error:
        assert str(error).startswith("front end: ")
        assert "\n" not in str(error)
        return
    assert FrontEndSpec.from_dict(spec.to_dict()) == spec


def test_frames_count_the_centred_windows():
    assert SPECS["32k"].frames(320_000) == 1001
    assert LogMel(SPECS["32k"])(torch.zeros(1, 16_000)).shape[2] == SPECS["32k"].frames(16_000)


@pytest.mark.parametrize("name", ["Cnn6", "YAMNet"])
def test_nothing_is_computed_on_the_meta_device(name):
    spec = ZOO[name].front_end
    kind = YamnetLogMel if spec.is_yamnet else LogMel
    with torch.device("meta"):
        shapes = {key: (buffer.shape, buffer.dtype) for key, buffer in kind(spec).named_buffers()}
    assert shapes == {key: (buffer.shape, buffer.dtype) for key, buffer in kind(spec).named_buffers()}
    huge = FrontEndSpec(1_000_000, 65_536, 1, 1024, 0, 500_000)
    with torch.device("meta"):
        assert LogMel(huge).get_buffer("bank").is_meta
