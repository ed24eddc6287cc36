"""Criteria on what was measured: known answers, scale, permutation, and LAPACK's pivoted QR."""

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st

from epanns.errors import PruningError
from epanns.pruning.ranking.criteria import LayerFilters, activation, interpolative, pivot_order, taylor

NOTHING = torch.zeros(0)


def filters(covariance=None, gradient=None):
    return LayerFilters("conv9", NOTHING, 0, None, covariance, gradient)


def activations(rows, columns, seed):
    generator = torch.Generator().manual_seed(seed)
    scales = torch.rand(columns, generator=generator, dtype=torch.float64) + 0.1
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64) * scales


def test_taylor_is_the_mean_squared_gate_gradient():
    gradient = torch.tensor([0.5, 0.0, 2.0], dtype=torch.float64)
    assert torch.equal(taylor(filters(gradient=gradient)), gradient)


def test_activation_is_the_diagonal():
    covariance = torch.tensor([[4.0, 9.0], [9.0, 0.25]], dtype=torch.float64)
    assert activation(filters(covariance)).tolist() == [4.0, 0.25]


@given(rows=st.integers(12, 40), columns=st.integers(1, 12), seed=st.integers(0, 2**31))
def test_pivots_are_lapacks(rows, columns, seed):
    stored = activations(rows, columns, seed)
    expected = scipy.linalg.qr(stored.numpy(), mode="r", pivoting=True)[1]
    np.testing.assert_array_equal(pivot_order(stored.T @ stored).numpy(), expected)


@pytest.mark.parametrize("criterion", [activation, interpolative])
def test_scores_follow_a_permutation_and_keep_their_order_when_everything_grows(criterion):
    stored = activations(50, 9, seed=1)
    covariance, order = stored.T @ stored, torch.randperm(9)
    scores = criterion(filters(covariance))
    torch.testing.assert_close(criterion(filters(covariance[order][:, order])), scores[order])
    assert torch.equal(criterion(filters(9 * covariance)).argsort(), scores.argsort())


def test_interpolative_ranks_a_copy_below_a_weaker_channel_of_its_own():
    """Channel 2 is twice channel 0: after it, nothing is left of channel 0, so the weak channel 1 comes before."""
    stored = activations(100, 3, seed=2) * torch.tensor([1.0, 0.01, 1.0], dtype=torch.float64)
    stored[:, 2] = 2 * stored[:, 0]
    assert interpolative(filters(stored.T @ stored)).tolist() == [0.0, 1.0, 2.0]
    assert activation(filters(stored.T @ stored)).argsort().tolist() == [1, 0, 2]


def test_channels_without_anything_left_come_last_by_variance():
    single = torch.tensor([[1.0, 3.0, 0.0, 2.0]], dtype=torch.float64)
    assert pivot_order(single.T @ single).tolist() == [1, 3, 0, 2]
    assert pivot_order(torch.zeros(3, 3, dtype=torch.float64)).tolist() == [0, 1, 2]


@pytest.mark.parametrize("criterion", [taylor, activation, interpolative])
def test_a_criterion_without_its_measurement_says_what_to_give(criterion):
    with pytest.raises(
        PruningError, match=rf"conv9: criterion '{criterion.__name__}' measures sound: give clips \(--calibration PACK"
    ):
        criterion(filters())
