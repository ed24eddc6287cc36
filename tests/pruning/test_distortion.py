"""Allocation by distortion: the exact minimum of pairwise sums, the measured table, and the widths that it gives."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from epanns.complexity.width_cost import WidthCost
from epanns.errors import PruningError
from epanns.models.zoo import ZOO, build_model
from epanns.pruning.budgets.allocators import allocator_named
from epanns.pruning.budgets.budget import Budget
from epanns.pruning.budgets.distortion import ByDistortion, divergence, measure_distortions
from epanns.pruning.budgets.pairwise_minimum import PairwiseSum
from epanns.pruning.budgets.widths_for_budget import WidthSearch
from epanns.pruning.config import PruningConfig
from epanns.pruning.prune import plan_and_cost, prune
from epanns.pruning.ranking.importance import channel_importance

NOTHING = torch.zeros(0)


def random_sum(sizes, seed, density):
    generator = np.random.default_rng(seed)
    single = [generator.normal(size=size) for size in sizes]
    pairs = {
        (i, j): generator.normal(size=(sizes[i], sizes[j]))
        for i, j in itertools.combinations(range(len(sizes)), 2)
        if generator.random() < density
    }
    return PairwiseSum(single, pairs)


def value(terms, levels):
    single = sum(own[level] for own, level in zip(terms.single, levels, strict=True))
    return single + sum(own[levels[i], levels[j]] for (i, j), own in terms.pairs.items())


@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    seed=st.integers(0, 2**31),
    density=st.sampled_from([0.0, 0.4, 1.0]),
)
def test_the_minimum_is_that_of_all_choices(sizes, seed, density):
    terms = random_sum(sizes, seed, density)
    every = itertools.product(*(range(size) for size in sizes))
    assert value(terms, terms.minimum()) == pytest.approx(min(value(terms, levels) for levels in every))


@given(sizes=st.lists(st.integers(2, 4), min_size=2, max_size=4), seed=st.integers(0, 2**31))
def test_a_function_is_decomposed_into_its_terms_up_to_a_constant(sizes, seed):
    terms = random_sum(sizes, seed, 0.5)
    found = PairwiseSum.of(lambda levels: np.array([value(terms, row) for row in levels]), sizes)
    every = np.array(list(itertools.product(*(range(size) for size in sizes))))
    differences = [value(terms, row) - value(found, row) for row in every]
    np.testing.assert_allclose(differences, differences[0], atol=1e-9)
    assert set(found.pairs) <= set(terms.pairs)


@pytest.mark.parametrize("name", ["Cnn14", "YAMNet", "ResNet22", "MobileNetV2", "Res1dNet31", "mn01", "mn10"])
@pytest.mark.parametrize("kind", ["macs", "params", "bytes", "int8_bytes"])
def test_costs_of_every_family_are_sums_of_terms_of_two_layers(name, kind):
    spec = ZOO[name].scaled(1 / 16)
    formula = WidthCost(spec)
    options = [sorted({max(1, width // 2), width}) for width in spec.widths.values()]

    def cost(places):
        return formula.evaluate(
            kind, np.stack([np.array(own)[places[:, layer]] for layer, own in enumerate(options)], axis=1)
        )

    sizes = [len(own) for own in options]
    terms = PairwiseSum.of(cost, sizes)
    choices = np.random.default_rng(0).integers(0, sizes, size=(20, len(sizes)))
    least = cost(np.zeros((1, len(sizes)), np.int64))[0]
    np.testing.assert_allclose([value(terms, row) + least for row in choices], cost(choices), rtol=1e-12)


LAYERS = ("a", "b", "c", "d")


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    widths=st.lists(st.integers(2, 5), min_size=4, max_size=4),
    fraction=st.floats(0.2, 0.9),
)
def test_no_choice_that_costs_as_little_has_a_smaller_distortion(seed, widths, fraction):
    """The widths before those between are filled in, against all choices of a chain of layers."""
    generator = np.random.default_rng(seed)

    def cost(chosen):
        left = np.concatenate([np.ones((len(chosen), 1), np.int64), chosen], axis=1)
        return (left[:, :-1] * left[:, 1:]).sum(axis=1)

    table = {
        layer: {
            number: total
            for number, total in zip(
                range(width, 0, -1), [0.0, *np.cumsum(generator.random(width - 1)).tolist()], strict=True
            )
        }
        for layer, width in zip(LAYERS, widths, strict=True)
    }
    whole, least = (int(cost(np.array([some]))[0]) for some in (widths, [1] * 4))
    limit = int(least + fraction * (whole - 1 - least))
    search = WidthSearch([tuple(range(1, width + 1)) for width in widths], cost, limit=limit, enough=0)
    search.fill = lambda levels, rank: levels
    levels = ByDistortion(table).choose(search, LAYERS, lambda layer: NOTHING)
    assert search.cost(levels) <= limit

    def distortion(chosen):
        return sum(table[layer][width] for layer, width in zip(LAYERS, chosen, strict=True))

    every = list(itertools.product(*(range(1, width + 1) for width in widths)))
    as_cheap = [some for some in every if int(cost(np.array([some]))[0]) <= search.cost(levels)]
    assert distortion(search.widths(levels).tolist()) == pytest.approx(min(map(distortion, as_cheap)))


def network(name="YAMNet", seed=0):
    torch.manual_seed(seed)
    return build_model(ZOO[name].scaled(1 / 8), num_classes=5).eval()


def clips():
    return [torch.rand(10, 32_000, generator=torch.Generator().manual_seed(seed)) - 0.5 for seed in (1, 2)]


@pytest.mark.parametrize("name", ["YAMNet", "Cnn6", "ResNet22", "mn04"])
def test_a_layer_is_measured_at_each_ratio_and_the_network_is_left_alone(name):
    model = network(name)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    layers = model.layer_names[-2:]
    importance = channel_importance(model, layers, criterion="l1")
    table = measure_distortions(model, layers, importance.__getitem__, clips(), ratios=(0.25, 0.75))
    assert tuple(table) == layers
    for layer in layers:
        width = model.spec.widths[layer]
        assert list(table[layer]) == [width, width - round(width * 0.25), width - round(width * 0.75)]
        assert table[layer][width] == 0
        assert all(np.isfinite(measured) and measured >= 0 for measured in table[layer].values())
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_channels_that_are_never_active_can_go_without_distortion():
    model = network()
    with torch.no_grad():
        model.layer5.pointwise_conv.weight[::2] = 0
        model.layer5.pointwise_bn.bias[::2] = -1
    layer = "layer5.pointwise_conv"
    importance = channel_importance(model, [layer], criterion="l1")
    half, more = list(
        measure_distortions(model, [layer], importance.__getitem__, clips(), ratios=(0.5, 0.75))[layer].values()
    )[1:]
    assert half < 1e-12
    assert more >= half


def test_divergences_are_those_of_bernoulli_and_categorical_choices():
    p, q = torch.tensor([[0.2, 0.8], [0.5, 0.5]]), torch.tensor([[0.3, 0.7], [0.5, 0.5]])
    one = 0.2 * np.log(0.2 / 0.3) + 0.8 * np.log(0.8 / 0.7)
    assert divergence(p, q, "single-label") == pytest.approx(one / 2)
    assert divergence(p, q, "multi-label") == pytest.approx(one)  # both classes are such a choice
    assert divergence(p, p, "multi-label") == 0


@pytest.mark.parametrize("budget", [Budget("macs", 0.5), Budget("params", 0.5), Budget("bytes", 0.5, int8=True)])
def test_a_budget_is_shared_out_and_the_table_is_kept(budget):
    model = network("LeeNet11")
    config = PruningConfig.of(budget=budget, allocate="distortion", criterion="activation")
    plan, reached = plan_and_cost(model, config, clips())
    assert 0.98 * reached.asked <= reached.reached <= reached.asked
    assert plan.widths.keys() == model.spec.widths.keys()
    stored = reached.to_dict()["distortions"]
    assert tuple(stored) == model.layer_names
    pruned, _ = prune(model, config, clips())
    assert pruned.provenance.recipe[-1].settings["budget"]["distortions"] == stored


def test_without_clips_it_is_refused():
    with pytest.raises(PruningError, match=r"allocate='distortion' measures sound: give clips \(--calibration PACK"):
        prune(network(), budget=Budget("macs", 0.5), allocate="distortion")


def test_it_has_a_minimum():
    assert allocator_named("distortion", minimum=0.3) == ByDistortion(minimum=0.3)
