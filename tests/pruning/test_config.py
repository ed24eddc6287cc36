"""Settings of a pruning: the same from the command line, an experiment and Python, and every contradiction refused."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from epanns.errors import PruningError
from epanns.models.zoo import build_model
from epanns.pruning.budgets.allocators import Global, Uniform
from epanns.pruning.budgets.budget import Budget
from epanns.pruning.config import Amount, PruningConfig
from epanns.pruning.prune import prune
from tests.any_value import ANY_VALUE

KEYS = ("ratio", "ratios", "budget", "target_params", "target_macs", "target_bytes", "target_latency", "int8", "layers")
KEYS += ("allocate", "minimum", "sensitivity", "round_to", "criterion", "seed")


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
def test_a_table_and_keywords_give_the_same_config(table, keywords):
    assert PruningConfig.from_table(table) == PruningConfig.of(**keywords)


@pytest.mark.parametrize(
    ("table", "match"),
    [
        ({}, "give one of ratio, ratios, target_params, target_macs, target_bytes, target_latency and budget"),
        ({"ratio": 0.5, "target_macs": "0.5"}, "give one of ratio and target_macs"),
        ({"ratoi": 0.5}, r"unknown key 'ratoi' \(did you mean 'ratio'\?\)"),
        ({"ratio": "half", "round_to": 0}, "ratio='half': must be a finite number; round_to=0: must be a whole number"),
        ({"ratio": 0.5, "int8": True}, "int8 goes with target_bytes"),
        ({"ratio": 0.5, "minimum": 0.1}, "minimum goes with allocate global or sensitivity"),
        ({"ratio": 0.5, "allocate": "sensitivity"}, "allocate sensitivity and sensitivity FILE.csv go together"),
        ({"ratio": 0.5, "criterion": "l3"}, r"unknown criterion 'l3': choose one of l1, l2"),
        ({"ratios": {"conv_block3": 0.5}, "layers": ["conv_block3"]}, "layers goes with one ratio"),
        ({"ratios": {"conv_block3": 0.5}, "allocate": "global"}, "allocate='global' goes with one ratio or a budget"),
    ],
)
def test_a_wrong_table_is_refused(table, match):
    with pytest.raises(PruningError, match=match):
        PruningConfig.from_table(table)


@given(st.sampled_from(KEYS), ANY_VALUE)
def test_any_value_gives_a_config_or_one_error(key, value):
    table = {"ratio": 0.5, key: value}
    try:
        assert isinstance(PruningConfig.from_table(table), PruningConfig)
    except PruningError as error:
        assert "\n" not in str(error)


def test_an_amount_is_exactly_one():
    for fields in ({}, {"ratio": 0.5, "budget": Budget("macs", 0.5)}):
        with pytest.raises(PruningError, match="give one of ratio, ratios and budget"):
            Amount(**fields)


def test_a_setting_given_twice_is_refused(tiny_spec):
    network, clips = build_model(tiny_spec), [torch.zeros(1, 8_000)]
    with pytest.raises(PruningError, match=r"^config and ratio, seed: give either a config or keywords$"):
        prune(network, PruningConfig.of(ratio=0.5), ratio=0.25, seed=1)
    with pytest.raises(PruningError, match=r"^clips and calibration are the same setting: give one of them$"):
        prune(network, PruningConfig.of(ratio=0.5, criterion="activation"), clips, calibration=clips)
