"""Equalisation: the same function, ranges evened out, and an int8 network that is nearer to it."""

import numpy as np
import pytest

from epanns.export.equalise import QUIETEST, channel_maxima, equalise, pairs_of
from epanns.export.graph import copy_of
from epanns.export.int8_clips import ranges_of
from epanns.export.quantise import activations_of, correlation, quantised
from tests.export.graphs import graph_of, run, separable

RNG = np.random.default_rng(1)
BATCHES = [{"x": RNG.normal(size=(4, 1, 20, 8)).astype(np.float32)} for _ in range(4)]
UNHEARD = RNG.normal(size=(40, 1, 20, 8)).astype(np.float32)


@pytest.mark.parametrize("spread", [0.5, 2.0, 4.0])
def test_equalisation_keeps_the_function_of_the_network(spread):
    model = separable(RNG, spread=spread)
    expected = [run(model, UNHEARD, name) for name in ("clipwise_logits", "embedding")]
    assert equalise(model, BATCHES) == ("w1", "w2", "w3")
    for name, values in zip(("clipwise_logits", "embedding"), expected, strict=True):
        np.testing.assert_allclose(run(model, UNHEARD, name), values, atol=1e-5 * np.abs(values).max())


def test_int8_comes_nearer_to_float32():
    correlations = []
    for seed in range(3):
        model = separable(np.random.default_rng(seed), spread=3.0)
        truth = run(model, UNHEARD, "clipwise_logits")
        even = copy_of(model)
        equalise(even, BATCHES)
        pair = [
            run(quantised(graph, ranges_of(graph, activations_of(graph), BATCHES)), UNHEARD, "clipwise_logits")
            for graph in (model, even)
        ]
        correlations.append([correlation(truth, logits) for logits in pair])
    plain, equalised = np.array(correlations).T
    assert (equalised > plain).all()
    assert equalised.min() > 0.999
    assert plain.max() < 0.9975, plain


def test_ranges_are_evened_out_all_the_way_into_depthwise_and_half_way_into_mixing_layers():
    model = separable(RNG, spread=2.0)
    before = channel_maxima(model, pairs_of(model), BATCHES)
    equalise(model, BATCHES)
    after = channel_maxima(model, pairs_of(model), BATCHES)
    for loud, even, power in zip(before, after, (1.0, 0.5, 0.5), strict=True):
        heard = loud > QUIETEST * loud.max()
        relative = np.maximum(loud / loud.max(), QUIETEST)
        np.testing.assert_allclose(even[heard], (loud * relative**-power)[heard], rtol=1e-4)
    np.testing.assert_allclose(after[0], after[0].max(), rtol=1e-4)


def test_a_silent_channel_counts_as_a_thousandth_and_silence_changes_nothing():
    model = separable(RNG, spread=0.5)
    silence = [{"x": np.full((1, 1, 20, 8), -1e9, np.float32)}]
    nodes = [("Conv", ["x", "w", "b"], "c", {}), ("Relu", ["c"], "r", {}), ("Conv", ["r", "v"], "y", {})]
    w = np.array([1.0, -1.0], np.float32).reshape(2, 1, 1, 1)
    one_silent = graph_of(
        nodes, {"w": abs(w), "b": np.zeros(2, np.float32), "v": w.reshape(1, 2, 1, 1)}, ["y"], [1, 1, 2, 2]
    )
    before = copy_of(one_silent)
    equalise(one_silent, [{"x": np.full((1, 1, 2, 2), -1, np.float32)}])
    assert one_silent == before
    x = np.ones((1, 1, 2, 2), np.float32)
    equalise(one_silent, [{"x": x}])
    np.testing.assert_allclose(run(one_silent, x), run(before, x), atol=1e-6)
    assert len(channel_maxima(model, pairs_of(model), silence)) == 3


W = {"w": RNG.normal(size=(4, 4, 1, 1)).astype(np.float32), "v": RNG.normal(size=(4, 4, 1, 1)).astype(np.float32)}
CONV = ("Conv", ["x", "w"], "c", {})
NOT_EQUALISED = {
    "a residual stream": [CONV, ("Add", ["c", "x"], "s", {}), ("Conv", ["s", "v"], "y", {})],
    "joined maps": [CONV, ("Concat", ["c", "x"], "j", {"axis": 1}), ("Conv", ["j", "u"], "y", {})],
    "ReLU6": [CONV, ("Clip", ["c", "zero", "six"], "r", {}), ("Conv", ["r", "v"], "y", {})],
    "a sigmoid": [CONV, ("Sigmoid", ["c"], "r", {}), ("Conv", ["r", "v"], "y", {})],
    "an output of the network": [("Conv", ["x", "w"], "y", {}), ("Conv", ["y", "v"], "z", {})],
    "a weight of two layers": [CONV, ("Conv", ["c", "v"], "d", {}), ("Conv", ["d", "v"], "y", {})],
}


@pytest.mark.parametrize("case", NOT_EQUALISED)
def test_channels_with_other_readers_are_not_divided(case):
    constants = W | {"u": np.ones((4, 8, 1, 1), np.float32), "zero": np.float32(0), "six": np.float32(6)}
    model = graph_of(NOT_EQUALISED[case], constants, ["y"], [1, 4, 3, 3])
    assert "w" not in [pair.weight for pair in pairs_of(model)] or case == "a weight of two layers"
    before = copy_of(model)
    assert equalise(model, [{"x": RNG.normal(size=(1, 4, 3, 3)).astype(np.float32)}]) == ()
    assert model == before


def test_pooling_by_maximum_and_mean_and_two_readers_pass_the_factors_on():
    nodes = [
        ("Conv", ["x", "w"], "c", {}),
        ("Relu", ["c"], "r", {}),
        ("ReduceMean", ["r", "last"], "m", {"keepdims": 0}),
        ("ReduceMax", ["m", "last_of_three"], "a", {"keepdims": 0}),
        ("ReduceMean", ["m", "last_of_three"], "b", {"keepdims": 0}),
        ("Add", ["a", "b"], "p", {}),
        ("Gemm", ["p", "g"], "y", {}),
        ("MatMul", ["p", "h"], "z", {}),
    ]
    constants = {
        "w": W["w"] * np.array([1, 0.1, 0.01, 5], np.float32)[:, None, None, None],
        "g": RNG.normal(size=(4, 3)).astype(np.float32),
        "h": RNG.normal(size=(4, 2)).astype(np.float32),
        "last": np.array([3]),
        "last_of_three": np.array([-1]),
    }
    model = graph_of(nodes, constants, ["y", "z"], [2, 4, 6, 5])
    x = RNG.normal(size=(2, 4, 6, 5)).astype(np.float32)
    before = copy_of(model)
    assert equalise(model, [{"x": x}]) == ("w",)
    assert model != before
    for name in ("y", "z"):
        np.testing.assert_allclose(run(model, x, name), run(before, x, name), atol=1e-5)
