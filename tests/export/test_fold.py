"""Folding: the same function without a batch norm, whatever it stood behind."""

import numpy as np
import pytest

from epanns.export.fold import drop_idle, fold_batch_norms, fold_constants
from tests.export.graphs import graph_of, run, types_of

RNG = np.random.default_rng(0)


def norm(channels):
    parts = {"weight": (0.3, 1.5), "bias": (-0.5, 0.5), "mean": (-1, 1), "var": (0.2, 2)}
    return {name: RNG.uniform(*ends, channels).astype(np.float32) for name, ends in parts.items()}


NORM = ["weight", "bias", "mean", "var"]
CONV = {"w": RNG.normal(size=(6, 3, 3, 3)).astype(np.float32), "b": RNG.normal(size=6).astype(np.float32)}
SAME = {"pads": [1, 1, 1, 1]}
X = RNG.normal(size=(2, 3, 8, 10)).astype(np.float32)

BEHIND = {
    "a convolution": ([("Conv", ["x", "w", "b"], "c", SAME), ("BatchNormalization", ["c", *NORM], "y", {})], ["Conv"]),
    "one without a bias": ([("Conv", ["x", "w"], "c", {}), ("BatchNormalization", ["c", *NORM], "y", {})], ["Conv"]),
    "average pooling": (
        [
            ("Conv", ["x", "w", "b"], "c", SAME),
            ("AveragePool", ["c"], "p", {"kernel_shape": [2, 2], "strides": [2, 2]}),
            ("BatchNormalization", ["p", *NORM], "n", {"epsilon": 1e-4}),
            ("Relu", ["n"], "y", {}),
        ],
        ["Conv", "AveragePool", "Relu"],
    ),
    "padded average pooling": (
        [
            ("Conv", ["x", "w", "b"], "c", SAME),
            ("AveragePool", ["c"], "p", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
            ("BatchNormalization", ["p", *NORM], "y", {}),
        ],
        ["Conv", "AveragePool", "BatchNormalization"],
    ),
    "what something else hears too": (
        [
            ("Conv", ["x", "w", "b"], "c", SAME),
            ("BatchNormalization", ["c", *NORM], "n", {}),
            ("Add", ["c", "n"], "y", {}),
        ],
        ["Conv", "BatchNormalization", "Add"],
    ),
}


@pytest.mark.parametrize("behind", BEHIND)
def test_a_batch_norm_goes_into_the_convolution_before_it_where_the_function_allows(behind):
    nodes, types = BEHIND[behind]
    model = graph_of(nodes, {**CONV, **norm(6)}, ["y"], [2, 3, 8, 10])
    expected = run(model, X)
    fold_batch_norms(model)
    assert types_of(model) == types
    np.testing.assert_allclose(run(model, X), expected, atol=2e-5)


def test_the_batch_norm_of_the_mel_bins_becomes_a_factor_and_an_offset_for_each_bin():
    swap = {"perm": [0, 3, 2, 1]}
    nodes = [
        ("Transpose", ["x"], "t", swap),
        ("BatchNormalization", ["t", *NORM], "n", {}),
        ("Transpose", ["n"], "y", swap),
    ]
    model = graph_of(nodes, norm(10), ["y"], [2, 3, 8, 10])
    expected = run(model, X)
    fold_batch_norms(model)
    assert types_of(model) == ["Mul", "Add"]
    assert sorted(list(held.dims) for held in model.graph.initializer) == [[1, 1, 1, 10]] * 2
    np.testing.assert_allclose(run(model, X), expected, atol=1e-5)


def test_two_norms_behind_convolutions_that_share_a_bias_keep_to_themselves():
    nodes = [
        ("Conv", ["x", "w", "b"], "c", SAME),
        ("BatchNormalization", ["c", *NORM], "n", {}),
        ("Conv", ["x", "v", "b"], "d", SAME),
        ("Add", ["n", "d"], "y", {}),
    ]
    model = graph_of(nodes, {**CONV, "v": 2 * CONV["w"], **norm(6)}, ["y"], [2, 3, 8, 10])
    expected = run(model, X)
    fold_batch_norms(model)
    assert types_of(model) == ["Conv", "Conv", "Add"]
    np.testing.assert_allclose(run(model, X), expected, atol=2e-5)


def test_poolings_of_one_element_and_what_only_constants_go_into_are_gone():
    nodes = [
        ("AveragePool", ["x"], "p", {"kernel_shape": [1, 1]}),
        ("Transpose", ["w"], "t", {"perm": [1, 0]}),
        ("MatMul", ["p", "t"], "y", {}),
    ]
    model = graph_of(nodes, {"w": RNG.normal(size=(4, 10)).astype(np.float32)}, ["y"], [2, 3, 8, 10])
    expected = run(model, X)
    fold_constants(model)
    drop_idle(model)
    assert types_of(model) == ["MatMul"]
    assert [list(held.dims) for held in model.graph.initializer] == [[10, 4]]
    np.testing.assert_array_equal(run(model, X), expected)
