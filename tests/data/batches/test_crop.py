import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epanns.data.batches.crop import Crop
from epanns.errors import ConfigError

RATE = 100
places = st.sampled_from(["random", "start", "center"])


def filled(crop, n_samples, number=0):
    """Crop the clip 1, 2, 3, ...; return the window and the number of its samples that are not padding."""
    out = np.full(crop.samples(RATE), -1, np.int16)
    sound = crop.fill(out, np.arange(1, n_samples + 1, dtype=np.int16), number)
    return out, sound


@given(places, st.integers(1, 50), st.integers(0, 60), st.integers(0, 2**40))
def test_a_window_is_a_contiguous_part_of_the_clip(where, window, spare, number):
    out, sound = filled(Crop(window / RATE, where), window + spare, number)
    assert out.tolist() == list(range(out[0], out[0] + window))
    assert 1 <= out[0] <= spare + 1
    assert sound == window


@given(places, st.integers(1, 50), st.integers(1, 50), st.integers(0, 99))
def test_a_short_clip_is_padded_or_repeated_from_its_start(where, n_samples, more, number):
    window = (n_samples + more) / RATE
    padded, sound = filled(Crop(window, where, "pad"), n_samples, number)
    assert padded.tolist() == [*range(1, n_samples + 1), *[0] * more]
    assert sound == n_samples
    repeated, sound = filled(Crop(window, where, "repeat"), n_samples, number)
    assert repeated.tolist() == [index % n_samples + 1 for index in range(n_samples + more)]
    assert sound == n_samples + more


def test_places_of_windows():
    assert filled(Crop(0.04, "start"), 10)[0].tolist() == [1, 2, 3, 4]
    assert filled(Crop(0.04, "center"), 10)[0].tolist() == [4, 5, 6, 7]
    starts = [int(filled(Crop(0.04, seed=1), 10, number)[0][0]) for number in range(7_000)]
    assert starts == [int(filled(Crop(0.04, seed=1), 10, number)[0][0]) for number in range(7_000)]
    assert starts != [int(filled(Crop(0.04, seed=2), 10, number)[0][0]) for number in range(7_000)]
    counts = np.bincount(starts)[1:]
    assert len(counts) == 7
    assert np.abs(counts - 1_000).max() < 150  # five standard deviations of a uniform draw


def test_a_crop_without_a_length_takes_the_rows():
    assert Crop(None, short="repeat").samples(RATE) is None
    assert Crop(0.01).samples(8) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seconds": 0.001}, "crop of 0.001 s: must be a length in seconds, 0.01 to 3600"),
        ({"seconds": float("nan")}, "crop of nan s: must be a length"),
        ({"seconds": 1, "where": "centre"}, "crop where='centre' (did you mean 'center'?): must be one of random, st"),
        ({"seconds": 1, "short": "tile"}, "crop short='tile': must be one of pad, repeat"),
    ],
)
def test_impossible_crops_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        Crop(**arguments)
