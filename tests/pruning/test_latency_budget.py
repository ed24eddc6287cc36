"""Latency budgets, with a clock that counts: no test here depends on how fast a machine is."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from torch import nn

from epanns.complexity.latency import Latency
from epanns.complexity.macs import lstm_macs, profile
from epanns.errors import PruningError
from epanns.models.families.lean import BiLSTM
from epanns.models.spec import conv_widths
from epanns.models.tagger import Tagger
from epanns.models.zoo import ZOO, build_model
from epanns.pruning.budgets import latency_budget as latency_table
from epanns.pruning.budgets.allocators import Global, Uniform
from epanns.pruning.budgets.budget import Budget
from epanns.pruning.budgets.latency_budget import LatencyTable, Timing, time_runs, widths_for_latency
from epanns.pruning.budgets.widths_for_budget import Allocation
from tests.builders import narrow_spec

SPEC = narrow_spec(widths=conv_widths(16, 32, 48, 64))
FRONT_END = 2.0  # milliseconds


def layer_time(run, example) -> float:
    """Milliseconds by the multiply-adds of a layer, a front end in a constant time, all of a recurrent layer."""
    if isinstance(run, BiLSTM):
        return 1.5e-6 * len(example) * lstm_macs(run, example.shape[1:], example.shape[1:])
    layers = [
        layer for layer in getattr(run, "modules", list)() if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear)
    ]
    if not layers:
        return FRONT_END
    [layer] = layers
    with torch.no_grad():  # of shapes alone
        positions = layer.to("meta")(example.to("meta")).numel() // layer.weight.shape[0]
    return 1e-6 * positions * layer.weight.numel()


def latency(milliseconds: float) -> Latency:
    return Latency(milliseconds, 0.95 * milliseconds, 1.05 * milliseconds, 1, "a clock that counts", "float32")


def network_time(network: Tagger) -> float:
    """The layers' times, half as much again for what is between them, and the front end's."""
    return FRONT_END + 1.5e-6 * profile(network).backbone_macs


COUNTING = Timing(part=layer_time, network=lambda network: latency(network_time(network)))


@pytest.fixture(scope="module")
def model() -> Tagger:
    return build_model(SPEC).eval()


def build(widths):
    return build_model(SPEC.with_widths(widths)).eval()


def sharing(allocator=None, *, layers=tuple(SPEC.widths), round_to=1) -> Allocation:
    importances = {
        layer: torch.from_numpy(np.random.default_rng(0).lognormal(size=width)) for layer, width in SPEC.widths.items()
    }
    return Allocation(layers, allocator or Uniform(), round_to, importances.__getitem__)


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        *(ZOO[name].scaled(1 / 16) for name in ("ResNet22", "MobileNetV1", "Wavegram_Logmel_Cnn14", "LeeNet11")),
        *(ZOO[name].scaled(1 / 16) for name in ("YAMNet", "LEAN_concat")),
    ],
    ids=lambda spec: spec.family,
)
def test_the_table_is_exact_at_the_widths_timed_and_between(spec):
    """Times that are a product of the widths, as here, are interpolated exactly; concatenations and depthwise too."""
    table = LatencyTable(build_model(spec).eval(), tuple(spec.widths), COUNTING)
    halved = spec.with_widths({layer: max(2, width // 2) for layer, width in spec.widths.items()})
    rng = np.random.default_rng(0)
    anyhow = spec.with_widths(
        {layer: int(rng.integers(max(1, -(-width // 8)), width + 1)) for layer, width in spec.widths.items()}
    )
    for other in (spec, halved, anyhow):
        predicted = table.evaluate(np.array([list(other.widths.values())]))[0]
        assert predicted == pytest.approx(network_time(build_model(other)), rel=1e-6)
    assert table.unpruned.median == network_time(build_model(spec))


def test_layers_that_keep_their_widths_are_timed_at_one_point_and_equal_ones_once(model):
    timed = []

    def part(run, example):
        timed.append(tuple(example.shape))
        return layer_time(run, example)

    LatencyTable(model, ["conv_block4.conv2"], dataclasses.replace(COUNTING, part=part))
    # the front end, eight other layers (fc1 apart), and six widths each of conv_block4.conv2 and of fc1 that reads it
    assert len(timed) == 1 + 8 + 6 + 6


def test_a_noisy_table_never_falls_where_a_width_rises(model):
    rng = np.random.default_rng(0)
    noisy = dataclasses.replace(COUNTING, part=lambda *run: layer_time(*run) * rng.lognormal(0, 0.5))
    table = LatencyTable(model, model.layer_names, noisy)
    widths = rng.integers(1, 60, size=(50, len(SPEC.widths)))
    for index in range(widths.shape[1]):
        wider = widths.copy()
        wider[:, index] += 3
        assert (table.evaluate(wider) >= table.evaluate(widths) - 1e-9).all()


@pytest.mark.parametrize("budget", [Budget("latency", 0.5), Budget("latency", 20.0)], ids=str)
@pytest.mark.parametrize("allocator", [Uniform(), Global()], ids=lambda allocator: allocator.name)
@pytest.mark.parametrize("round_to", [1, 4])
def test_the_measured_latency_is_within_ten_percent_below(model, budget, allocator, round_to):
    found = widths_for_latency(model, budget, sharing(allocator, round_to=round_to), build, COUNTING)
    assert found.unpruned == network_time(model)
    assert found.asked == (20.0 if budget.amount == 20 else found.unpruned / 2)
    assert 0.9 * found.asked <= found.reached <= found.asked
    assert found.reached == network_time(build(found.widths))
    assert all(width % round_to == 0 for width in found.widths.values())
    assert found.to_dict() == {
        "kind": "latency",
        "asked": found.asked,
        "reached": found.reached,
        "unpruned": found.unpruned,
        "allocate": allocator.name,
        "spread": pytest.approx(0.1),
        "threads": 1,
        "runtime": "a clock that counts",
    }
    assert "measured with 1 thread and a spread of 10%" in found.summary()


@pytest.mark.parametrize("factor", [0.4, 3.0])
def test_a_table_that_is_wrong_is_corrected_by_what_is_measured(model, factor):
    """Small networks take `factor` times what the table says: the result is what was measured, not predicted."""
    dense = network_time(model)
    measured = []

    def network(one):
        share = network_time(one) / dense
        measured.append(dense * share * factor ** (1 - share))
        return latency(measured[-1])

    found = widths_for_latency(
        model, Budget("latency", 0.5), sharing(), build, dataclasses.replace(COUNTING, network=network)
    )
    assert 0.9 * found.asked <= found.reached <= found.asked
    assert found.reached == measured[-1]
    assert 2 < len(measured) <= 7
    assert abs(network_time(build(found.widths)) / found.asked - 1) > 0.1  # what the table alone would have missed


def test_where_nothing_is_fast_enough_the_nearest_within_ten_percent_is_taken(model):
    """A machine on which every pruned network takes 4 % more than was asked."""
    network = lambda one: latency(network_time(one) if one is model else 0.52 * network_time(model))  # noqa: E731
    found = widths_for_latency(
        model, Budget("latency", 0.5), sharing(), build, dataclasses.replace(COUNTING, network=network)
    )
    assert found.reached == pytest.approx(1.04 * found.asked)


@pytest.mark.parametrize(
    ("budget", "milliseconds", "match"),
    [
        (
            Budget("latency", 500.0),
            None,
            r"a budget of 500 ms removes nothing: the network has \d+\.?\d* ms, so give less",
        ),
        (
            Budget("latency", 3.0),
            [4.0] * 9,
            r"a budget of 3 ms was not met within 10%, measured were 4 ms \(spread 10%\), with every layer at its",
        ),
        (
            Budget("latency", 0.5),
            [30.0] * 9,
            r"a budget of [\d.]+ ms was not met within 10%, measured were 30 ms \(spread 10%\), .*: ask for 30 ms, ",
        ),
        (
            Budget("latency", 3.0),
            [1e5] * 9,  # the machine has become busy
            r"narrowest, and [\d.]+ ms unpruned: lower round_to, or measure while the machine does nothing else",
        ),
    ],
)
def test_a_latency_that_is_not_met_is_said_with_what_was_measured(model, budget, milliseconds, match):
    pruned = itertools.chain(milliseconds or [])
    network = lambda one: latency(network_time(one) if one is model else next(pruned))  # noqa: E731
    with pytest.raises(PruningError, match=match):
        widths_for_latency(model, budget, sharing(), build, dataclasses.replace(COUNTING, network=network))


def test_the_least_time_of_enough_passes_is_taken(monkeypatch):
    ticks = iter([0.0, 0.010, 0.020, 0.024, 0.030, 0.046, 0.050, 0.055])  # 10, 4, 16 and 5 ms
    monkeypatch.setattr(latency_table.time, "perf_counter", lambda: next(ticks))
    assert time_runs(lambda example: None, torch.zeros(1)) == pytest.approx(4.0)  # after 30 ms no more are timed
    assert next(ticks) == 0.050
