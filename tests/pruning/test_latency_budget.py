"""Latency budgets with a simulated clock, so that no test depends on the speed of the machine."""

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
    """Return simulated milliseconds: constant for a front end, proportional to the multiply-adds of a layer."""
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
    return Latency(milliseconds, 0.95 * milliseconds, 1.05 * milliseconds, 1, "simulated", "float32")


def network_time(network: Tagger) -> float:
    """Return the simulated milliseconds of a network: of its front end, and 1.5 times those of its layers."""
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
        ZOO["mn01"].scaled(1 / 4),
    ],
    ids=lambda spec: spec.family,
)
def test_predicted_latency_is_exact_at_and_between_the_timed_widths(spec):
    """Times that are products of widths are interpolated exactly, also of concatenated and depthwise layers."""
    table = LatencyTable(build_model(spec).eval(), tuple(spec.widths), COUNTING)
    halved = spec.with_widths({layer: max(2, width // 2) for layer, width in spec.widths.items()})
    rng = np.random.default_rng(0)
    random = spec.with_widths(
        {layer: int(rng.integers(max(1, -(-width // 8)), width + 1)) for layer, width in spec.widths.items()}
    )
    for other in (spec, halved, random):
        predicted = table.evaluate(np.array([list(other.widths.values())]))[0]
        assert predicted == pytest.approx(network_time(build_model(other)), rel=1e-6)
    assert table.unpruned.median == network_time(build_model(spec))


def test_layers_that_are_not_pruned_are_timed_at_one_width(model):
    timed = []

    def part(run, example):
        timed.append(tuple(example.shape))
        return layer_time(run, example)

    LatencyTable(model, ["conv_block4.conv2"], dataclasses.replace(COUNTING, part=part))
    # the front end, eight other layers, and six widths each of conv_block4.conv2 and of its reader fc1
    assert len(timed) == 1 + 8 + 6 + 6


def test_predicted_latency_is_monotonic_in_every_width_despite_noise(model):
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
def test_the_measured_latency_is_at_most_ten_percent_below_the_budget(model, budget, allocator, round_to):
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
        "runtime": "simulated",
    }
    assert "measured with 1 thread and a spread of 10%" in found.summary()


@pytest.mark.parametrize("factor", [0.4, 3.0])
def test_a_wrong_prediction_is_corrected_by_measured_networks(model, factor):
    """Small networks take `factor` times the predicted time; the result is the measured time."""
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
    assert abs(network_time(build(found.widths)) / found.asked - 1) > 0.1  # the prediction alone misses the budget


def test_a_network_at_most_ten_percent_too_slow_is_accepted_when_none_is_faster(model):
    """Every pruned network takes 4 % more than the budget."""
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
            [1e5] * 9,  # a busy machine
            r"narrowest, and [\d.]+ ms unpruned: lower round_to, or measure while the machine does nothing else",
        ),
    ],
)
def test_a_latency_that_is_not_met_is_reported_with_the_measured_latencies(model, budget, milliseconds, match):
    pruned = itertools.chain(milliseconds or [])
    network = lambda one: latency(network_time(one) if one is model else next(pruned))  # noqa: E731
    with pytest.raises(PruningError, match=match):
        widths_for_latency(model, budget, sharing(), build, dataclasses.replace(COUNTING, network=network))


def test_the_minimum_over_thirty_milliseconds_of_passes_is_returned(monkeypatch):
    ticks = iter([0.0, 0.010, 0.020, 0.024, 0.030, 0.046, 0.050, 0.055])  # 10, 4, 16 and 5 ms
    monkeypatch.setattr(latency_table.time, "perf_counter", lambda: next(ticks))
    assert time_runs(lambda example: None, torch.zeros(1)) == pytest.approx(4.0)  # no further passes after 30 ms
    assert next(ticks) == 0.050
