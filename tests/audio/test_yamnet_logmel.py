"""YAMNet's log-mel against its definition written a second time in NumPy, and against upstream's golden values."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from epanns.audio.frontend import SILENCE, FrontEndSpec, YamnetLogMel, count_patches, htk_mel_bank, patches_of
from epanns.audio.short_clips import pad_to_patches
from epanns.audio.waveform import load_waveform
from epanns.errors import ConfigError
from epanns.models.zoo import ZOO

SPEC = ZOO["YAMNet"].front_end


def numpy_bank() -> np.ndarray:
    """`tf.signal.linear_to_mel_weight_matrix(64, 257, 16000, 125, 7500)`, triangle by triangle."""

    def mel(hertz: float) -> float:
        return 1127 * math.log(1 + hertz / 700)

    step = (mel(7500) - mel(125)) / 65
    bank = np.zeros((257, 64))
    for band in range(64):
        lower, centre, upper = (mel(125) + (band + edge) * step for edge in range(3))
        for k in range(1, 257):
            place = mel(k * 8000 / 256)
            bank[k, band] = max(0, min((place - lower) / (centre - lower), (upper - place) / (upper - centre)))
    return bank


def numpy_logmel(waveform: np.ndarray) -> np.ndarray:
    """TensorFlow's frames, window, transform and logarithm in float64: window and clip begin together."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    starts = range(0, len(waveform) - 399, 160)
    spectra = [np.abs(np.fft.rfft(waveform[start : start + 400] * window, n=512)) for start in starts]
    return np.log(np.array(spectra) @ numpy_bank() + 0.001)


def signals() -> dict[str, np.ndarray]:
    time = np.arange(20_000) / 16_000
    rng = np.random.default_rng(0)
    clicks = np.zeros(20_000)
    clicks[[0, 399, 400, 7_000, 19_999]] = 1
    return {
        "noise": rng.uniform(-1, 1, 20_000),
        "quiet noise": rng.uniform(-1e-4, 1e-4, 20_000),
        "chirp": 0.5 * np.sin(2 * np.pi * (50 + 3000 * time) * time),
        "clicks": clicks,
    }


@pytest.mark.parametrize("name", signals())
def test_logmel_equals_numpys(name):
    waveform = signals()[name].astype(np.float32)
    expected = numpy_logmel(waveform.astype(np.float64))
    exact = YamnetLogMel(SPEC).eval()(torch.from_numpy(waveform)[None])[0].numpy()
    assert exact.shape == expected.shape == (1 + (20_000 - 400) // 160, 64)
    assert np.abs(exact - expected).max() < 1e-4
    fast = YamnetLogMel(SPEC).train()(torch.from_numpy(waveform)[None])[0].numpy()
    assert np.abs(fast - expected)[expected > -4].max(initial=0) < 1e-3


def test_real_sound_equals_numpys(shared):
    for path in sorted((shared / "data" / "esc10").rglob("*.ogg"))[::57]:
        waveform = load_waveform(path, sample_rate=16_000).samples
        logmel = YamnetLogMel(SPEC).eval()(torch.from_numpy(waveform)[None])[0].numpy()
        assert np.abs(logmel - numpy_logmel(waveform.astype(np.float64))).max() < 1e-4


def test_mel_bank_is_tensorflows():
    bank = htk_mel_bank(SPEC)
    assert np.abs(bank.numpy() - numpy_bank()).max() < 1e-6
    assert bank.max() <= 1
    assert not bank[0].any()


@pytest.mark.parametrize(
    ("waveform", "mean"),
    [
        (np.zeros(48_000), -6.9078),
        (np.sin(2 * np.pi * 440 * np.arange(0, 3, 1 / 16_000)), -4.5605),
        (np.random.RandomState(51773).uniform(-1, 1, 48_000), 2.8412),
    ],
    ids=["silence", "sine", "noise"],
)
def test_means_of_three_seconds_are_the_recorded_ones(waveform, mean):
    logmel = YamnetLogMel(SPEC).eval()(torch.from_numpy(waveform).float()[None])
    assert logmel.shape == (1, 298, 64)
    assert float(logmel.mean()) == pytest.approx(mean, abs=6e-5)


def test_silence_is_the_lowest_value():
    logmel = YamnetLogMel(SPEC)(torch.zeros(1, 800))
    assert torch.allclose(logmel, torch.tensor(SILENCE))
    assert not YamnetLogMel(SPEC).state_dict()


@pytest.mark.parametrize("training", [True, False])
def test_autocast_does_not_reach_the_front_end(training):
    front_end = YamnetLogMel(SPEC).train(training)
    waveform = torch.rand(1, 2_000) - 0.5
    with torch.autocast("cpu", torch.bfloat16):
        logmel = front_end(waveform)
    assert torch.equal(logmel, front_end(waveform))


@pytest.mark.parametrize(
    ("samples", "patches"), [(1, 1), (15_600, 1), (15_601, 2), (16_000, 2), (23_280, 2), (48_000, 6), (80_000, 10)]
)
def test_clips_are_padded_to_whole_patches(samples, patches):
    padded = pad_to_patches(torch.ones(2, samples), SPEC)
    assert padded.shape == (2, 15_600 + (patches - 1) * 7_680)
    assert padded.sum() == 2 * samples
    logmel = YamnetLogMel(SPEC)(padded)[:, None]
    assert logmel.shape[2] == SPEC.frames(samples)
    assert len(patches_of(logmel)) == 2 * patches == 2 * count_patches(logmel.shape[2])


@given(samples=st.integers(1, 200_000))
def test_patches_cover_every_sample_and_are_no_more_than_needed(samples):
    covered = (SPEC.frames(samples) - 1) * 160 + 400
    assert covered >= samples
    assert count_patches(SPEC.frames(samples)) == 1 or covered - 7_680 < samples


def test_patches_overlap_by_half_and_stay_in_order():
    logmel = torch.randn(3, 1, 96 + 2 * 48, 64)
    patches = patches_of(logmel)
    for clip in range(3):
        for number in range(3):
            assert torch.equal(patches[3 * clip + number, 0], logmel[clip, 0, 48 * number : 48 * number + 96])


def test_the_kind_is_left_out_of_json_at_its_default():
    assert "kind" not in ZOO["Cnn14"].front_end.to_dict()
    assert SPEC.to_dict()["kind"] == "yamnet"
    for spec in (SPEC, ZOO["Cnn14_16k"].front_end):
        assert FrontEndSpec.from_dict(spec.to_dict()) == spec


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "yamnt"}, "kind='yamnt' (did you mean 'yamnet'?): must be one of panns, yamnet"),
        ({"kind": None}, "kind=None: must be one of panns, yamnet"),
        ({"hop_size": 320}, "window_size=400, hop_size=320: must be YAMNet's 25 and 10 ms at sample_rate=16000"),
        (
            {"sample_rate": 32_000},
            "window_size=400, hop_size=160: must be YAMNet's 25 and 10 ms at sample_rate=32000",
        ),
    ],
)
def test_settings_that_are_not_yamnets_are_refused(change, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        replace(SPEC, **change)
