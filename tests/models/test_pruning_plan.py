import copy
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epanns.audio.frontend import FrontEndSpec
from epanns.errors import PruningError
from epanns.models.pruning_plan import PruningPlan, compose, remainder
from epanns.models.spec import ModelSpec, conv_widths
from epanns.models.zoo import spec_of

BASE = ModelSpec(
    name="narrow",
    family="cnn",
    front_end=FrontEndSpec(8_000, 256, 80, 32, 50, 4_000),
    widths=conv_widths(4, 6, 8),
    embedding_size=9,
    num_classes=5,
)
KEPT = {"conv_block1.conv2": (0, 3), "conv_block3.conv1": (1, 2, 5, 7)}


def plan_of(kept=KEPT, **changes):
    values = {"base": BASE, "kept_channels": kept, "criterion": "l1", "ratios": dict.fromkeys(kept, 0.5), "seed": 0}
    return PruningPlan(**(values | changes))


kept_channels = st.fixed_dictionaries(
    {},
    optional={
        layer: st.sets(st.integers(0, width - 1), min_size=1).map(lambda channels: tuple(sorted(channels)))
        for layer, width in BASE.widths.items()
    },
)


@given(kept=kept_channels, ratio=st.floats(0, 1, exclude_max=True), seed=st.integers(0, 2**40))
def test_a_plan_survives_json(kept, ratio, seed):
    plan = plan_of(kept, ratios=dict.fromkeys(kept, ratio), seed=seed)
    again = PruningPlan.from_dict(json.loads(json.dumps(plan.to_dict())))
    assert again == plan
    assert again.digest == plan.digest
    assert hash(again) == hash(plan)


@given(kept=kept_channels)
def test_widths_are_the_numbers_of_kept_channels_of_every_layer(kept):
    plan = plan_of(kept)
    assert plan.widths == {layer: len(kept.get(layer, range(width))) for layer, width in BASE.widths.items()}
    assert dict(plan.pruned_spec.widths) == plan.widths
    assert set(plan.pruned_layers) == {layer for layer in BASE.widths if plan.widths[layer] < BASE.widths[layer]}


@given(kept=kept_channels, data=st.data())
def test_composed_plans_use_the_channel_numbers_of_the_first(kept, data):
    first = plan_of(kept)
    again = data.draw(
        st.fixed_dictionaries(
            {},
            optional={
                layer: st.sets(st.integers(0, width - 1), min_size=1).map(lambda channels: tuple(sorted(channels)))
                for layer, width in first.widths.items()
            },
        )
    )
    second = plan_of(again, base=first.pruned_spec, seed=4)
    both = compose(first, second)
    assert (both.base, both.seed, both.widths) == (BASE, 4, second.widths)
    for layer, width in BASE.widths.items():
        numbers = list(range(width))  # a channel's name travels with it
        for plan in (first, second):
            numbers = [numbers[channel] for channel in plan.kept_channels.get(layer, range(len(numbers)))]
        assert list(both.kept_channels.get(layer, range(width))) == numbers
        assert both.ratios.get(layer, 0) == pytest.approx(1 - len(numbers) / width)


@given(kept=kept_channels, data=st.data())
def test_remainder_inverts_compose(kept, data):
    first = plan_of(kept)
    again = {
        layer: data.draw(st.sets(st.integers(0, width - 1), min_size=1).map(lambda some: tuple(sorted(some))))
        for layer, width in first.widths.items()
    }
    second = plan_of(again, base=first.pruned_spec)
    rest = remainder(first, compose(first, second))
    assert rest.base == second.base
    assert rest.widths == second.widths
    assert dict(rest.kept_channels) == {layer: again[layer] for layer in second.pruned_layers}


def test_remainder_refuses_plans_that_are_not_nested():
    first, whole = plan_of({"conv_block1.conv2": (0, 3)}), plan_of({"conv_block1.conv2": (1,)})
    with pytest.raises(PruningError, match=r"conv_block1\.conv2: the pruned network keeps channel 1, which the one it"):
        remainder(first, whole)
    with pytest.raises(PruningError, match=r"conv_block1\.conv2: the pruned network keeps channel 1, which the one it"):
        remainder(first, plan_of({}))
    with pytest.raises(PruningError, match="start from different narrows: give two that were cut from one"):
        remainder(plan_of({}, base=first.pruned_spec), whole)


def test_composed_plans_name_each_consecutive_criterion_once():
    step = {"kept": {"conv_block1.conv1": (0, 1, 2, 3)}}
    l1, l2 = plan_of(**step), plan_of(**step, criterion="l2")
    assert compose(l1, l1).criterion == "l1"
    assert compose(compose(l1, l2), l2).criterion == "l1, then l2"
    assert compose(compose(l1, l2), l1).criterion == "l1, then l2, then l1"


def test_compose_refuses_plans_that_do_not_fit_together():
    with pytest.raises(PruningError, match="two pruning plans do not follow each other: the second must start where"):
        compose(plan_of(), plan_of())


def test_a_plan_can_be_copied_and_pickled():
    plan = plan_of()
    assert copy.deepcopy(plan) == plan
    assert pickle.loads(pickle.dumps(plan)) == plan


def test_the_digest_depends_on_the_channels():
    assert plan_of().digest != plan_of(KEPT | {"conv_block1.conv2": (0, 2)}).digest


def test_the_summary_lists_the_changed_layers():
    assert plan_of().summary() == ("2 of 6 layers pruned by l1: conv_block1.conv2 4 -> 2, conv_block3.conv1 8 -> 4")
    assert plan_of({}).summary() == "0 of 6 layers pruned by l1: nothing removed"


@pytest.mark.parametrize("name", ["Cnn14", "ResNet38"])
def test_the_summary_of_a_deep_network_names_the_first_and_last_change(name):
    spec = spec_of(name)
    kept = {layer: tuple(range(width // 2)) for layer, width in spec.widths.items()}
    told = PruningPlan(spec, kept, "l1", dict.fromkeys(kept, 0.5), 0).summary()
    changes = [f"{layer} {width} -> {width // 2}" for layer, width in spec.widths.items()]
    head, _, listed = told.partition(": ")
    assert head == f"{len(changes)} of {len(changes)} layers pruned by l1"
    assert listed.split(", ") == (
        changes if len(changes) == 12 else [changes[0], f"{len(changes) - 2} more", changes[-1]]
    )


@pytest.mark.parametrize(
    ("kept", "match"),
    [
        ({"conv_block1.conv9": (0,)}, r"unknown layer 'conv_block1\.conv9' \(did you mean 'conv_block1\.conv"),
        ({"conv_block1.conv1": ()}, r"conv_block1\.conv1 would keep no channel: keep at least one"),
        ({"conv_block1.conv1": (0, 4)}, r"channels of conv_block1\.conv1 must ascend within \[0, 4\)"),
        ({"conv_block1.conv1": (-1, 2)}, r"must ascend within \[0, 4\)"),
        ({"conv_block1.conv1": (2, 1)}, r"must ascend within \[0, 4\)"),
        ({"conv_block1.conv1": (1, 1)}, r"must ascend within \[0, 4\)"),
        ({"conv_block1.conv1": (0.0, 1)}, r"channels of conv_block1\.conv1 must be whole numbers"),
        ({"conv_block1.conv1": (False, 1)}, r"channels of conv_block1\.conv1 must be whole numbers"),
    ],
)
def test_a_plan_that_cannot_be_applied_is_refused(kept, match):
    with pytest.raises(PruningError, match=r"pruning plan for narrow: .*" + match):
        plan_of(kept)


def test_ratios_and_channels_name_the_same_layers():
    with pytest.raises(PruningError, match=r"ratios name \['conv_block1\.conv1'\], kept_channels .*: they must be the"):
        plan_of(ratios={"conv_block1.conv1": 0.5})


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"format": "epanns-plan/9"}, r"format 'epanns-plan/9': this version reads 'epanns-plan/1'"),
        ({"sede": 1}, r"unknown key 'sede' \(did you mean 'seed'\?\)"),
        ({"seed": "0"}, r"seed='0': must be a whole number"),
        ({"seed": True}, r"seed=True: must be a whole number"),
        ({"ratios": []}, r"ratios=\[\]: must be a table"),
        ({"criterion": None}, r"criterion=None: must be text"),
        ({"base": {}}, r"pruning plan: base: model specification: missing key"),
        ({"kept_channels": {"conv_block1.conv1": 3}}, r"kept_channels of conv_block1\.conv1=3: must be a list"),
        ({"ratios": {"conv_block1.conv2": 1.5}}, r"ratio of conv_block1\.conv2=1\.5: must be a number in \[0, 1\)"),
    ],
)
def test_json_is_read_strictly(changes, match):
    with pytest.raises(PruningError, match=match):
        PruningPlan.from_dict(plan_of().to_dict() | changes)


def test_every_missing_key_is_named():
    with pytest.raises(PruningError, match=r"missing key 'base'; missing key 'kept_channels'; .*missing key 'seed'"):
        PruningPlan.from_dict({"format": "epanns-plan/1"})
