import numpy as np
import pytest
import torch

from epanns.errors import PruningError
from epanns.pruning.criteria import CRITERIA, LayerFilters, criterion_named, most_important

WEIGHT = torch.randn(12, 5, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def scores(name, weight=WEIGHT, layer="conv_block1.conv1", seed=0):
    return CRITERIA[name](LayerFilters(layer, weight, seed))


@pytest.mark.parametrize("name", CRITERIA)
def test_every_criterion_gives_one_float64_per_filter(name):
    assert scores(name).shape == (12,)
    assert scores(name).dtype == torch.float64


@pytest.mark.parametrize(("name", "order"), [("l1", 1), ("l2", 2)])
def test_norms_equal_numpys(name, order):
    expected = [np.linalg.norm(filter.numpy().ravel(), ord=order) for filter in WEIGHT]
    np.testing.assert_allclose(scores(name).numpy(), expected, rtol=1e-14)


@pytest.mark.parametrize("name", ["l1", "l2"])
def test_norms_follow_a_permutation_and_scale_with_the_weights(name):
    order = torch.randperm(12, generator=torch.Generator().manual_seed(4))
    assert torch.equal(scores(name, WEIGHT[order]), scores(name)[order])
    torch.testing.assert_close(scores(name, 2.5 * WEIGHT), 2.5 * scores(name), rtol=1e-14, atol=0)


def test_random_depends_on_seed_and_layer_alone():
    assert torch.equal(scores("random"), scores("random", WEIGHT * 3))
    assert not torch.equal(scores("random"), scores("random", seed=1))
    assert not torch.equal(scores("random"), scores("random", layer="conv_block1.conv2"))


def test_random_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    scores("random")
    assert torch.equal(torch.get_rng_state(), before)


def test_the_most_important_are_kept_in_ascending_order():
    assert most_important(torch.tensor([3.0, 9.0, 1.0, 5.0]), 2, layer="conv9") == (1, 3)


def test_of_equal_filters_the_lower_index_stays():
    assert most_important(torch.ones(1000, dtype=torch.float64), 300, layer="conv9") == tuple(range(300))
    assert most_important(torch.tensor([1.0, 2.0, 1.0, 2.0, 1.0]), 3, layer="conv9") == (0, 1, 3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_importance_that_is_not_finite_names_layer_and_filter(value):
    with pytest.raises(PruningError, match=rf"conv9: filter 1 has importance {value}; its weights are damaged"):
        most_important(torch.tensor([1.0, value]), 1, layer="conv9")


def test_an_unknown_criterion_is_refused_with_the_nearest_name():
    with pytest.raises(
        PruningError, match=r"unknown criterion 'randon' \(did you mean 'random'\?\): choose one of l1,"
    ):
        criterion_named("randon")
