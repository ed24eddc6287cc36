"""The formula of the widths equals the count of a forward pass, for any widths of any network."""

import dataclasses
import functools
import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from epanns.complexity import width_cost
from epanns.complexity.macs import profile
from epanns.complexity.width_cost import WidthCost
from epanns.errors import ConfigError
from epanns.models.families.lean import BiLSTM
from epanns.models.spec import ModelSpec
from epanns.models.zoo import ZOO, build_model
from tests.builders import narrow_spec

CNNS = [narrow_spec(head=head) for head in ("clip", "decision_max", "decision_att")]
# One network of every family, the deepest of which have forty widths.
FAMILIES = [
    pytest.param(spec, marks=[pytest.mark.slow] if len(spec.widths) > 20 else [], id=spec.family)
    for spec in {spec.family: spec.scaled(1 / 8) for spec in ZOO.values()}.values()
]
formula_of = functools.cache(WidthCost)


def counted(spec: ModelSpec, widths: Mapping[str, int]) -> tuple[int, int, int]:
    cost = profile(spec.with_widths(widths))
    return cost.n_params, cost.backbone_macs, cost.param_bytes


def by_formula(spec: ModelSpec, widths: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(formula_of(spec).of(kind, widths) for kind in ("params", "macs", "bytes"))


@settings(max_examples=10)
@given(spec=st.sampled_from(CNNS), data=st.data())
def test_the_formula_equals_the_count_at_any_widths(spec, data):
    widths = {layer: data.draw(st.integers(1, 2 * width), label=layer) for layer, width in spec.widths.items()}
    assert by_formula(spec, widths) == counted(spec, widths)


@pytest.mark.parametrize("spec", FAMILIES)
def test_the_formula_holds_for_every_family(spec):
    rng = np.random.default_rng(0)
    widths = {layer: int(rng.integers(1, 2 * width + 1)) for layer, width in spec.widths.items()}
    assert by_formula(spec, widths) == counted(spec, widths)


def test_many_networks_at_once_cost_what_each_costs():
    spec = narrow_spec()
    formula = WidthCost(spec, seconds=3.0)
    widths = np.random.default_rng(0).integers(1, 20, size=(5, len(spec.widths)))
    at_once = formula.evaluate("macs", widths)
    one_by_one = [
        profile(spec.with_widths(dict(zip(spec.widths, row, strict=True))), seconds=3.0) for row in widths.tolist()
    ]
    assert at_once.tolist() == [cost.backbone_macs for cost in one_by_one]


@pytest.mark.parametrize("spec", [*FAMILIES, *CNNS], ids=lambda spec: spec.head)
def test_int8_counts_weights_once_and_scales_and_a_bias_per_channel(spec):
    """Counted on the modules: every convolution gets a scale and a bias, and only norms that follow none stay."""
    with torch.device("meta"):
        modules = [
            module for module in build_model(spec).modules() if next(module.parameters(recurse=False), None) is not None
        ]
    layers = [module for module in modules if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear)]
    norms = [module for module in modules if isinstance(module, _BatchNorm)]
    lstms = [module for module in modules if isinstance(module, BiLSTM)]
    assert len(layers) + len(norms) + len(lstms) == len(modules)
    folded = sum(layer.weight.shape[0] for layer in layers if layer.bias is None)
    kept = sum(norm.num_features for norm in norms) - folded
    expected = sum(layer.weight.numel() + 8 * layer.weight.shape[0] for layer in layers) + 8 * kept
    rows = ((8 * lstm.hidden_size, lstm.input_size + lstm.hidden_size) for lstm in lstms)  # four gates, both directions
    expected += sum(n_rows * (n_bytes + 2 * 4 + 4) for n_rows, n_bytes in rows)  # a scale for each matrix, one bias
    assert formula_of(spec).of("int8_bytes", spec.widths) == expected


def test_the_length_of_every_axis_is_known():
    spec = narrow_spec()
    widths = np.array([[3, 5, *list(spec.widths.values())[2:]]])
    formula = formula_of(spec)
    axes = formula.axes_of(["conv_block1.conv2.weight", "fc1.bias"], widths)
    assert axes.tolist() == [[[5, 3, 3, 3], [9, 1, 1, 1]]]
    assert formula.depends("conv_block1.conv2.weight", ["conv_block1.conv1"]).tolist() == [False, True, False, False]
    assert formula.depends("conv_block1.conv2.weight", ["conv_block5.conv1"]).tolist() == [False] * 4


def test_a_cost_that_is_no_such_formula_is_refused(monkeypatch):
    def wrong(spec: ModelSpec, **settings: float) -> object:
        cost = profile(spec, **settings)
        square = math.isqrt(cost.backbone_macs) if spec != narrow_spec() else cost.backbone_macs
        return dataclasses.replace(cost, backbone_macs=square)

    monkeypatch.setattr(width_cost, "profile", wrong)
    with pytest.raises(ConfigError, match=r"narrow: its cost is no product of widths; please report it as a bug"):
        WidthCost(narrow_spec())
