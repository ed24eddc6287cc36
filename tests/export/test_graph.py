"""Simplified graphs: the same function with fewer nodes."""

import numpy as np
from onnx import TensorProto, helper

from epanns.export.graph import batch_norms_as_products, fold_constants, remove_unit_poolings
from tests.export.graphs import graph_of, run, types_of

RNG = np.random.default_rng(0)


def norm(channels):
    parts = {"weight": (0.3, 1.5), "bias": (-0.5, 0.5), "mean": (-1, 1), "var": (0.2, 2)}
    return {name: RNG.uniform(*ends, channels).astype(np.float32) for name, ends in parts.items()}


NORM = ["weight", "bias", "mean", "var"]
X = RNG.normal(size=(2, 3, 8, 10)).astype(np.float32)


def test_the_batch_norm_of_the_mel_bins_becomes_a_factor_and_an_offset_for_each_bin():
    swap = {"perm": [0, 3, 2, 1]}
    nodes = [
        ("Transpose", ["x"], "t", swap),
        ("BatchNormalization", ["t", *NORM], "n", {}),
        ("Transpose", ["n"], "y", swap),
    ]
    model = graph_of(nodes, norm(10), ["y"], [2, 3, 8, 10])
    expected = run(model, X)
    batch_norms_as_products(model)
    assert types_of(model) == ["Mul", "Add"]
    assert sorted(list(held.dims) for held in model.graph.initializer) == [[1, 1, 1, 10]] * 2
    np.testing.assert_allclose(run(model, X), expected, atol=1e-5)


def test_a_batch_norm_of_channels_becomes_a_factor_and_an_offset_for_each_channel():
    nodes = [("Relu", ["x"], "r", {}), ("BatchNormalization", ["r", *NORM], "y", {"epsilon": 1e-4})]
    model = graph_of(nodes, norm(3), ["y"], [2, 3, 8, 10])
    model.graph.value_info.append(helper.make_tensor_value_info("r", TensorProto.FLOAT, [2, 3, 8, 10]))
    expected = run(model, X)
    batch_norms_as_products(model)
    assert types_of(model) == ["Relu", "Mul", "Add"]
    np.testing.assert_allclose(run(model, X), expected, atol=1e-5)


def test_poolings_of_one_element_and_nodes_that_read_constants_alone_are_removed():
    nodes = [
        ("AveragePool", ["x"], "p", {"kernel_shape": [1, 1]}),
        ("Transpose", ["w"], "t", {"perm": [1, 0]}),
        ("MatMul", ["p", "t"], "y", {}),
    ]
    model = graph_of(nodes, {"w": RNG.normal(size=(4, 10)).astype(np.float32)}, ["y"], [2, 3, 8, 10])
    expected = run(model, X)
    fold_constants(model)
    remove_unit_poolings(model)
    assert types_of(model) == ["MatMul"]
    assert [list(held.dims) for held in model.graph.initializer] == [[10, 4]]
    np.testing.assert_array_equal(run(model, X), expected)
