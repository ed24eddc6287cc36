"""Specifications: JSON round trip, and errors that name every wrong value."""

import copy
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epanns.errors import ConfigError
from epanns.models import spec as spec_module
from epanns.models.spec import MAXIMUM_WIDTH, ModelSpec
from epanns.models.zoo import ZOO
from epanns.safe_text import printable
from epanns.strict import one_of
from tests.any_value import ANY_VALUE


@given(widths=st.lists(st.integers(1, MAXIMUM_WIDTH), min_size=12, max_size=12), classes=st.integers(1, 1000))
def test_spec_survives_json(widths, classes):
    spec = ZOO["Cnn14"].with_widths(dict(zip(ZOO["Cnn14"].widths, widths, strict=True))).with_num_classes(classes)
    assert ModelSpec.from_dict(spec.to_dict()) == spec
    assert list(spec.widths.values()) == widths


def test_widths_cannot_be_changed_in_place():
    with pytest.raises(TypeError, match="does not support item assignment"):
        ZOO["Cnn14"].widths["conv_block1.conv1"] = 3
    assert ZOO["Cnn14"].widths["conv_block1.conv1"] == 64


def test_unknown_layer_offers_the_nearest():
    with pytest.raises(ConfigError, match=r"no layer 'conv_block4.conv3' \(did you mean 'conv_block4.conv"):
        ZOO["Cnn14"].with_widths({"conv_block4.conv3": 3})


def test_names_of_blocks_are_the_rule_of_their_family_alone(monkeypatch):
    monkeypatch.setitem(spec_module._RULES, "family", one_of(("cnn", "mlp")))
    other = replace(ZOO["Cnn14"], family="mlp", widths={"hidden1": 8})
    assert ModelSpec.from_dict(other.to_dict()) == other
    with pytest.raises(ConfigError, match=re.escape("widths must name conv_block1.conv1 and on")):
        replace(other, family="cnn")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": 0}, "num_classes=0: must be a whole number in [1, 65536]"),
        ({"embedding_size": 2.5}, "embedding_size=2.5: must be a whole number"),
        ({"widths": {"conv_block1.conv1": 10**9}}, "widths['conv_block1.conv1']=1000000000: must be a whole number"),
        ({"head": "decision_mac"}, "head='decision_mac' (did you mean 'decision_max'?): must be one of clip, "),
        ({"family": "rnn"}, "family='rnn'"),
    ],
)
def test_impossible_values_are_named(change, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        replace(ZOO["Cnn14"], **change)


@pytest.mark.parametrize("change", [{"head": "decision_max"}, {"kernel_size": 5}])
def test_settings_that_a_family_does_not_have_are_refused(change):
    with pytest.raises(ConfigError, match="must be clip and 3 in resnet22"):
        replace(ZOO["ResNet22"], **change)


def test_the_task_sets_the_activation_and_is_multi_label_by_default():
    spec = ZOO["Cnn14"]
    assert (spec.task, "activation" in spec.to_dict()) == ("multi-label", False)
    single = spec.with_task("single-label")
    assert single.to_dict() == {**spec.to_dict(), "activation": "softmax"}
    assert ModelSpec.from_dict(single.to_dict()) == single != spec
    assert copy.deepcopy(single).with_widths({"conv_block1.conv1": 8}).task == "single-label"
    assert single.with_task("multi-label") == spec


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "softmx"}, "activation='softmx' (did you mean 'softmax'?): must be one of sigmoid, softmax"),
        ({"activation": "softmax", "head": "decision_att"}, "activation='softmax' with head='decision_att': decision-"),
        ({"activation": "softmax", "num_classes": 1}, "activation='softmax' with num_classes=1: a single class would"),
    ],
)
def test_specifications_that_cannot_be_single_label_are_refused(change, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        replace(ZOO["Cnn14"], **change)


def test_an_unknown_task_offers_the_nearest():
    message = "task='single_label' (did you mean 'single-label'?): must be one of multi-label, single-label"
    with pytest.raises(ConfigError, match=re.escape(message)):
        ZOO["Cnn14"].with_task("single_label")


def test_from_dict_names_every_wrong_key():
    values = ZOO["Cnn14"].to_dict()
    del values["head"]
    with pytest.raises(ConfigError, match="unknown key 'heads'.*missing key 'head'"):
        ModelSpec.from_dict({**values, "heads": "clip"})
    with pytest.raises(ConfigError, match="widths=3: must be a table"):
        ModelSpec.from_dict({**ZOO["Cnn14"].to_dict(), "widths": 3})
    with pytest.raises(ConfigError, match="name=3: must be printable text"):
        ModelSpec.from_dict({**ZOO["Cnn14"].to_dict(), "name": 3})


@given(st.sampled_from([*ZOO["Cnn14"].to_dict(), "x"]) | st.none(), ANY_VALUE)
def test_any_value_at_any_key_is_read_or_refused_in_one_line(key, value):
    values = value if key is None else {**ZOO["Cnn14"].to_dict(), key: value}
    try:
        ModelSpec.from_dict(values)
    except ConfigError as error:
        assert "\n" not in printable(str(error))
