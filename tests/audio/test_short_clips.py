import re

import pytest
import torch

from epanns.audio.short_clips import repeat_to_minimum
from epanns.errors import ConfigError


@pytest.mark.parametrize("samples", [1, 3, 99, 100, 101])
def test_short_waveforms_are_repeated_from_their_start(samples):
    waveform = torch.arange(samples, dtype=torch.float32)[None].expand(2, -1)
    repeated = repeat_to_minimum(waveform, 100)
    assert repeated.shape == (2, max(100, samples))
    assert all(repeated[0, index] == index % samples for index in range(repeated.shape[1]))


@pytest.mark.parametrize("shape", [(), (1, 0), (0, 200), (1, 1, 5)])
def test_waveforms_of_another_shape_are_refused(shape):
    rule = "must be (batch, samples) with at least 1 clip and 1 sample"
    with pytest.raises(ConfigError, match=re.escape(f"waveform of shape {shape}: {rule}")):
        repeat_to_minimum(torch.zeros(shape), 100)


def test_one_clip_without_a_batch_is_refused_with_the_remedy():
    with pytest.raises(
        ConfigError, match=re.escape("(5,): must be (batch, samples); give waveform[None] for one clip")
    ):
        repeat_to_minimum(torch.zeros(5), 100)


@pytest.mark.parametrize("waveform", [[0.0], None])
def test_an_object_that_is_no_tensor_is_refused_with_the_remedy(waveform):
    kind = type(waveform).__name__
    with pytest.raises(
        ConfigError, match=rf"waveform of type {kind}: must be a tensor or a NumPy array; give torch.ten"
    ):
        repeat_to_minimum(waveform, 100)


def test_an_integer_waveform_is_refused():
    with pytest.raises(ConfigError, match=re.escape("waveform of type torch.int16: must be float in [-1, 1]; divide")):
        repeat_to_minimum(torch.zeros(1, 200, dtype=torch.int16), 100)
