"""Criteria: closed forms, reference implementations, invariance to scale and permutation."""

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st

from epanns.errors import PruningError
from epanns.pruning.ranking.channel_orders import ReadMoments, elimination_order, medoid_order, pivot_order
from epanns.pruning.ranking.criteria import (
    CRITERIA,
    NEEDS,
    LayerFilters,
    activation,
    criterion_named,
    elimination,
    folding,
    interpolative,
    most_important,
    taylor,
)

WEIGHT = torch.randn(12, 5, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
SCALE = torch.randn(12, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
FROM_WEIGHTS = [name for name, needs in NEEDS.items() if needs == "weights"]
ORDER = torch.randperm(12, generator=torch.Generator().manual_seed(4))
NOTHING = torch.zeros(0)


def moments(covariance, gram):
    return ReadMoments(covariance, gram, torch.zeros(len(gram), dtype=torch.float64))


def scores(name, weight=WEIGHT, layer="conv_block1.conv1", seed=0, scale=SCALE):
    return CRITERIA[name](LayerFilters(layer, weight, seed, scale))


@pytest.mark.parametrize("name", FROM_WEIGHTS)
def test_every_criterion_returns_one_float64_score_per_filter(name):
    assert scores(name).shape == (12,)
    assert scores(name).dtype == torch.float64


@pytest.mark.parametrize(("name", "order"), [("l1", 1), ("l2", 2)])
def test_norms_equal_numpy(name, order):
    expected = [np.linalg.norm(filter.numpy().ravel(), ord=order) for filter in WEIGHT]
    np.testing.assert_allclose(scores(name).numpy(), expected, rtol=1e-14)


@pytest.mark.parametrize("name", ["l1", "l2"])
def test_norms_scale_with_the_weights(name):
    torch.testing.assert_close(scores(name, 2.5 * WEIGHT), 2.5 * scores(name), rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", sorted(set(FROM_WEIGHTS) - {"opnorm", "random"}))
def test_criteria_follow_a_permutation_of_the_filters(name):
    torch.testing.assert_close(scores(name, WEIGHT[ORDER], scale=SCALE[ORDER]), scores(name)[ORDER])


@pytest.mark.parametrize("name", sorted(set(FROM_WEIGHTS) - {"random"}))
def test_the_ranking_is_invariant_to_the_scale_of_the_weights(name):
    assert torch.equal(scores(name, 7.5 * WEIGHT, scale=7.5 * SCALE).argsort(), scores(name).argsort())


@pytest.mark.parametrize("name", sorted(FROM_WEIGHTS))
@pytest.mark.parametrize("shape", [(6, 1, 3, 3), (6, 4, 1, 1), (6, 4)], ids=["one input", "1x1", "linear"])
def test_scores_are_finite_for_every_weight_shape_and_for_zero_weights(name, shape):
    for weight in (torch.randn(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)):
        assert bool(scores(name, weight, scale=SCALE[:6]).isfinite().all())


@pytest.mark.parametrize("name", sorted(set(FROM_WEIGHTS) - {"opnorm", "bn", "random"}))
def test_a_filter_of_zeros_has_the_lowest_score(name):
    weight = WEIGHT + 0.3 * WEIGHT.mean(dim=0)
    weight[7] = 0
    assert int(scores(name, weight).argmin()) == 7


def slow_operator_norm(weight, *, with_signs):
    """Return the operator norm of the released scripts: one singular value decomposition per input channel."""
    total = np.zeros(len(weight))
    for channel in range(weight.shape[1]):
        kernels = weight[:, channel].reshape(len(weight), -1).numpy()
        centred = kernels - kernels.mean(axis=0)
        left, _, right = np.linalg.svd(centred, full_matrices=False)
        projection = centred @ (np.sign(left[0, 0]) * right[0])
        total += projection if with_signs else projection**2
    return total**2 / np.max(total**2) if with_signs else total


@pytest.mark.parametrize("name", ["opnorm", "opnorm_invariant"])
def test_operator_norms_equal_those_of_a_singular_value_decomposition(name):
    expected = slow_operator_norm(WEIGHT, with_signs=name == "opnorm")
    np.testing.assert_allclose(scores(name).numpy(), expected, rtol=1e-9)


def test_the_released_operator_norm_depends_on_the_order_of_the_filters():
    """A defect of the published method, which `opnorm_invariant` does not have."""
    weight = torch.randn(64, 64, 3, 3, dtype=torch.float64)
    for shift in range(5):
        assert int(scores("opnorm", weight.roll(shift, dims=0)).argmax()) == 0
    kept = [set(scores("opnorm", weight[order]).topk(32).indices.tolist()) for order in (range(64), ORDER_OF_64)]
    in_old_numbers = {int(ORDER_OF_64[index]) for index in kept[1]}
    assert len(kept[0] & in_old_numbers) < 26  # of 32; a random choice gives 16


ORDER_OF_64 = torch.randperm(64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("rows_at_once", [1, 5, 12, 256])
def test_fpgm_is_the_sum_of_distances_to_all_other_filters(monkeypatch, rows_at_once):
    monkeypatch.setattr("epanns.pruning.ranking.criteria._ROWS_AT_ONCE", rows_at_once)
    flat = WEIGHT.flatten(1).numpy()
    expected = [sum(np.linalg.norm(one - other) for other in flat) for one in flat]
    np.testing.assert_allclose(scores("fpgm").numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("factor", [1.0, -0.9, 0.5])
def test_cosine_ranks_the_weaker_of_two_parallel_filters_lowest(factor):
    weight = WEIGHT.clone()
    weight[7] = 0.99 * factor * weight[2]
    assert int(scores("cosine", weight).argmin()) == 7
    assert sorted(scores("cosine", weight).tolist()) == sorted([*range(11), 11])


def test_centrality_is_the_negative_sum_of_cosines_in_closed_form():
    shapes = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]], dtype=torch.float64)
    weight = torch.einsum("nt,c->nct", shapes, torch.tensor([1.0, -2.0], dtype=torch.float64))
    expected = [-1 / 3**0.5] * 3 + [-3 / 3**0.5]
    np.testing.assert_allclose(scores("centrality", weight, scale=None).numpy(), expected, rtol=1e-12)


def test_bn_is_the_absolute_scale_of_the_batch_norm_and_is_refused_without_one():
    assert torch.equal(scores("bn"), SCALE.abs())
    with pytest.raises(
        PruningError,
        match=r"conv_block1\.conv1: no batch norm with a scale follows it, so criterion 'bn'",
    ):
        scores("bn", scale=None)


def test_random_scores_depend_only_on_seed_and_layer():
    assert torch.equal(scores("random"), scores("random", WEIGHT * 3))
    assert not torch.equal(scores("random"), scores("random", seed=1))
    assert not torch.equal(scores("random"), scores("random", layer="conv_block1.conv2"))


def test_random_scores_do_not_advance_the_global_generator():
    before = torch.get_rng_state()
    scores("random")
    assert torch.equal(torch.get_rng_state(), before)


def test_kept_channels_are_the_most_important_in_ascending_order():
    assert most_important(torch.tensor([3.0, 9.0, 1.0, 5.0]), 2, layer="conv9") == (1, 3)


def test_ties_keep_the_lower_index():
    assert most_important(torch.ones(1000, dtype=torch.float64), 300, layer="conv9") == tuple(range(300))
    assert most_important(torch.tensor([1.0, 2.0, 1.0, 2.0, 1.0]), 3, layer="conv9") == (0, 1, 3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_infinite_or_nan_importance_is_refused_with_layer_and_filter(value):
    with pytest.raises(PruningError, match=rf"conv9: filter 1 has importance {value}; its weights are damaged"):
        most_important(torch.tensor([1.0, value]), 1, layer="conv9")


def test_every_criterion_declares_weights_activations_or_gradients():
    assert NEEDS.keys() == CRITERIA.keys()
    assert set(NEEDS.values()) == {"weights", "activations", "gradients"}


def test_an_unknown_criterion_is_refused_with_the_nearest_name():
    with pytest.raises(
        PruningError, match=r"unknown criterion 'randon' \(did you mean 'random'\?\): choose one of l1,"
    ):
        criterion_named("randon")


def filters(covariance=None, gradient=None):
    """Return filters whose channels one reader of orthogonal unit weights reads."""
    readers = None if covariance is None else [moments(covariance, torch.eye(len(covariance), dtype=torch.float64))]
    return LayerFilters("conv9", NOTHING, 0, None, readers, gradient)


def activations(rows, columns, seed):
    generator = torch.Generator().manual_seed(seed)
    scales = torch.rand(columns, generator=generator, dtype=torch.float64) + 0.1
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64) * scales


def test_taylor_is_the_measured_gate_gradient():
    gradient = torch.tensor([0.5, 0.0, 2.0], dtype=torch.float64)
    assert torch.equal(taylor(filters(gradient=gradient)), gradient)


def test_activation_is_the_diagonal_of_the_covariance():
    covariance = torch.tensor([[4.0, 9.0], [9.0, 0.25]], dtype=torch.float64)
    assert activation(filters(covariance)).tolist() == [4.0, 0.25]


@given(rows=st.integers(12, 40), columns=st.integers(1, 12), seed=st.integers(0, 2**31))
def test_pivots_equal_those_of_lapack(rows, columns, seed):
    stored = activations(rows, columns, seed)
    expected = scipy.linalg.qr(stored.numpy(), mode="r", pivoting=True)[1]
    np.testing.assert_array_equal(pivot_order(stored.T @ stored).numpy(), expected)


@pytest.mark.parametrize("criterion", [activation, interpolative, folding, elimination])
def test_measured_scores_are_equivariant_to_permutation_and_their_order_invariant_to_scale(criterion):
    stored = activations(50, 9, seed=1)
    covariance, order = stored.T @ stored, torch.randperm(9)
    scores = criterion(filters(covariance))
    torch.testing.assert_close(criterion(filters(covariance[order][:, order])), scores[order])
    assert torch.equal(criterion(filters(9 * covariance)).argsort(), scores.argsort())


def test_interpolative_ranks_a_copy_below_a_weaker_independent_channel():
    """Channel 2 is twice channel 0, so channel 0 adds nothing; the weak channel 1 is independent of both."""
    stored = activations(100, 3, seed=2) * torch.tensor([1.0, 0.01, 1.0], dtype=torch.float64)
    stored[:, 2] = 2 * stored[:, 0]
    assert interpolative(filters(stored.T @ stored)).tolist() == [0.0, 1.0, 2.0]
    assert activation(filters(stored.T @ stored)).argsort().tolist() == [1, 0, 2]


def test_linearly_dependent_channels_come_last_by_variance():
    single = torch.tensor([[1.0, 3.0, 0.0, 2.0]], dtype=torch.float64)
    assert pivot_order(single.T @ single).tolist() == [1, 3, 0, 2]
    assert pivot_order(torch.zeros(3, 3, dtype=torch.float64)).tolist() == [0, 1, 2]


@given(channels=st.integers(1, 7), seed=st.integers(0, 2**31))
def test_folding_selects_the_channel_that_explains_most_beside_the_selected_ones(channels, seed):
    stored = activations(30, channels, seed) + 0.2
    gram = (stored.T @ stored).numpy()

    def explained(medoids):
        return sum(max(gram[m, j] ** 2 / gram[m, m] for m in medoids) for j in range(channels))

    chosen = []
    for channel in medoid_order(torch.from_numpy(gram)).tolist():
        totals = {other: explained([*chosen, other]) for other in range(channels) if other not in chosen}
        assert totals[channel] == pytest.approx(max(totals.values()), rel=1e-9)
        chosen.append(channel)
    assert sorted(chosen) == list(range(channels))


def test_folding_selects_one_channel_of_each_cluster_first():
    sources = activations(200, 3, seed=4)
    stored = torch.cat([sources * factor for factor in (1.0, 1.5, 0.5)], dim=1)
    assert {channel % 3 for channel in medoid_order(stored.T @ stored)[:3].tolist()} == {0, 1, 2}
    assert medoid_order(torch.zeros(3, 3, dtype=torch.float64)).tolist() == [0, 1, 2]


def error_after_refit(covariance, weight, kept, ridge):
    """Return the smallest squared error of a reader's outputs with some channels, by normal equations."""
    covariance = covariance + ridge * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=torch.float64)
    cross = covariance[kept] @ weight
    total = (weight * (covariance @ weight)).sum()
    return float(total - (cross * torch.linalg.solve(covariance[kept][:, kept], cross)).sum())


@given(channels=st.integers(2, 7), n_readers=st.integers(1, 3), seed=st.integers(0, 2**31))
def test_elimination_removes_the_channel_whose_loss_costs_least_after_a_refit(channels, n_readers, seed):
    readers, known = [], []
    for number in range(n_readers):
        stored = activations(30, channels, seed + number) @ activations(channels, channels, seed + number + 10)
        weight = activations(channels, 4, seed + number + 20)
        known.append((stored.T @ stored / 30, weight))
        readers.append(moments(known[-1][0], weight @ weight.T))
    kept = list(range(channels))
    for removed in elimination_order(readers, 1e-3).tolist()[:-1]:
        errors = {
            channel: sum(error_after_refit(*reader, [k for k in kept if k != channel], 1e-3) for reader in known)
            for channel in kept
        }
        assert errors[removed] == pytest.approx(min(errors.values()), rel=1e-6, abs=1e-9)
        kept.remove(removed)


def test_elimination_of_equal_channels_keeps_the_lower_index():
    assert elimination_order([moments(torch.eye(4).double(), torch.eye(4).double())], 1e-3).tolist() == [3, 2, 1, 0]
    nothing = torch.zeros(3, 3, dtype=torch.float64)
    assert elimination_order([moments(nothing, nothing)], 1e-3).tolist() == [2, 1, 0]


def test_elimination_keeps_a_channel_that_no_other_replaces():
    """Channels 0 and 1 are strong copies, channel 2 is weak and alone: a copy goes first, then the weak channel."""
    stored = activations(100, 3, seed=2) * torch.tensor([1.0, 1.0, 0.1], dtype=torch.float64)
    stored[:, 1] = 1.5 * stored[:, 0]
    assert elimination(filters(stored.T @ stored)).tolist() == [0.0, 2.0, 1.0]


@pytest.mark.parametrize("criterion", [taylor, activation, interpolative, folding, elimination])
def test_a_criterion_without_its_measurement_is_refused(criterion):
    with pytest.raises(
        PruningError, match=rf"conv9: criterion '{criterion.__name__}' measures sound: give clips \(--calibration PACK"
    ):
        criterion(filters())
