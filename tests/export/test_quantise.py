"""Int8: what is rounded by how much, what the file holds, and what stays in float32."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from epanns.export.int8_clips import ranges_of
from epanns.export.quantise import (
    FAITHFUL,
    activations_of,
    correlation,
    fragile_activations,
    int8_by_channel,
    quantised,
    with_dynamic_lstms,
)
from tests.export.graphs import constant, graph_of, run, separable

RNG = np.random.default_rng(2)
BATCHES = [{"x": RNG.normal(size=(4, 1, 20, 8)).astype(np.float32)} for _ in range(4)]
FLOATS = st.floats(-1e6, 1e6, width=32)


@given(arrays(np.float32, st.tuples(*[st.integers(1, 4)] * 3), elements=FLOATS), st.integers(0, 2))
def test_weights_are_off_by_half_a_step_of_their_channel_at_most(weight, axis):
    integers, scales = int8_by_channel(weight, axis)
    assert (integers.dtype, scales.size) == (np.int8, weight.shape[axis])
    assert int(np.abs(integers.astype(int)).max()) <= 127
    assert (np.abs(integers * scales - weight) <= 0.5001 * scales + 1e-30).all()


@pytest.mark.parametrize("weight", [1e-9, 1e-20, 1e-40, 0.0])
@pytest.mark.parametrize("kind", ["Conv", "Gemm"])
def test_a_channel_with_a_bias_and_next_to_no_weight_keeps_its_bias(kind, weight):
    weights = np.ones((3, 4) if kind == "Gemm" else (3, 4, 1, 1), np.float32)
    weights[:, 1:] *= 0.01  # x86 without VNNI adds two products in 16 bits: a second large one would saturate
    weights[1] *= weight
    constants = {"w": weights, "b": np.array([0.5, 0.4, -0.3], np.float32), "v": np.eye(3, dtype=np.float32)}
    shape = (2, 4) if kind == "Gemm" else (2, 4, 1, 1)
    axes = {"Conv": ("v4", {}), "Gemm": ("v", {"transB": 1})}[kind]
    nodes = [(kind, ["x", "w", "b"], "c", axes[1]), ("Relu", ["c"], "r", {}), (kind, ["r", axes[0]], "y", axes[1])]
    model = graph_of(nodes, {**constants, "v4": constants["v"][..., None, None]}, ["y"], shape)
    x = RNG.uniform(0, 1, shape).astype(np.float32)
    made = quantised(model, ranges_of(model, ["x", "r"], [{"x": x}]))
    np.testing.assert_allclose(run(made, x), run(model, x), atol=0.04)


def quantised_pairs(model):
    return [node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"]


def test_every_weight_is_int8_and_every_activation_has_its_pair():
    model = separable(RNG, spread=0.3)
    names = activations_of(model)
    assert names == ("x", "r1", "r2", "r3")  # the embedding is an output, and stays as exact as it is
    made = quantised(model, ranges_of(model, names, BATCHES))
    assert quantised_pairs(made) == list(names)
    assert {constant(made, name).dtype for name in ("w1", "w2", "w3", "w4")} == {np.dtype(np.int8)}
    assert len(made.SerializeToString()) < len(model.SerializeToString())
    assert (
        correlation(run(model, BATCHES[0]["x"], "clipwise_logits"), run(made, BATCHES[0]["x"], "clipwise_logits"))
        > 0.99
    )


def test_an_activation_is_off_by_half_a_step_and_zero_stays_zero():
    nodes = [("Conv", ["x", "one"], "y", {})]
    model = graph_of(nodes, {"one": np.ones((1, 1, 1, 1), np.float32)}, ["y"], ["batch", 1, 1, "time"])
    for low, high in ((-3.0, 5.0), (0.0, 7.0), (2.0, 9.0), (-8.0, -1.0), (0.0, 0.0)):
        made = quantised(model, {"x": (low, high)}, weights=False)
        x = np.linspace(min(low, 0), max(high, 0), 99, dtype=np.float32).reshape(1, 1, 1, 99)
        step = (max(high, 0) - min(low, 0)) / 255
        assert np.abs(run(made, x) - x).max() <= 0.51 * step + 1e-9
        assert run(made, np.zeros((1, 1, 1, 1), np.float32)) == 0


def test_layers_without_an_int8_input_have_int8_weights_all_the_same():
    model = separable(RNG, spread=0.3)
    ranges = ranges_of(model, activations_of(model), BATCHES)
    made = quantised(model, {name: ends for name, ends in ranges.items() if name != "r1"})
    assert quantised_pairs(made) == ["x", "r2", "r3"]
    assert constant(made, "w2").dtype == np.int8
    weights_alone = quantised(model, {})
    assert quantised_pairs(weights_alone) == []
    x = BATCHES[0]["x"]
    truth = run(model, x, "clipwise_logits")
    nearer = correlation(truth, run(weights_alone, x, "clipwise_logits"))
    assert nearer > correlation(truth, run(quantised(model, ranges), x, "clipwise_logits"))


def test_a_waveform_is_not_rounded():
    nodes = [("Unsqueeze", ["waveform", "one"], "u", {}), ("Conv", ["u", "w"], "y", {}), ("Conv", ["y", "v"], "z", {})]
    constants = {"one": np.array([1]), "w": np.ones((2, 1, 3), np.float32), "v": np.ones((2, 2, 3), np.float32)}
    model = graph_of(nodes, constants, ["z"], ["batch", "samples"])
    model.graph.input[0].name = "waveform"
    assert activations_of(model) == ("y",)


def test_a_weight_that_two_layers_share_is_dequantised_once():
    nodes = [("Conv", ["x", "w"], "c", {}), ("Conv", ["c", "w"], "y", {})]
    model = graph_of(nodes, {"w": RNG.normal(size=(3, 3, 1, 1)).astype(np.float32)}, ["y"], [1, 3, 4, 4])
    x = RNG.normal(size=(1, 3, 4, 4)).astype(np.float32)
    made = quantised(model, ranges_of(model, activations_of(model), [{"x": x}]))
    assert sum(node.output[0] == "w.dq" for node in made.graph.node) == 1
    assert correlation(run(model, x), run(made, x)) > 0.99


def lstm(rng):
    constants = {
        "w": rng.normal(0, 0.3, (2, 32, 16)).astype(np.float32),
        "r": rng.normal(0, 0.3, (2, 32, 8)).astype(np.float32),
        "b": rng.normal(0, 0.3, (2, 64)).astype(np.float32),
    }
    for name in "wr":  # x86 without VNNI adds two products in 16 bits: a second large one would saturate
        constants[name][..., 1::2] *= 0.01
    given = {"direction": "bidirectional", "hidden_size": 8}
    return graph_of([("LSTM", ["x", "w", "r", "b"], "y", given)], constants, ["y"], ["steps", "batch", 16])


def test_lstms_hold_int8_matrices_with_or_without_int8_arithmetic():
    model = lstm(RNG)
    x = RNG.normal(size=(12, 3, 16)).astype(np.float32)
    truth = run(model, x)
    for made in (quantised(model, {}), with_dynamic_lstms(model)):
        assert {constant(made, name).dtype for name in "wr"} == {np.dtype(np.int8)}
        assert correlation(truth, run(made, x)) > 0.999
        assert np.abs(truth - run(made, x)).max() < 0.03
    assert {entry.domain for entry in quantised(model, {}).opset_import} == {""}
    assert constant(model, "w").dtype == np.float32  # a copy was made


def test_an_activation_that_spoils_the_network_stays_in_float32():
    """The second layer takes differences of numbers that are a thousand times as large."""
    rng = np.random.default_rng(5)
    first = np.concatenate([np.ones((8, 1, 1, 1)), 1 + 1e-3 * rng.normal(size=(8, 1, 1, 1))]).astype(np.float32)
    second = np.concatenate([np.eye(8), -np.eye(8)], axis=1).astype(np.float32)[..., None, None]
    nodes = [
        ("Conv", ["x", "w1"], "a", {}),
        ("Relu", ["a"], "loud", {}),
        ("Conv", ["loud", "w2"], "b", {}),
        ("Relu", ["b"], "quiet", {}),
        ("ReduceMean", ["quiet", "axes"], "m", {"keepdims": 0}),
        ("Gemm", ["m", "w3"], "clipwise_logits", {"transB": 1}),
    ]
    constants = {"w1": first, "w2": second, "w3": rng.normal(size=(5, 8)).astype(np.float32), "axes": np.array([2, 3])}
    model = graph_of(nodes, constants, ["clipwise_logits"], ["batch", 1, 6, 6])
    batches = [{"x": rng.uniform(0, 100, (1, 1, 6, 6)).astype(np.float32)} for _ in range(40)]
    ranges = ranges_of(model, activations_of(model), batches)
    assert set(ranges) == {"x", "loud", "quiet", "m"}
    exact = {name: ends for name, ends in ranges.items() if name != "x"}
    left_out, faithful = fragile_activations(model, exact, batches)
    assert left_out == ("loud",)

    def correlation_with(kept):
        made = quantised(model, kept)
        return correlation(
            *[
                np.concatenate([run(graph, batch["x"], "clipwise_logits") for batch in batches[:32]])
                for graph in (model, made)
            ]
        )

    assert correlation_with(exact) < FAITHFUL <= faithful
    assert faithful == correlation_with({name: ends for name, ends in exact.items() if name != "loud"})


def test_faithful_networks_are_left_in_int8_throughout():
    model = separable(RNG, spread=0.3)
    ranges = ranges_of(model, activations_of(model), BATCHES)
    truth, made = (run(graph, BATCHES[0]["x"], "clipwise_logits") for graph in (model, quantised(model, ranges)))
    assert correlation(truth, made) > FAITHFUL
    assert fragile_activations(model, ranges, BATCHES)[0] == ()
