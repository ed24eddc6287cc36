"""Pruning in rounds: widths of the rounds, plans in channels of the unpruned network, equality with one round."""

import copy
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import epanns
from epanns.complexity.macs import profile
from epanns.errors import PruningError
from epanns.models.provenance import Provenance
from epanns.models.spec import conv_widths
from epanns.pruning.budgets.budget import Budget
from epanns.pruning.iterative_pruning import SCHEDULES, prune_iteratively, prune_towards, step_widths
from epanns.pruning.prune import apply_plan, plan_pruning, prune
from tests.builders import random_waveforms, same_tensors

EVERY_OTHER = ("conv_block1.conv1", "conv_block2.conv1", "conv_block3.conv1")  # none reads another
DATA_FREE = ("l1", "l2", "opnorm", "opnorm_invariant", "fpgm", "cosine", "centrality", "bn", "random")


@pytest.fixture
def networks(build):
    """Return networks of three blocks whose filters differ in strength."""
    found = []
    for seed in range(2):
        model = build(widths=conv_widths(16, 24, 32))
        generator = torch.Generator().manual_seed(seed)
        for layer in model.spec.widths:
            weight = model.get_submodule(layer).weight
            weight.data.normal_(generator=generator)
            weight.data.mul_(torch.exp(0.1 * torch.randn(len(weight), 1, 1, 1, generator=generator)))
        found.append(model)
    return found


@pytest.fixture
def wide(networks):
    return networks[0]


@pytest.mark.parametrize(
    ("base", "final", "steps", "schedule", "widths"),
    [
        (128, 64, 5, "linear", [115, 102, 90, 77, 64]),
        (128, 64, 5, "geometric", [111, 97, 84, 74, 64]),
        (2048, 512, 2, "geometric", [1024, 512]),
        (64, 32, 1, "linear", [32]),
        (5, 4, 2, "linear", [5, 4]),  # half a channel is removed in the first round: 0, rounded to even
        (7, 4, 2, "linear", [5, 4]),  # one and a half: 2, rounded to even
        (10, 10, 3, "geometric", [10, 10, 10]),
    ],
)
def test_widths_of_the_rounds_equal_known_values(base, final, steps, schedule, widths):
    assert step_widths(base, final, steps, schedule) == widths


@given(base=st.integers(1, 2048), data=st.data(), steps=st.integers(1, 12), schedule=st.sampled_from(SCHEDULES))
def test_widths_decrease_to_the_final_width_and_follow_the_formula(base, data, steps, schedule):
    final = data.draw(st.integers(1, base))
    widths = step_widths(base, final, steps, schedule)
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] == final
    assert widths[0] <= base
    for step, width in enumerate(widths, start=1):
        exact = (
            base - Fraction(base - final) * step / steps
            if schedule == "linear"
            else base * (final / base) ** (step / steps)
        )
        assert abs(width - exact) <= 0.5 + 1e-9


EQUAL = {("bn", None), *((criterion, EVERY_OTHER) for criterion in ("bn", "l1", "l2", "cosine"))}


@pytest.mark.parametrize("criterion", DATA_FREE)
@pytest.mark.parametrize("layers", [EVERY_OTHER, None], ids=["whole inputs", "every layer"])
def test_rounds_without_training_equal_one_round_for_exactly_the_documented_criteria(networks, criterion, layers):
    equal = []
    for network in networks:
        target = plan_pruning(network, criterion=criterion, ratio=0.5, layers=layers)
        _, plan = prune_towards(network, target, steps=3)
        assert plan.widths == target.widths
        equal.append(plan.kept_channels == target.kept_channels)
    assert all(equal) is ((criterion, layers) in EQUAL)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_each_round_has_its_widths_and_is_trained_before_the_next(wide, schedule):
    seen = []

    def between(network, step):
        seen.append((step, dict(network.spec.widths)))
        with torch.no_grad():  # reverses the ranking of the first layer
            weight = network.conv_block1.conv1.weight
            weight.div_(weight.abs().sum(dim=(1, 2, 3), keepdim=True) ** 2)

    before = copy.deepcopy(wide.state_dict())
    pruned, plan = prune_iteratively(wide, steps=3, ratio=0.75, schedule=schedule, between=between)
    assert [step for step, _ in seen] == [1, 2]
    for step, widths in seen:
        assert widths == {
            layer: step_widths(width, width // 4, 3, schedule)[step - 1] for layer, width in wide.spec.widths.items()
        }
    assert same_tensors(wide, before)
    # By hand: the first round keeps the strongest filters, the second the weakest of these, the third the strongest.
    strength = before["conv_block1.conv1.weight"].abs().sum(dim=(1, 2, 3))
    order = strength.argsort(descending=True).tolist()
    first, second, _ = step_widths(16, 4, 3, schedule)
    kept = order[:first][-second:][:4]
    assert plan.kept_channels["conv_block1.conv1"] == tuple(sorted(kept))
    assert plan == pruned.provenance.plan
    assert plan.base == wide.spec
    assert [step.kind for step in pruned.provenance.recipe] == ["prune"] * 3


def test_clips_are_measured_in_each_round(wide):
    """In a single layer, whose channels are independent, the variances are the same in both rounds."""
    clips = random_waveforms(4)
    settings = {"ratio": 0.5, "layers": ["conv_block3.conv1"], "criterion": "activation", "calibration": clips}
    one, _ = prune(wide, **settings)
    two, _ = prune_iteratively(wide, steps=2, **settings)
    assert same_tensors(two, one)
    with pytest.raises(PruningError, match=r"0 calibration clips: give at least two"):
        prune_iteratively(wide, steps=2, **(settings | {"calibration": iter(clips)}))


def test_one_round_equals_prune(wide):
    one, plan = prune(wide, ratio=0.5, round_to=4)
    same, steps = prune_iteratively(wide, steps=1, ratio=0.5, round_to=4, between=pytest.fail)
    assert plan == steps
    assert same_tensors(one, same)
    assert epanns.prune_iteratively is prune_iteratively


def test_the_plan_of_a_network_pruned_before_starts_at_the_unpruned_network(wide):
    once, _ = prune(wide, ratio=0.25)
    network, plan = prune_iteratively(once, steps=2, ratio=0.5)
    assert plan.base == wide.spec
    assert same_tensors(apply_plan(wide, plan), network)


def test_the_network_returned_by_the_callback_is_pruned_further_and_keeps_the_plan(wide):
    def between(network, step):
        other = copy.deepcopy(network)
        other.provenance = Provenance()
        other.reset_classifier(3)
        return other

    network, plan = prune_iteratively(wide, steps=2, ratio=0.5, between=between)
    assert network.spec.num_classes == 3
    assert plan.base.widths == wide.spec.widths
    with pytest.raises(
        PruningError, match="after round 1 conv_block1.conv1 was 6 wide, not 12: train, but do not prune"
    ):
        prune_iteratively(wide, steps=2, ratio=0.5, between=lambda network, step: prune(network, ratio=0.5)[0])


def test_a_budget_is_met_by_the_last_round(wide):
    network, plan = prune_iteratively(wide, steps=3, budget=Budget("macs", 0.3), allocate="global")
    once, _ = prune(wide, budget=Budget("macs", 0.3), allocate="global")
    assert network.spec == once.spec
    assert 0.99 * 0.3 <= profile(network).backbone_macs / profile(wide).backbone_macs <= 0.3
    budgets = [step.settings.get("budget") for step in network.provenance.recipe]
    assert budgets == [None, None, once.provenance.recipe[0].settings["budget"]]


def test_each_round_is_recovered_before_it_is_trained(wide):
    calls = []

    def after_cut(network, before, plan, whole):
        assert dict(plan.base.widths) == dict(before.spec.widths)
        assert dict(whole.base.widths) == dict(wide.spec.widths)
        assert plan.widths == whole.widths == dict(network.spec.widths)
        assert whole.kept_channels == network.provenance.plan.kept_channels
        calls.append("recover")

    target = plan_pruning(wide, ratio=0.5)
    prune_towards(wide, target, steps=2, between=lambda network, step: calls.append("train"), after_cut=after_cut)
    assert calls == ["recover", "train", "recover"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps=0: must be a whole number of at least 1"),
        ({"steps": 2.0}, "steps=2.0: must be a whole number of at least 1"),
        (
            {"steps": 2, "schedule": "linar"},
            r"schedule='linar' \(did you mean 'linear'\?\): must be linear or geometric",
        ),
        (
            {"steps": 40},
            "round 1 of 40 would remove nothing, as at most 16 channels of a layer are removed: use",
        ),
    ],
)
def test_invalid_rounds_and_schedules_are_refused(wide, options, message):
    with pytest.raises(PruningError, match=message):
        prune_iteratively(wide, ratio=0.5, **options)


@pytest.mark.parametrize("returned", [lambda network: "a path", torch.nn.DataParallel])
def test_a_callback_that_returns_no_network_is_refused(wide, returned):
    match = r"after round 1 `between` returned a \w+: return the network that was trained, not compiled or wrapped"
    with pytest.raises(PruningError, match=match):
        prune_iteratively(wide, steps=2, ratio=0.5, between=lambda network, step: returned(network))
