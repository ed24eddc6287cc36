"""LSTMs whose arithmetic is int8 too, with ranges that are found anew in each call."""

import numpy as np
import onnx
from onnx import helper

from epanns.export.graph import Graph, copy_of
from epanns.export.quantise import int8_by_channel

_DOMAIN = "com.microsoft"


def with_dynamic_lstms(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose LSTMs are ONNX Runtime's `DynamicQuantizeLSTM`: twice as fast, and of no other runtime.

    What an LSTM hears is brought to int8 with one scale for all clips of a call, so that a quiet clip should not share
    a call with a loud one.

    Args:
        model: In float32, constants folded.
    """
    copy = copy_of(model)
    graph = Graph(copy)
    for node in graph.nodes("LSTM"):
        scales = []
        for name in node.input[1:3]:
            weight = graph.constant(name)
            assert weight is not None, f"{name} is a constant of every network"
            directions = [int8_by_channel(direction.T, 1) for direction in weight]
            by_gate = np.stack([scale.ravel() for _, scale in directions])
            graph.set_constant(name, np.stack([integers for integers, _ in directions]))
            graph.set_constant(f"{name}_scale", by_gate)
            graph.set_constant(f"{name}_zero", np.zeros(by_gate.shape, np.int8))
            scales += [f"{name}_scale", f"{name}_zero"]
        node.input.extend([*[""] * (8 - len(node.input)), *scales])
        node.op_type, node.domain = "DynamicQuantizeLSTM", _DOMAIN
        for attribute in [one for one in node.attribute if one.name == "layout"]:
            node.attribute.remove(attribute)
    if graph.nodes("DynamicQuantizeLSTM"):
        copy.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    return copy
