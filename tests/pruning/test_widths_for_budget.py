"""Every allocator meets a budget within 1 % from below, or refuses it with the nearest reachable budgets."""

import dataclasses
import itertools
import re
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from epanns.complexity.macs import profile
from epanns.complexity.width_cost import WidthCost
from epanns.errors import PruningError
from epanns.models.files.checkpoint import save_checkpoint
from epanns.models.files.load import load
from epanns.models.spec import ModelSpec, conv_widths
from epanns.models.tagger import Tagger
from epanns.models.tensors import count_params, weights_digest
from epanns.models.zoo import ZOO, build_model
from epanns.pruning.budgets.allocators import BySensitivity, Global, Uniform, allocator_named
from epanns.pruning.budgets.budget import Budget
from epanns.pruning.budgets.sensitivity_table import Sensitivity, SensitivityRow
from epanns.pruning.budgets.widths_for_budget import Allocation, BudgetResult, widths_for_budget
from epanns.pruning.prune import prune
from tests.builders import narrow_spec

CNN14 = ZOO["Cnn14"]
MEDIUM = narrow_spec(widths=conv_widths(16, 32, 48, 64))
HALF = {layer: width // 2 for layer, width in CNN14.widths.items()}
HALF_MACS, HALF_PARAMS = 5_021_564_928, 22_052_655  # profile's, and the facts' 5.02 G and 22.05 M


def random_importances(spec: ModelSpec, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {layer: rng.lognormal(rng.normal(), 0.5, size=width) for layer, width in spec.widths.items()}


def random_table(spec: ModelSpec, seed: int = 0) -> Sensitivity:
    """Return a table with noise: pruning some layers increases mAP, as on real clips."""
    rng = np.random.default_rng(seed)
    n_params = profile(spec).n_params
    rows = [
        SensitivityRow(layer, ratio, max(1, round(width * (1 - ratio))), 0.6 - rng.uniform(-0.02, 0.3) * ratio, 1, 1)
        for layer, width in spec.widths.items()
        for ratio in (0.25, 0.5, 0.75)
    ]
    return Sensitivity(SensitivityRow("", 0.0, None, 0.6, n_params, 1), tuple(rows))


def choose(spec, budget, allocator=None, *, layers=None, round_to=1, importances=None) -> BudgetResult:
    layers = tuple(spec.widths) if layers is None else layers
    importances = random_importances(spec) if importances is None else importances
    sharing = Allocation(layers, allocator or Uniform(), round_to, lambda layer: torch.from_numpy(importances[layer]))
    return widths_for_budget(spec, budget, sharing)


@pytest.mark.parametrize("budget", [Budget("macs", HALF_MACS), Budget("params", HALF_PARAMS)], ids=lambda b: b.kind)
@pytest.mark.parametrize("round_to", [1, 8])
def test_the_budget_of_the_halved_cnn14_gives_the_halved_cnn14(budget, round_to):
    found = choose(CNN14, budget, round_to=round_to)
    assert found.widths == HALF
    cost = profile(CNN14.with_widths(found.widths))
    assert (cost.backbone_macs, cost.n_params) == (HALF_MACS, HALF_PARAMS)


def test_a_quarter_of_the_macs_gives_nearly_halved_widths():
    found = choose(CNN14, Budget("macs", 0.25))
    assert profile(CNN14.with_widths(found.widths)).backbone_macs == found.reached
    assert all(abs(width - HALF[layer]) <= 1 for layer, width in found.widths.items())


COSTS = {
    Budget("params", 0.5).cost: lambda cost: cost.n_params,
    Budget("macs", 0.5).cost: lambda cost: cost.backbone_macs,
    Budget("bytes", 0.5).cost: lambda cost: cost.param_bytes,
}


@pytest.mark.parametrize("name", ["uniform", "global", "sensitivity"])
@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_budget_is_met_within_one_percent_or_refused_with_reachable_budgets(name, data):
    """For random budgets, layers and multiples."""
    seed = data.draw(st.integers(0, 3))
    allocator = {"uniform": Uniform(), "global": Global(), "sensitivity": BySensitivity(random_table(MEDIUM, seed))}[
        name
    ]
    names = list(MEDIUM.widths)
    drawn = data.draw(st.sets(st.sampled_from(names), min_size=1))
    layers = tuple(layer for layer in names if layer in drawn)
    round_to = data.draw(st.sampled_from([1, 1, 2, 3, 8]))
    budget = Budget(data.draw(st.sampled_from(list(COSTS))), data.draw(st.floats(0.01, 0.999)))
    importances = random_importances(MEDIUM, seed)
    try:
        found = choose(MEDIUM, budget, allocator, layers=layers, round_to=round_to, importances=importances)
    except PruningError as error:
        assert re.search(r"cannot be met|removes nothing", str(error))
        for text in re.findall(r"(?:nearest are|and|leave) ([\d.]+ ?[kMG]?B?)", str(error)):
            asked = Budget.parse(budget.kind, text)  # a budget that the message offers is met
            again = choose(MEDIUM, asked, allocator, layers=layers, round_to=round_to, importances=importances)
            assert 0.99 * asked.amount <= again.reached <= asked.amount
        return
    assert found.reached == COSTS[budget.kind](profile(MEDIUM.with_widths(found.widths)))
    assert 0.99 * found.asked <= found.reached <= found.asked < found.unpruned
    assert found.asked == pytest.approx(budget.amount * found.unpruned)
    assert tuple(found.widths) == layers
    for layer, width in found.widths.items():
        unpruned = MEDIUM.widths[layer]
        assert max(1, allocator.minimum * unpruned) <= width <= unpruned
        assert width % round_to == 0 or width == unpruned
    again = choose(MEDIUM, budget, allocator, layers=layers, round_to=round_to, importances=importances)
    assert again == found


def test_a_refused_budget_has_no_widths_and_the_nearest_cost_is_offered():
    """Compared with all choices of widths of a network of three layers."""
    spec = narrow_spec(widths=conv_widths(8, 9, 10, convs_per_block=1))
    formula = WidthCost(spec)
    choices = np.array(list(itertools.product(*(range(1, width + 1) for width in spec.widths.values()))))
    costs = np.unique(formula.evaluate("params", choices))
    refused = 0
    for asked in range(int(costs[0]), int(costs[-1]), 11):
        best = costs[costs <= asked].max()
        try:
            found = choose(spec, Budget("params", asked))
        except PruningError as error:
            refused += 1
            assert best < 0.99 * asked
            assert f"nearest are {Budget('params', 0.5).offer(best)}" in str(error)
        else:
            assert 0.99 * asked <= found.reached <= best
    assert refused


@pytest.mark.parametrize(
    ("budget", "settings_", "match"),
    [
        (
            Budget("macs", 10**12),
            {},
            r"a budget of 1\.0000 T MACs removes nothing: the network has 20\.0419 G MACs",
        ),
        (
            Budget("params", 1.0),
            {},
            r"a budget of 1 parameters cannot be met: at their narrowest \(round_to=1, min",
        ),
        (Budget("macs", 0.3), {"layers": ("conv_block6.conv2",)}, r"cannot be met: .* leave 17\.6985 G MACs; give at"),
        (
            Budget("params", 0.01),
            {"allocator": Global(0.3)},
            r"met: at their narrowest \(round_to=1, minimum=0\.3\) the",
        ),
        (
            Budget("macs", 0.5),
            {"layers": ("conv_block1.conv2",), "round_to": 60},
            r"a budget of .* cannot be met: at their narrowest \(round_to=60, minimum=0\)",
        ),
        (
            Budget("macs", 0.95),
            {"layers": ("conv_block1.conv2",), "round_to": 32},
            r"a budget of 19\.0398 G MACs cannot be met within 1 % from below with widths in steps of 32: nearest are "
            r"18\.2\d+ G MACs; ask for one of them, or lower round_to",
        ),
        (
            Budget("macs", 0.999),
            {"round_to": 10_000},
            r"a budget of .* cannot be met: with round_to=10000 and minimum=0 no layer can lose a channel; lower them",
        ),
        (Budget("macs", 0.5), {"round_to": 0}, r"round_to=0: must be a whole number of at least 1"),
        (
            Budget("macs", 0.5),
            {"allocator": Global(1.0)},
            r"minimum=1\.0: must be in \[0, 1\), the fraction of a layer's",
        ),
    ],
)
def test_a_budget_that_cannot_be_met_is_refused_in_one_line(budget, settings_, match):
    with pytest.raises(PruningError, match=match) as caught:
        choose(CNN14, budget, **settings_)
    assert "\n" not in str(caught.value)


def slow_global(importances: Mapping[str, np.ndarray], count: int, minimum: Mapping[str, int]) -> dict[str, int]:
    """Remove the least important filter of all layers, `count` times."""
    left = {layer: sorted(values / np.abs(values).mean()) for layer, values in importances.items()}
    for _ in range(count):
        can = [layer for layer, values in left.items() if len(values) > minimum[layer]]
        left[min(can, key=lambda layer: left[layer][0])].pop(0)
    return {layer: len(values) for layer, values in left.items()}


@given(ratio=st.integers(1, 88).map(lambda percent: percent / 100), seed=st.integers(0, 5))
def test_global_allocation_removes_the_least_important_filters_down_to_a_minimum(ratio, seed):
    importances = random_importances(MEDIUM, seed)
    total = sum(MEDIUM.widths.values())
    budget = Budget.left_by(ratio)
    found = choose(MEDIUM, budget, Global(), importances=importances)
    minimum = {layer: -(-width // 10) for layer, width in MEDIUM.widths.items()}
    assert found.widths == slow_global(importances, total - int(budget.limit(total)), minimum)


def test_global_allocation_is_invariant_to_the_scale_of_a_layer():
    """Also with negative importances."""
    importances = random_importances(MEDIUM)
    found = choose(MEDIUM, Budget("macs", 0.4), Global(), importances=importances)
    scaled = {layer: values * 10.0**index for index, (layer, values) in enumerate(importances.items())}
    assert choose(MEDIUM, Budget("macs", 0.4), Global(), importances=scaled) == found
    negative = {layer: -1 / values for layer, values in importances.items()}
    left = choose(MEDIUM, Budget("macs", 0.4), Global(), importances=negative).widths
    assert all(0.1 * width <= left[layer] for layer, width in MEDIUM.widths.items())


def test_ties_between_layers_remove_filters_in_forward_order():
    equal = {layer: np.ones(width) for layer, width in MEDIUM.widths.items()}
    found = choose(MEDIUM, Budget("channels", 0.9), Global(), importances=equal)
    assert found.reached == sum(MEDIUM.widths.values()) * 9 // 10
    assert found.widths["conv_block4.conv2"] == 64  # filters of the first layers are removed first


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_infinite_or_nan_importances_are_refused(broken):
    importances = random_importances(MEDIUM)
    importances["conv_block2.conv1"][3] = broken
    with pytest.raises(PruningError, match=r"conv_block2\.conv1: importances are not all finite"):
        choose(MEDIUM, Budget("macs", 0.5), Global(), importances=importances)


def table_of(spec: ModelSpec, losses: Mapping[str, float]) -> Sensitivity:
    """Return a table with the loss of mAP of halving each layer."""
    rows = [SensitivityRow(layer, 0.5, spec.widths[layer] // 2, 0.8 - loss, 1, 1) for layer, loss in losses.items()]
    return Sensitivity(SensitivityRow("", 0.0, None, 0.8, profile(spec).n_params, 1), tuple(rows))


def test_sensitivity_prunes_layers_without_loss_to_the_measured_width():
    losses = dict.fromkeys(MEDIUM.widths, 0.1) | {"conv_block3.conv1": 0.0, "conv_block4.conv1": -0.01}
    half = MEDIUM.with_widths({"conv_block3.conv1": 24, "conv_block4.conv1": 32})
    found = choose(MEDIUM, Budget("macs", profile(half).backbone_macs), BySensitivity(table_of(MEDIUM, losses)))
    assert found.widths == dict(half.widths)


@settings(max_examples=15)
@given(
    losses=st.lists(st.floats(0, 0.3), min_size=3, max_size=3),
    fraction=st.floats(0.1, 0.95),
)
def test_sensitivity_equals_a_slow_greedy_search(losses, fraction):
    """The slow search builds every network, up to the removal that meets the budget."""
    spec = narrow_spec(widths=conv_widths(6, 7, 8, convs_per_block=1))
    table = table_of(spec, dict(zip(spec.widths, losses, strict=True)))
    cost = count_params(spec)
    limit = int(fraction * cost)

    def loss(layer: str, width: int) -> float:
        [row] = table.of(layer)
        lost = max(0.0, 0.8 - row.mAP)
        return float(np.interp(width, [0, row.width, spec.widths[layer]], [0.8, lost, 0.0]))

    widths = dict(spec.widths)
    while cost > limit:
        steps = []
        for index, (layer, width) in enumerate(widths.items()):
            if width > 1:
                after = count_params(spec.with_widths(widths | {layer: width - 1}))
                steps.append(((loss(layer, width - 1) - loss(layer, width)) / (cost - after), after, index, layer))
        if not steps:
            return
        _, cost, _, layer = min(steps)
        widths[layer] -= 1
    try:
        found = choose(spec, Budget("params", limit), BySensitivity(table, minimum=0.0))
    except PruningError:
        return
    if cost >= 0.99 * limit:
        assert all(0 <= found.widths[layer] - width <= 1 for layer, width in widths.items())
    assert found.reached >= min(cost, 0.99 * limit)


def test_a_table_without_a_layer_is_refused():
    table = table_of(MEDIUM, dict.fromkeys(list(MEDIUM.widths)[1:], 0.1))
    with pytest.raises(PruningError, match=r"no row for conv_block1\.conv1: measure it, or name --layers without it"):
        choose(MEDIUM, Budget("macs", 0.5), BySensitivity(table))


def test_a_sensitivity_table_is_refused_for_other_weights(tmp_path):
    def cut(network: Tagger, table: Sensitivity) -> Tagger:
        return prune(network, budget=Budget("macs", 0.5), allocate=BySensitivity(table))[0]

    torch.manual_seed(0)
    model, other = build_model(MEDIUM), build_model(MEDIUM)
    table = dataclasses.replace(table_of(MEDIUM, dict.fromkeys(MEDIUM.widths, 0.1)), network=weights_digest(model))
    save_checkpoint(model, tmp_path / "dense")
    assert cut(load(tmp_path / "dense"), table).spec == cut(model, table).spec
    message = (
        f"measured on network {table.network[:12]}, this one is {weights_digest(other)[:12]}, of the same size with"
    )
    with pytest.raises(PruningError, match=message):
        cut(other, table)
    assert cut(other, dataclasses.replace(table, network="")).spec == cut(model, table).spec
    with torch.no_grad():
        model.fc1.bias[0] += 1
    with pytest.raises(PruningError, match=f"measured on network {table.network[:12]}, this one is "):
        cut(model, table)
    with pytest.raises(PruningError, match=r"measured on a network of [\d,]+ parameters, this one has [\d,]+: measure"):
        cut(build_model(dataclasses.replace(MEDIUM, num_classes=3)), table)


def test_allocators_are_found_by_name():
    assert allocator_named("uniform") == Uniform()
    assert allocator_named("global") == Global(minimum=0.1)
    with pytest.raises(PruningError, match=r"unknown allocator 'globe' \(did you mean 'global'\?\): choose uniform"):
        allocator_named("globe")
    with pytest.raises(PruningError, match=r"allocate='sensitivity' needs a table: give BySensitivity\(read_sensi"):
        allocator_named("sensitivity")


def test_the_result_of_a_budget_is_reported_in_numbers():
    found = choose(CNN14, Budget("macs", HALF_MACS))
    assert found.to_dict() == {
        "kind": "macs",
        "asked": HALF_MACS,
        "reached": HALF_MACS,
        "unpruned": 20_041_926_656,
        "allocate": "uniform",
    }
    assert found.summary() == (
        "5.0216 G MACs of at most 5.0216 G MACs (100.00% of the budget, 25.06% of 20.0419 G MACs before); "
        "allocator uniform"
    )
    int8 = choose(CNN14, Budget.parse("bytes", "4.5MB", int8=True))
    assert int8.to_dict()["kind"] == "int8_bytes"
    assert int8.summary().startswith("4.4993 MB in int8 of at most 4.5000 MB in int8 (")
