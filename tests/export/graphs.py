"""Graphs made by hand, and what they compute."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from epanns.export.runtime import outputs_of

Node = tuple[str, Sequence[str], str, Mapping[str, object]]  # type, inputs, output, attributes


def graph_of(
    nodes: Sequence[Node], constants: Mapping[str, np.ndarray], outputs: Sequence[str], shape: Sequence[int | str]
) -> onnx.ModelProto:
    """Return a model on one input ``x``; nodes are called after what they give."""
    made = [helper.make_node(kind, inputs, [output], output, **given) for kind, inputs, output, given in nodes]
    graph = helper.make_graph(
        made,
        "by hand",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def run(model: onnx.ModelProto, x: np.ndarray, name: str = "y") -> np.ndarray:
    ((output,),) = outputs_of(model, [{"x": x}], [name])
    return output


def types_of(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def constant(model: onnx.ModelProto, name: str) -> np.ndarray:
    (held,) = [held for held in model.graph.initializer if held.name == name]
    return numpy_helper.to_array(held)


def separable(rng: np.random.Generator, *, spread: float) -> onnx.ModelProto:
    """Return three layers, 3x3, depthwise and pointwise, whose channels range over `spread` powers of ten, and a head.

    Large channels are read with small weights, so that all of them count: eight bits cannot carry them together.
    """
    loud = 10 ** rng.uniform(-spread, 0, (2, 16)).astype(np.float32)
    constants = {
        "w1": rng.normal(0, 0.3, (16, 1, 3, 3)).astype(np.float32) * loud[0][:, None, None, None],
        "b1": rng.uniform(0, 0.5, 16).astype(np.float32) * loud[0],
        "w2": rng.normal(0, 0.3, (16, 1, 3, 3)).astype(np.float32) * (loud[1] / loud[0])[:, None, None, None],
        "b2": rng.uniform(0, 0.5, 16).astype(np.float32) * loud[1],
        "w3": rng.normal(0, 0.3, (12, 16, 1, 1)).astype(np.float32) / loud[1][None, :, None, None],
        "b3": rng.uniform(0, 0.5, 12).astype(np.float32),
        "w4": rng.normal(0, 0.3, (5, 12)).astype(np.float32),
        "b4": np.zeros(5, np.float32),
        "axes": np.array([2, 3], np.int64),
    }
    nodes: list[Node] = [
        ("Conv", ["x", "w1", "b1"], "c1", {"pads": [1, 1, 1, 1]}),
        ("Relu", ["c1"], "r1", {}),
        ("Conv", ["r1", "w2", "b2"], "c2", {"pads": [1, 1, 1, 1], "group": 16}),
        ("Relu", ["c2"], "r2", {}),
        ("Conv", ["r2", "w3", "b3"], "c3", {}),
        ("Relu", ["c3"], "r3", {}),
        ("ReduceMean", ["r3", "axes"], "embedding", {"keepdims": 0}),
        ("Gemm", ["embedding", "w4", "b4"], "clipwise_logits", {"transB": 1}),
    ]
    return graph_of(nodes, constants, ["clipwise_logits", "embedding"], ["batch", 1, "time", 8])
