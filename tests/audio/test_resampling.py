import numpy as np
import pytest
import soxr
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from epanns.audio.resampling import resample, to_int16
from epanns.data.batches.dataset import ClipBatch


def test_equal_rates_leave_the_samples_alone():
    samples = np.zeros(100, np.float32)
    (block,) = resample(iter([samples]), 8_000, 8_000)
    assert block is samples


@pytest.mark.parametrize("rates", [(44_100, 32_000), (48_000, 8_000), (8_000, 32_000), (12_345, 16_000)])
@given(n_samples=st.integers(0, 3_000), sizes=st.lists(st.integers(1, 900), min_size=1))
def test_resampled_blocks_equal_soxr_of_the_whole(rates, n_samples, sizes):
    """The slow twin: all samples in one call."""
    whole = np.random.default_rng(0).uniform(-1, 1, n_samples).astype(np.float32)
    ends = np.cumsum(sizes * (n_samples // sum(sizes) + 1))
    blocks = np.split(whole, ends[ends < n_samples])
    expected = soxr.resample(whole, *rates, quality="HQ")
    np.testing.assert_array_equal(np.concatenate(list(resample(iter(blocks), *rates))), expected)


def as_read(samples):
    """The input of a network for int16 samples: the inverse of `to_int16`."""
    waveform = torch.from_numpy(samples)[None]
    nothing = torch.zeros(1)
    return ClipBatch(("a",), waveform, nothing, nothing).float_waveform()[0].numpy()


@given(arrays.arrays(np.float32, st.integers(1, 50), elements=st.floats(-1, 1, width=32)))
def test_int16_and_back_is_within_half_a_step(samples):
    assert np.abs(as_read(to_int16(samples)) - samples).max() <= 0.5 / 32_767 + 1e-7


@given(st.integers(-32_767, 32_767))
def test_int16_survives_the_round_trip(value):
    assert to_int16(as_read(np.array([value], np.int16))).tolist() == [value]
