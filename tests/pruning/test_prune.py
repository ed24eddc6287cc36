import copy
import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from epanns.complexity.macs import profile
from epanns.errors import PruningError
from epanns.models.files.checkpoint import save
from epanns.models.files.load import load
from epanns.models.provenance import Provenance, recipe_problems
from epanns.models.pruning_plan import PruningPlan
from epanns.models.zoo import ZOO, build_model
from epanns.pruning.budgets.allocators import Global, Uniform
from epanns.pruning.budgets.budget import Budget
from epanns.pruning.prune import apply_plan, plan_pruning, prune
from epanns.pruning.rounding import remaining_width
from tests.builders import same_tensors

BLOCKS = [f"conv_block{number}" for number in range(2, 7)]
LAST_THREE_BLOCKS = ("conv_block4", "conv_block5", "conv_block6")


@pytest.mark.parametrize("criterion", ["l1", "l2", "random"])
def test_the_plan_describes_the_pruned_network(model, criterion):
    pruned, plan = prune(model, criterion=criterion, ratio=0.5, seed=3)
    assert (plan.criterion, plan.seed, plan.base) == (criterion, 3, model.spec)
    assert pruned.spec == plan.pruned_spec
    assert plan.widths == {layer: width // 2 for layer, width in model.spec.widths.items()}
    for layer, kept in plan.kept_channels.items():
        norm = layer.replace(".conv", ".bn")
        whole, left = model.get_submodule(norm).running_mean, pruned.get_submodule(norm).running_mean
        assert torch.equal(left, whole[list(kept)])


@pytest.mark.parametrize(("criterion", "order"), [("l1", 1), ("l2", 2)])
def test_filters_with_the_largest_norm_are_kept(model, criterion, order):
    plan = plan_pruning(model, criterion=criterion, ratio=0.5, layers=["conv_block5"])
    for layer, kept in plan.kept_channels.items():
        weight = model.get_submodule(layer).weight.detach().double().flatten(1).numpy()
        ranked = np.argsort(-np.linalg.norm(weight, ord=order, axis=1), kind="stable")
        assert kept == tuple(sorted(ranked[: len(kept)]))


def test_every_layer_is_ranked_on_the_unpruned_weights(model):
    together = plan_pruning(model, ratio=0.5)
    alone = plan_pruning(model, ratio=0.5, layers=["conv_block6.conv2"])
    assert together.kept_channels["conv_block6.conv2"] == alone.kept_channels["conv_block6.conv2"]


def test_only_named_layers_lose_channels(model):
    _, plan = prune(model, ratio=0.5, layers=("conv_block6", "conv_block4.conv1"))
    assert plan.pruned_layers == ("conv_block4.conv1", "conv_block6.conv1", "conv_block6.conv2")
    assert dict(plan.ratios) == dict.fromkeys(plan.pruned_layers, 0.5)


def test_ratios_per_layer_are_rounded_to_multiples(model):
    _, plan = prune(model, ratios={"conv_block6": 0.5, "conv_block6.conv1": 0.25, "conv_block5.conv1": 0}, round_to=4)
    assert plan.pruned_layers == ("conv_block6.conv1", "conv_block6.conv2")
    assert plan.widths["conv_block6.conv1"] == 12  # 14 - 4 = 10 channels, halfway between 8 and 12
    assert plan.widths["conv_block6.conv2"] == 8  # 7 channels
    assert dict(plan.ratios) == {"conv_block5.conv1": 0, "conv_block6.conv1": 0.25, "conv_block6.conv2": 0.5}


@pytest.mark.parametrize("arguments", [{"ratio": 0, "layers": ["conv_block4"]}, {"ratios": {"conv_block4": 0.0}}])
def test_a_ratio_of_0_is_refused(model, arguments):
    match = r"ratio 0 removes nothing from conv_block4\.conv1, conv_block4\.conv2: give a ratio above 0"
    with pytest.raises(PruningError, match=match):
        prune(model, **arguments)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    first=st.dictionaries(st.sampled_from(BLOCKS), st.sampled_from([0.25, 0.5]), min_size=1),
    second=st.dictionaries(st.sampled_from(BLOCKS), st.sampled_from([0.25, 0.5]), min_size=1),
    criteria=st.tuples(st.sampled_from(["l1", "random"]), st.sampled_from(["l1", "l2"])),
)
def test_pruning_twice_gives_one_plan_of_the_unpruned_network(model, first, second, criteria):
    once, _ = prune(model, ratios=first, criterion=criteria[0])
    twice, plan = prune(once, ratios=second, criterion=criteria[1])
    assert plan.base == model.spec
    assert plan == twice.provenance.plan
    assert [step.settings["criterion"] for step in twice.provenance.recipe] == list(criteria)
    at_once = apply_plan(model, plan).state_dict()
    assert same_tensors(twice, at_once)


def test_a_saved_pruned_network_can_be_pruned_again(model, tmp_path):
    once, _ = prune(model, ratio=0.5, layers=["conv_block6"])
    save(once, tmp_path / "once")
    loaded = load(tmp_path / "once")
    loaded.reset_classifier(3)
    twice, plan = prune(loaded, ratio=0.5, layers=["conv_block6", "conv_block5"])
    save(twice, tmp_path / "twice")
    assert load(tmp_path / "twice").provenance.plan == plan
    assert plan.base == model.spec
    at_once = apply_plan(model, plan)
    assert torch.equal(twice.conv_block6.conv2.weight, at_once.conv_block6.conv2.weight)


def test_a_plan_passed_to_save_replaces_the_plan_of_the_network(model, tmp_path):
    pruned, plan = prune(model, ratio=0.5)
    other = dataclasses.replace(plan, seed=9)
    save(pruned, tmp_path / "saved", plan=other)
    assert load(tmp_path / "saved").provenance.plan == other


def test_a_plan_of_other_widths_is_not_composed(model):
    once, first = prune(model, ratio=0.5)
    model.provenance = Provenance(plan=first)
    assert prune(model, ratio=0.5)[1] == first


def test_pruning_twice_without_training_equals_pruning_once(model):
    _, one_step = prune(model, ratio=0.75, layers=["conv_block3.conv1"])  # 8 -> 2
    half, _ = prune(model, ratio=0.5, layers=["conv_block3.conv1"])  # 8 -> 4
    _, both = prune(half, ratio=0.5, layers=["conv_block3.conv1"])  # 4 -> 2
    assert both == one_step


def test_a_plan_read_from_json_gives_the_same_network(model):
    pruned, plan = prune(model, ratio=0.5)
    again = apply_plan(model, PruningPlan.from_dict(plan.to_dict()))
    assert same_tensors(again, pruned)


def test_a_plan_applies_to_its_base_with_another_classifier(model):
    _, plan = prune(model, ratio=0.5)
    model.reset_classifier(3)
    assert apply_plan(model, plan).spec.num_classes == 3


def test_a_plan_of_another_network_is_refused(model):
    pruned, plan = prune(model, ratio=0.5, layers=["conv_block2.conv1"])
    with pytest.raises(PruningError, match=r"made for conv_block2\.conv1 of width 6, this network has 3: apply it to"):
        apply_plan(pruned, plan)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"ratios": {}}, r"ratios is empty: name at least one layer or block"),
        ({"ratio": -0.5, "layers": ["conv_block2.conv2"]}, r"ratio -0\.5 for conv_block2\.conv2"),
        ({"ratio": 0.1, "layers": ["conv_block1"]}, r"ratio 0\.1 removes none of the 4 channels of conv_block1\.conv1"),
        (
            {"ratio": 0.001},
            r"ratio 0\.001 removes no channel of any layer of this narrow, the widest of which has \d+ ",
        ),
        ({"ratio": 0.95, "layers": ["conv_block3"]}, r"ratio 0\.95 removes all 8 channels of conv_block3\.conv1"),
        ({"ratio": 0.5, "layers": ["conv_block7"]}, r"unknown layer 'conv_block7' \(did you mean"),
        ({"ratio": 0.5, "layers": ["fc_audioset"]}, r"fc_audioset cannot be pruned: it is the classifier, its outputs"),
        ({"ratios": {"fc_audioset": 0}}, r"fc_audioset cannot be pruned: it is the classifier"),
        (
            {"ratio": 0.5, "layers": ["fc1"]},
            r"fc1 cannot be pruned: its outputs are the embedding; .*conv_block6\.conv2",
        ),
        ({"ratio": 0.5, "layers": ["bn0"]}, r"bn0 cannot be pruned: it normalises the mel bins"),
        ({"ratio": 0.5, "layers": ["conv_block1.bn2"]}, r"conv_block1\.bn2 cannot .* so name conv_block1\.conv2"),
    ],
)
def test_invalid_arguments_are_refused(model, arguments, match):
    with pytest.raises(PruningError, match=match):
        prune(model, **arguments)


@pytest.mark.parametrize("name", ["att_block", "att_block.att", "att_block.cla"])
def test_the_attention_classifier_is_protected(build, name):
    with pytest.raises(PruningError, match=rf"{name} cannot be pruned: it is the classifier"):
        prune(build(head="decision_att"), ratio=0.5, layers=[name])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("criterion", ["l1", "l2", "opnorm", "opnorm_invariant", "fpgm", "cosine", "centrality"])
def test_infinite_or_nan_weights_are_refused_with_layer_and_filter(model, criterion, value):
    with torch.no_grad():
        model.conv_block2.conv1.weight[3, 0, 0, 0] = value
    with pytest.raises(PruningError, match=r"conv_block2\.conv1: filter 3 h.* its weights are damaged"):
        prune(model, ratio=0.5, criterion=criterion)


def test_a_module_that_is_no_tagger_is_refused():
    with pytest.raises(PruningError, match=r"Linear is no network of epanns: use epanns\.load or epanns\.build_model"):
        prune(nn.Linear(3, 3), ratio=0.5)


def test_a_network_that_differs_from_its_spec_is_refused(model):
    model.fc1 = nn.Linear(14, 10)
    with pytest.raises(PruningError, match=r"this narrow differs from its spec, .*fc1\.bias is \(10,\)"):
        prune(model, ratio=0.5)


def test_refused_pruning_leaves_the_network_unchanged(model):
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(PruningError):
        prune(model.train(), ratios={"conv_block1": 0.5, "conv_block9": 0.5})
    assert model.training
    assert same_tensors(model, before)


PUBLISHED = [  # of E-PANNs: ratio, parameters, MACs
    (0.25, 47_408_591, 15_641_970_688),
    (0.5, 23_205_839, 12_414_584_832),
    (0.75, 8_145_359, 10_359_769_088),
]


@pytest.mark.parametrize(("ratio", "n_params", "backbone_macs"), PUBLISHED)
def test_cnn14_with_the_widths_of_e_panns_has_the_published_size(ratio, n_params, backbone_macs):
    widths = ZOO["Cnn14"].widths
    kept = {layer: remaining_width(widths[layer], ratio) for layer in widths if layer.startswith(LAST_THREE_BLOCKS)}
    cost = profile(ZOO["Cnn14"].with_widths(kept), seconds=10.0)
    assert (cost.n_params, cost.backbone_macs) == (n_params, backbone_macs)


@pytest.mark.slow
@pytest.mark.parametrize(("ratio", "n_params", "backbone_macs"), PUBLISHED)
def test_cnn14_pruned_as_e_panns_has_the_published_size(ratio, n_params, backbone_macs):
    pruned, _ = prune(build_model("Cnn14"), ratio=ratio, layers=LAST_THREE_BLOCKS)
    cost = profile(pruned, seconds=10.0)
    assert sum(parameter.numel() for parameter in pruned.parameters()) == cost.n_params == n_params
    assert cost.backbone_macs == backbone_macs


def test_a_budget_determines_the_widths_and_the_criterion_the_kept_channels(model):
    pruned, plan = prune(model, budget=Budget("params", 0.4), criterion="l2", round_to=2)
    cost = profile(pruned)
    assert 0.99 * 0.4 * profile(model).n_params <= cost.n_params <= 0.4 * profile(model).n_params
    assert plan.widths == dict(pruned.spec.widths)
    for layer, kept in plan.kept_channels.items():
        assert plan.ratios[layer] == 1 - len(kept) / model.spec.widths[layer]
        norms = model.get_submodule(layer).weight.detach().flatten(1).norm(dim=1)
        assert kept == tuple(sorted(norms.argsort(descending=True)[: len(kept)].tolist()))
    [step] = pruned.provenance.recipe
    assert step.settings["budget"] == {
        "kind": "params",
        "asked": pytest.approx(0.4 * profile(model).n_params),
        "reached": cost.n_params,
        "unpruned": profile(model).n_params,
        "allocate": "uniform",
    }
    assert recipe_problems(pruned.provenance.to_dict()["recipe"]) == []


def test_a_budget_prunes_only_named_layers(model):
    _, plan = prune(model, budget=Budget("macs", 0.95), layers=["conv_block4"], allocate="global")
    assert set(plan.kept_channels) == {"conv_block4.conv1", "conv_block4.conv2"}


def test_uniform_is_the_default_allocator(model):
    for arguments in ({"ratio": 0.3}, {"ratios": {"conv_block6": 0.3}}, {"budget": Budget("params", 0.5)}):
        assert prune(model, **arguments, allocate=Uniform())[1] == prune(model, **arguments)[1]


def test_global_allocation_removes_a_ratio_of_all_filters(model):
    """Scaling a layer by 1000 has no effect; filters of a layer with three outliers are removed first."""
    with torch.no_grad():
        model.conv_block5.conv1.weight.mul_(1000)
        model.conv_block6.conv1.weight[3:].mul_(1e-3)
    _, plan = prune(model, ratio=0.4, allocate=Global(minimum=0.2))
    assert sum(plan.widths.values()) == int(0.6 * sum(model.spec.widths.values()))
    assert plan.kept_channels["conv_block6.conv1"] == (0, 1, 2)
    assert plan.widths["conv_block5.conv1"] > 3
    assert min(plan.widths[layer] / width for layer, width in model.spec.widths.items()) >= 0.2
