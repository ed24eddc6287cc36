"""Weights and activations in int8: pairs of QuantizeLinear and DequantizeLinear around what shall run in int8.

Weights are symmetric with a scale for each output channel, activations asymmetric with one scale for a tensor, both of
eight bits (the QDQ form that ONNX Runtime, OpenVINO, TensorRT and QNN read). Biases and scales stay in float32, and a
runtime makes its own 32-bit biases of them. No zero point is written for weights, where it is 0.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper

from epanns.export.graph import Array, Graph, attributes, copy_of

WAVEFORM = "waveform"
WEIGHTED = ("Conv", "Gemm", "MatMul")
_ACTIVATIONS = ("Relu", "Clip")
_POOLS = ("MaxPool", "AveragePool")
_LARGEST_BIAS = 2.0**30  # in steps of its own; 32 bits hold twice that
_NOTHING = 1e-30  # smaller weights are zero: a 127th of them may be none of float32's numbers


def activations_of(model: onnx.ModelProto) -> tuple[str, ...]:
    """Return the tensors that are to be held in int8, in forward order.

    What layers with weights read, what convolutions give, behind their ReLU where one follows, and what is pooled of
    it. The input `waveform` is none of them: eight bits are too few for sound (tensorflow/models#9713); nor are the
    network's outputs.
    """
    graph = Graph(model)
    found: dict[str, None] = {}
    sound = {WAVEFORM, *(node.output[0] for node in graph.readers(WAVEFORM) if node.op_type == "Unsqueeze")}
    for node in model.graph.node:
        if node.op_type in WEIGHTED and graph.constant(node.input[1]) is not None:
            if node.input[0] not in sound:
                found[node.input[0]] = None
            if node.op_type == "Conv":
                found[_behind_activation(graph, node.output[0])] = None
        elif node.op_type in _POOLS and node.input[0] in found:
            found[_behind_activation(graph, node.output[0])] = None
    return tuple(name for name in found if not graph.is_output(name))


def _behind_activation(graph: Graph, name: str) -> str:
    reader = graph.only_reader(name)
    return reader.output[0] if reader is not None and reader.op_type in _ACTIVATIONS else name


def quantised(
    model: onnx.ModelProto, ranges: Mapping[str, tuple[float, float]], *, weights: bool = True
) -> onnx.ModelProto:
    """Return a copy in int8.

    Args:
        model: In float32, batch norms folded.
        ranges: Smallest and largest value of each activation that shall be in int8; the others stay in float32, and so
            does the arithmetic of layers that read or give one, but their weights are int8 all the same.
        weights: Whether weights too are brought to int8; False to learn what activations cost.
    """
    copy = copy_of(model)
    graph = Graph(copy)
    nodes: list[onnx.NodeProto] = [*_of_inputs(graph, ranges)]
    for node in copy.graph.node:
        nodes += _of_weights(graph, node, ranges) if weights and node.input else []
        nodes.append(node)
        for name in node.output:
            if name in ranges:
                nodes += _pair(graph, name, *ranges[name])
    for node in nodes:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            inputs = [_dequantised(name) if name in ranges else name for name in node.input]
            del node.input[:]
            node.input.extend(inputs)
    made = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del copy.graph.node[:]
    copy.graph.node.extend(made)
    del copy.graph.value_info[:]  # types that held before
    return copy


def _of_inputs(graph: Graph, ranges: Mapping[str, tuple[float, float]]) -> Iterable[onnx.NodeProto]:
    for value in graph.model.graph.input:
        if value.name in ranges:
            yield from _pair(graph, value.name, *ranges[value.name])


def _pair(graph: Graph, name: str, low: float, high: float) -> list[onnx.NodeProto]:
    """Return the nodes that bring a tensor to int8 and back; 0 is among what int8 can tell, for padding."""
    scale = np.float32(_step(low, high))
    zero = np.int8(np.clip(round(-128 - min(low, 0.0) / float(scale)), -128, 127))
    graph.set_constant(f"{name}.s", np.array(scale))
    graph.set_constant(f"{name}.z", np.array(zero))
    given = [f"{name}.s", f"{name}.z"]
    return [
        helper.make_node("QuantizeLinear", [name, *given], [f"{name}.q"]),
        helper.make_node("DequantizeLinear", [f"{name}.q", *given], [_dequantised(name)]),
    ]


def _step(low: float, high: float) -> float:
    return max(max(high, 0.0) - min(low, 0.0), 1e-12) / 255


def _dequantised(name: str) -> str:
    return f"{name}.dq"  # names stand in the file several times each, and a small network has many


def _of_weights(graph: Graph, node: onnx.NodeProto, ranges: Mapping[str, tuple[float, float]]) -> list[onnx.NodeProto]:
    """Bring the weights of a layer to int8; return the nodes that bring them back.

    Where the layer computes in float32, they are a cast and a product, which a runtime computes once when it loads the
    file; a DequantizeLinear would be computed in each call.
    """
    found = []
    in_int8 = node.input[0] in ranges
    for place, axis in _weights_of(graph, node):
        name = node.input[place]
        weight = graph.constant(name)
        if weight is None:
            continue
        node.input[place] = _dequantised(name)
        if weight.dtype != np.int8:  # else another layer of the same weight came first
            integers, scales = int8_by_channel(weight, axis, _least_scales(graph, node, ranges) if in_int8 else 0.0)
            graph.set_constant(name, integers)
            graph.set_constant(f"{name}.s", scales.ravel() if in_int8 else scales)
            found += _dequantisation(name, axis if in_int8 else None)
    return found


def _least_scales(graph: Graph, node: onnx.NodeProto, ranges: Mapping[str, tuple[float, float]]) -> Array | float:
    """Return the least scale of each channel with which a 32-bit bias can hold the channel's bias.

    The bias of a runtime counts in steps of the activation's scale times the weight's: of a channel that has next to no
    weights, but a bias, it would come out too small.
    """
    bias = graph.constant(node.input[2]) if node.op_type in WEIGHTED and len(node.input) > 2 else None
    return 0.0 if bias is None else np.abs(bias) / (_step(*ranges[node.input[0]]) * _LARGEST_BIAS)


def _dequantisation(name: str, axis: int | None) -> list[onnx.NodeProto]:
    given, result = f"{name}.s", _dequantised(name)
    if axis is not None:
        return [helper.make_node("DequantizeLinear", [name, given], [result], axis=axis)]
    return [
        helper.make_node("Cast", [name], [f"{name}.c"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{name}.c", given], [result]),
    ]


def _weights_of(graph: Graph, node: onnx.NodeProto) -> list[tuple[int, int]]:
    """Return which inputs of a node are weights, and the axis of each along which its output channels lie.

    Both directions of an LSTM, the first axis, share the scales of its gates.
    """
    if node.op_type == "LSTM":
        return [(1, 1), (2, 1)]
    if node.op_type not in WEIGHTED:
        return []
    if node.op_type == "Conv" or attributes(node).get("transB"):
        return [(1, 0)]
    held = graph.constant(node.input[1])
    return [] if held is None else [(1, held.ndim - 1)]


def int8_by_channel(weight: Array, axis: int, least: Array | float = 0.0) -> tuple[Array, Array]:
    """Return a weight as int8 in [-127, 127], and the scale of each channel along `axis`, float32, to multiply with.

    Scales are at least `least`, ``(channels,)`` or one number.
    """
    others = tuple(place for place in range(weight.ndim) if place != axis)
    largest = np.abs(weight).max(axis=others, keepdims=True)
    scales = np.where(largest > _NOTHING, largest, 1.0).astype(np.float32) / np.float32(127)
    scales = np.maximum(scales, np.reshape(least, [-1 if place == axis else 1 for place in range(weight.ndim)]))
    scales = scales.astype(np.float32)
    integers = np.clip(np.rint(weight / scales), -127, 127).astype(np.int8)
    return integers, scales
