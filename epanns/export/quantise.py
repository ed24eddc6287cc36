"""Weights and activations in int8, by pairs of QuantizeLinear and DequantizeLinear around each int8 tensor.

Weights are symmetric with one scale per output channel, activations asymmetric with one scale per tensor, both of
eight bits (the QDQ form that ONNX Runtime, OpenVINO, TensorRT and QNN read). Biases and scales stay in float32, from
which a runtime computes its own 32-bit biases. Weights have no zero point in the file, since theirs is 0.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from epanns.export.graph import Array, Graph, attributes, copy_of
from epanns.export.runtime import Inputs, outputs_of

WAVEFORM = "waveform"
WEIGHTED = ("Conv", "Gemm", "MatMul")
FAITHFUL = 0.995  # smallest correlation of logits with those of float32 that is accepted
MAX_FLOAT32_ACTIVATIONS = 6
_ACTIVATIONS = ("Relu", "Clip")
_POOLS = ("MaxPool", "AveragePool")
_LARGEST_BIAS = 2.0**30  # in units of its scale; 32 bits hold twice that
_SMALLEST_WEIGHT = 1e-30  # smaller weights count as zero: a 127th of them may underflow float32
_CLIPS = 32  # of calibration, for correlations
_CONTRIB_DOMAIN = "com.microsoft"

Ranges = Mapping[str, tuple[float, float]]  # name of an activation -> its smallest and its largest value


def activations_of(model: onnx.ModelProto) -> tuple[str, ...]:
    """Return the names of the tensors to quantise, in forward order.

    They are the inputs of layers with weights, the outputs of convolutions (after a ReLU that follows), and poolings of
    them. The input `waveform` stays in float32, since eight bits are too few for sound (tensorflow/models#9713), and so
    do the outputs of the graph.
    """
    graph = Graph(model)

    def behind_activation(name: str) -> str:
        reader = graph.only_reader(name)
        return reader.output[0] if reader is not None and reader.op_type in _ACTIVATIONS else name

    found: dict[str, None] = {}
    sound = {WAVEFORM, *(node.output[0] for node in graph.readers(WAVEFORM) if node.op_type == "Unsqueeze")}
    for node in model.graph.node:
        if node.op_type in WEIGHTED and graph.constant(node.input[1]) is not None:
            if node.input[0] not in sound:
                found[node.input[0]] = None
            if node.op_type == "Conv":
                found[behind_activation(node.output[0])] = None
        elif node.op_type in _POOLS and node.input[0] in found:
            found[behind_activation(node.output[0])] = None
    return tuple(name for name in found if not graph.is_output(name))


def quantised(model: onnx.ModelProto, ranges: Ranges, *, weights: bool = True) -> onnx.ModelProto:
    """Return a copy in int8.

    Args:
        model: Graph in float32, with batch norms folded.
        ranges: Range of each activation to quantise. Layers that read or compute another activation are evaluated in
            float32, with int8 weights.
        weights: Whether weights are quantised too; False measures the cost of the activations alone.
    """
    copy = copy_of(model)
    graph = Graph(copy)
    nodes: list[onnx.NodeProto] = []
    for value in copy.graph.input:
        if value.name in ranges:
            nodes += _activation_nodes(graph, value.name, *ranges[value.name])
    for node in copy.graph.node:
        nodes += _weight_nodes(graph, node, ranges) if weights and node.input else []
        nodes.append(node)
        for name in node.output:
            if name in ranges:
                nodes += _activation_nodes(graph, name, *ranges[name])
    for node in nodes:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            node.input[:] = [_dequantised(name) if name in ranges else name for name in node.input]
    made = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del copy.graph.node[:]
    copy.graph.node.extend(made)
    del copy.graph.value_info[:]  # types of the float32 graph
    return copy


def _activation_nodes(graph: Graph, name: str, low: float, high: float) -> list[onnx.NodeProto]:
    """Return the nodes that quantise and dequantise a tensor; 0 is represented exactly, for padding."""
    scale = np.float32(_scale(low, high))
    zero = np.int8(np.clip(round(-128 - min(low, 0.0) / float(scale)), -128, 127))
    graph.set_constant(f"{name}.s", np.array(scale))
    graph.set_constant(f"{name}.z", np.array(zero))
    given = [f"{name}.s", f"{name}.z"]
    return [
        helper.make_node("QuantizeLinear", [name, *given], [f"{name}.q"]),
        helper.make_node("DequantizeLinear", [f"{name}.q", *given], [_dequantised(name)]),
    ]


def _scale(low: float, high: float) -> float:
    return max(max(high, 0.0) - min(low, 0.0), 1e-12) / 255


def _dequantised(name: str) -> str:
    return f"{name}.dq"  # short, since names are a large part of a small network's file


def _weight_nodes(graph: Graph, node: onnx.NodeProto, ranges: Ranges) -> list[onnx.NodeProto]:
    """Quantise the weights of a layer, and return the nodes that dequantise them.

    In a layer that computes in float32 these are a cast and a product, which a runtime evaluates once when it loads the
    file; a DequantizeLinear would be evaluated in each call. Both directions of an LSTM, its first axis, share the
    scales of the gates.
    """
    made = []
    in_int8 = node.input[0] in ranges
    least: Array | float = 0.0
    if in_int8 and node.op_type in WEIGHTED and len(node.input) > 2:
        # A runtime stores a bias in units of the activation's scale times the weight's: the bias of a channel with
        # almost no weights would overflow 32 bits.
        bias = graph.constant(node.input[2])
        least = 0.0 if bias is None else np.abs(bias) / (_scale(*ranges[node.input[0]]) * _LARGEST_BIAS)
    for place in {"LSTM": (1, 2)}.get(node.op_type, (1,) if node.op_type in WEIGHTED else ()):
        name = node.input[place]
        weight = graph.constant(name)
        if weight is None:
            continue
        is_first = node.op_type == "Conv" or attributes(node).get("transB")
        axis = 1 if node.op_type == "LSTM" else 0 if is_first else weight.ndim - 1
        result = node.input[place] = _dequantised(name)
        if weight.dtype == np.int8:  # an earlier layer shares the weight
            continue
        integers, scales = int8_by_channel(weight, axis, least)
        graph.set_constant(name, integers)
        graph.set_constant(f"{name}.s", scales.ravel() if in_int8 else scales)
        if in_int8:
            made.append(helper.make_node("DequantizeLinear", [name, f"{name}.s"], [result], axis=axis))
        else:
            made.append(helper.make_node("Cast", [name], [f"{name}.c"], to=TensorProto.FLOAT))
            made.append(helper.make_node("Mul", [f"{name}.c", f"{name}.s"], [result]))
    return made


def int8_by_channel(weight: Array, axis: int, least: Array | float = 0.0) -> tuple[Array, Array]:
    """Quantise a weight symmetrically, with one scale per channel.

    Args:
        weight: Any shape.
        axis: Axis of the channels.
        least: Smallest scale, one number or ``(channels,)``.

    Returns:
        Integers in [-127, 127] as int8, and float32 scales to multiply them by, which broadcast along `axis`.
    """
    others = tuple(place for place in range(weight.ndim) if place != axis)
    largest = np.abs(weight).max(axis=others, keepdims=True)
    scales = np.where(largest > _SMALLEST_WEIGHT, largest, 1.0).astype(np.float32) / np.float32(127)
    scales = np.maximum(scales, np.reshape(least, [-1 if place == axis else 1 for place in range(weight.ndim)]))
    scales = scales.astype(np.float32)
    integers = np.clip(np.rint(weight / scales), -127, 127).astype(np.int8)
    return integers, scales


def with_dynamic_lstms(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose LSTMs compute in int8, with the ranges of each call: ONNX Runtime's `DynamicQuantizeLSTM`.

    They are twice as fast, and no other runtime has them. All clips of a call share the scale of the input, so a quiet
    clip loses accuracy beside a loud clip.

    Args:
        model: Graph in float32, constants folded.
    """
    copy = copy_of(model)
    graph = Graph(copy)
    for node in graph.nodes("LSTM"):
        scales = []
        for name in node.input[1:3]:
            directions = [int8_by_channel(direction.T, 1) for direction in graph.required_constant(name)]
            by_gate = np.stack([scale.ravel() for _, scale in directions])
            graph.set_constant(name, np.stack([integers for integers, _ in directions]))
            graph.set_constant(f"{name}_scale", by_gate)
            graph.set_constant(f"{name}_zero", np.zeros(by_gate.shape, np.int8))
            scales += [f"{name}_scale", f"{name}_zero"]
        node.input.extend([*[""] * (8 - len(node.input)), *scales])
        node.op_type, node.domain = "DynamicQuantizeLSTM", _CONTRIB_DOMAIN
        for attribute in [each for each in node.attribute if each.name == "layout"]:
            node.attribute.remove(attribute)
    if graph.nodes("DynamicQuantizeLSTM"):
        copy.opset_import.append(helper.make_opsetid(_CONTRIB_DOMAIN, 1))
    return copy


def fragile_activations(
    model: onnx.ModelProto, ranges: Ranges, batches: Sequence[Inputs]
) -> tuple[tuple[str, ...], float]:
    """Return the activations to keep in float32, and the correlation of the int8 network's logits with float32's.

    One tensor can spoil a network: in YAMNet the input of the depthwise convolution of layer 13, whose filters take
    differences of large numbers. If the correlation is below `FAITHFUL`, each activation is quantised alone, and the
    activations that cost most are kept in float32, one after the other, until the correlation is reached or
    `MAX_FLOAT32_ACTIVATIONS` are kept.

    Args:
        model: Graph in float32, channels equalised.
        ranges: Range of every activation that can be quantised.
        batches: Calibration clips, of which 32 are used.
    """
    used = batches[:: max(1, len(batches) // _CLIPS)][:_CLIPS]

    def logits_of(graph: onnx.ModelProto) -> Array:
        return np.concatenate([logits for (logits,) in outputs_of(graph, used, ["clipwise_logits"])])

    truth = logits_of(model)
    faithful = correlation(logits_of(quantised(model, ranges)), truth)
    if faithful >= FAITHFUL:
        return (), faithful
    alone = {
        name: correlation(logits_of(quantised(model, {name: ranges[name]}, weights=False)), truth) for name in ranges
    }
    kept: list[str] = []
    for name in sorted(alone, key=lambda name: alone[name])[:MAX_FLOAT32_ACTIVATIONS]:
        kept.append(name)
        rest = {other: ends for other, ends in ranges.items() if other not in kept}
        faithful = correlation(logits_of(quantised(model, rest)), truth)
        if faithful >= FAITHFUL:
            break
    return tuple(name for name in ranges if name in kept), faithful


def correlation(one: Array, other: Array) -> float:
    """Return the correlation of all values; if one array is constant, 1 where the arrays are equal and 0 elsewhere."""
    if not one.std() or not other.std():
        return float(np.allclose(one, other))
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])
