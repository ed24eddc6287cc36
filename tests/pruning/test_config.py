"""Settings of pruning: equal from the command line, TOML and Python; contradictions are refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epanns.errors import PruningError
from epanns.models.zoo import build_model
from epanns.pruning.budgets.allocators import Global, Uniform
from epanns.pruning.budgets.budget import Budget
from epanns.pruning.config import Amount, PruningConfig, ratio_per_layer, read_ratios, select_layers
from epanns.pruning.prune import prune
from tests.any_value import ANY_VALUE

KEYS = ("ratio", "ratios", "budget", "target_params", "target_macs", "target_bytes", "target_latency", "int8", "layers")
KEYS += ("allocate", "minimum", "sensitivity", "round_to", "criterion", "seed")
CONVS = ("conv_block1.conv1", "conv_block1.conv2", "conv_block2.conv1", "conv_block2.conv2", "conv_block10.conv1")
PROTECTED = {"fc1": "reason one", "att_block.att": "reason two"}


@pytest.mark.parametrize(
    ("table", "keywords"),
    [
        ({"ratio": 0.5}, {"ratio": 0.5, "allocate": Uniform()}),
        ({"ratio": None, "target_macs": "0.25"}, {"budget": Budget("macs", 0.25), "allocate": Uniform()}),
        ({"budget": "macs 0.25"}, {"budget": Budget("macs", 0.25), "allocate": Uniform()}),
        ({"target_bytes": "1MB", "int8": True}, {"budget": Budget("bytes", 1_000_000, True), "allocate": Uniform()}),
        ({"ratio": 0.5, "allocate": "global", "minimum": 0.2}, {"ratio": 0.5, "allocate": Global(0.2)}),
        (
            {"ratios": {"conv_block3": 0.5}, "criterion": "l2", "seed": 3, "round_to": 4},
            {"ratios": {"conv_block3": 0.5}, "criterion": "l2", "seed": 3, "round_to": 4, "allocate": Uniform()},
        ),
    ],
)
def test_a_table_and_keyword_arguments_give_the_same_config(table, keywords):
    assert PruningConfig.from_table(table) == PruningConfig.of(**keywords)


@pytest.mark.parametrize(
    ("table", "match"),
    [
        ({}, "give one of ratio, ratios, target_params, target_macs, target_bytes, target_latency and budget"),
        ({"ratio": 0.5, "target_macs": "0.5"}, "give one of ratio and target_macs"),
        ({"ratoi": 0.5}, r"unknown key 'ratoi' \(did you mean 'ratio'\?\)"),
        ({"ratio": "half", "round_to": 0}, "ratio='half': must be a finite number; round_to=0: must be a whole number"),
        ({"ratio": 0.5, "int8": True}, "int8 goes with target_bytes"),
        ({"ratio": 0.5, "minimum": 0.1}, "minimum goes with allocate global, distortion or sensitivity"),
        ({"ratio": 0.5, "allocate": "sensitivity"}, "allocate sensitivity and sensitivity FILE.csv go together"),
        ({"ratio": 0.5, "criterion": "l3"}, r"unknown criterion 'l3': choose one of l1, l2"),
        ({"ratios": {"conv_block3": 0.5}, "layers": ["conv_block3"]}, "layers goes with one ratio"),
        ({"ratios": {"conv_block3": 0.5}, "allocate": "global"}, "allocate='global' goes with one ratio or a budget"),
    ],
)
def test_an_invalid_table_is_refused(table, match):
    with pytest.raises(PruningError, match=match):
        PruningConfig.from_table(table)


@given(st.sampled_from(KEYS), ANY_VALUE)
def test_any_value_gives_a_config_or_one_error(key, value):
    table = {"ratio": 0.5, key: value}
    try:
        assert isinstance(PruningConfig.from_table(table), PruningConfig)
    except PruningError as error:
        assert "\n" not in str(error)


def test_an_amount_is_exactly_one_of_ratio_ratios_and_budget():
    for fields in ({}, {"ratio": 0.5, "budget": Budget("macs", 0.5)}):
        with pytest.raises(PruningError, match="give one of ratio, ratios and budget"):
            Amount(**fields)


def test_selected_layers_and_blocks_are_returned_in_forward_order():
    names = ["conv_block2", "conv_block1.conv2", "conv_block2.conv1"]
    assert select_layers(names, prunable=CONVS, protected=PROTECTED) == CONVS[1:4]
    assert select_layers(["conv_block1"], prunable=CONVS, protected=PROTECTED) == CONVS[:2]  # not conv_block10


def test_an_unknown_layer_is_refused_with_the_nearest_name():
    match = r"unknown layer 'conv_blok2' \(did you mean 'conv_block2'\?\): name a convolution or a block, among conv_bl"
    with pytest.raises(PruningError, match=match):
        select_layers(["conv_block1", "conv_blok2"], prunable=CONVS, protected=PROTECTED)


@pytest.mark.parametrize(("name", "reason"), [("fc1", "reason one"), ("att_block", "two"), ("att_block.att", "two")])
def test_a_protected_layer_is_refused_with_the_reason(name, reason):
    with pytest.raises(PruningError, match=rf"{name} cannot be pruned: .*{reason}"):
        select_layers([name], prunable=CONVS, protected=PROTECTED)


@pytest.mark.parametrize("names", [[], "conv_block1"])
def test_layers_must_be_a_list_that_is_not_empty(names):
    with pytest.raises(PruningError, match=r"layers=.*: give a list of layer names, or leave it out"):
        select_layers(names, prunable=CONVS, protected=PROTECTED)


@pytest.mark.parametrize("backwards", [False, True])
def test_the_ratio_of_a_layer_overrides_the_ratio_of_its_block(backwards):
    given_ratios = {"conv_block2": 0.5, "conv_block2.conv1": 0.25, "conv_block1.conv2": 0}
    if backwards:
        given_ratios = dict(reversed(given_ratios.items()))
    assert ratio_per_layer(given_ratios, prunable=CONVS, protected=PROTECTED) == {
        "conv_block1.conv2": 0,
        "conv_block2.conv1": 0.25,
        "conv_block2.conv2": 0.5,
    }


def test_an_invalid_ratio_of_a_block_is_reported_with_the_name_of_the_block():
    with pytest.raises(PruningError, match=r"ratio 1\.5 for conv_block2: must be in"):
        ratio_per_layer({"conv_block2": 1.5}, prunable=CONVS, protected=PROTECTED)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ratios.toml", "conv_block1 = 0.5\nconv_block2.conv1 = 0.25\n"),
        ("ratios.toml", 'conv_block1 = 0.5\n"conv_block2.conv1" = 0.25\n'),
        ("ratios.json", json.dumps({"conv_block1": 0.5, "conv_block2.conv1": 0.25})),
    ],
)
def test_ratios_are_read_from_toml_and_json(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    assert read_ratios(path) == {"conv_block1": 0.5, "conv_block2.conv1": 0.25}


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("ratios.toml", "conv_block1: 0.5", r"ratios\.toml: cannot be read as TOML \(.*\)"),
        ("ratios.json", "{", r"ratios\.json: cannot be read as JSON \(.*\)"),
        ("ratios.json", "[0.5]", r"ratios\.json: must hold lines such as conv_block4 = 0\.5, one per layer or block"),
        ("ratios.toml", "", r"ratios\.toml: must hold lines such as"),
        ("ratios.toml", 'conv_block1 = "half"', r"ratios\.toml: conv_block1 = 'half' must be a number in \[0, 1\)"),
        ("ratios.json", '{"conv_block1": 0.5, "conv_block1": 0.25}', r"key 'conv_block1' occurs twice in one table"),
        ("ratios.toml", "a.b = 0.5\n'a.b' = 0.25", r"ratios\.toml: a\.b is given twice; name each layer or block once"),
        ("ratios.json", '{"conv_block1": NaN}', r"NaN is no number of JSON"),
        ("ratios.toml", "conv_block1 = true", r"ratios\.toml: conv_block1 = True must be a number"),
    ],
)
def test_an_invalid_file_of_ratios_is_refused_with_its_path(tmp_path, name, text, match):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(PruningError, match=match):
        read_ratios(path)


def test_a_missing_file_of_ratios_is_refused_with_its_path(tmp_path):
    with pytest.raises(PruningError, match=r"nowhere\.toml: cannot be read \(No such file"):
        read_ratios(tmp_path / "nowhere.toml")


def test_a_layer_named_twice_is_refused():
    with pytest.raises(PruningError, match="layers: conv_block1 is given twice; name each layer or block once"):
        select_layers(["conv_block1", "conv_block2", "conv_block1"], prunable=CONVS, protected=PROTECTED)


def test_a_setting_given_twice_is_refused(tiny_spec):
    network = build_model(tiny_spec)
    with pytest.raises(PruningError, match=r"^config and ratio, seed: give either a config or keywords$"):
        prune(network, PruningConfig.of(ratio=0.5), ratio=0.25, seed=1)
