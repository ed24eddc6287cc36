"""SpecAugment masks the stripes that torchaudio masks from the same generator."""

import pytest
import torch

from epanns.audio.frontend import torchaudio_problem
from epanns.audio.specaugment import SpecAugmenter


def test_masks_equal_torchaudios_bit_by_bit():
    if torchaudio_problem():
        pytest.skip(f"torchaudio: {torchaudio_problem()}")
    from torchaudio.functional import mask_along_axis_iid

    for shape, time_width, mel_width in (
        ((5, 1, 301, 64), 64, 8),
        ((1, 1, 40, 32), 20, 4),
        ((17, 1, 1001, 128), 64, 16),
    ):
        logmel = torch.randn(shape)
        torch.manual_seed(1)
        expected = logmel
        for axis, width in ((2, time_width), (2, time_width), (3, mel_width), (3, mel_width)):
            expected = mask_along_axis_iid(expected, width, 0.0, axis=axis)
        torch.manual_seed(1)
        masked = SpecAugmenter(mel_width=mel_width).train()(logmel)
        assert torch.equal(masked, expected)
        assert (masked == 0).any()


def test_evaluation_mode_masks_nothing():
    logmel = torch.randn(2, 1, 100, 64)
    assert SpecAugmenter().eval()(logmel) is logmel
