"""Batch norms into the convolutions before them; one that normalises what comes in becomes a product and a sum."""

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

from epanns.export.graph import Array, Graph, attributes


def fold_batch_norms(model: onnx.ModelProto) -> None:
    """Remove the batch norms of a graph, in place; what it computes stays, but for rounding.

    One behind a convolution changes its weights and bias, also through an average pooling without padding, which no
    affine map of a channel notices. One on another axis than the channels' (`bn0`, on mel bins between two
    transpositions) and one behind anything else become a product and a sum for each of its channels.
    """
    graph = Graph(model)
    for result in [norm.output[0] for norm in graph.nodes("BatchNormalization")]:
        norm = graph.producer(result)
        assert norm is not None, "a batch norm is replaced in its own turn"
        scale, shift = _affine(graph, norm)
        conv = _convolution_before(graph, norm.input[0])
        if conv is None:
            _as_product_and_sum(graph, norm, scale, shift)
        else:
            _into(graph, conv, scale, shift)
            _bypass(graph, norm)
    drop_unused(model)


def drop_idle(model: onnx.ModelProto) -> None:
    """Remove poolings of one element, in place: where nothing shrinks, MobileNets pool all the same."""
    graph = Graph(model)
    for result in [node.output[0] for node in graph.nodes("AveragePool", "MaxPool")]:
        node = graph.producer(result)
        if node is not None and all(size == 1 for size in attributes(node)["kernel_shape"]):
            _bypass(graph, node)


def fold_constants(model: onnx.ModelProto) -> None:
    """Compute the nodes that only constants go into, in place: an exporter may reorder an LSTM's gates in the graph."""
    graph = Graph(model)
    for node in list(model.graph.node):
        given = {name: graph.constant(name) for name in node.input if name}
        if given and all(value is not None for value in given.values()) and len(node.output) == 1:
            (value,) = ReferenceEvaluator(node).run(None, given)
            graph.set_constant(node.output[0], np.asarray(value))
            model.graph.node.remove(node)
    drop_unused(model)


def _affine(graph: Graph, norm: onnx.NodeProto) -> tuple[Array, Array]:
    """Return factor and offset of each channel, in float64."""
    weight, bias, mean, variance = (np.float64(_array(graph, name)) for name in norm.input[1:5])
    scale = weight / np.sqrt(variance + attributes(norm).get("epsilon", 1e-5))
    return scale, bias - mean * scale


def _convolution_before(graph: Graph, name: str) -> onnx.NodeProto | None:
    """Return the convolution whose outputs a tensor holds, alone and as they are but for average pooling."""
    node = graph.producer(name)
    while node is not None and graph.only_reader(node.output[0]) is not None:
        if node.op_type == "Conv":
            return node if len(graph.readers(node.input[1])) == 1 else None
        if node.op_type != "AveragePool" or any(attributes(node).get("pads", ())):
            return None
        node = graph.producer(node.input[0])
    return None


def _into(graph: Graph, conv: onnx.NodeProto, scale: Array, shift: Array) -> None:
    weight = _array(graph, conv.input[1])
    bias = np.float64(_array(graph, conv.input[2])) if len(conv.input) > 2 else np.zeros(len(weight))
    graph.set_constant(conv.input[1], (weight * scale.reshape(-1, *[1] * (weight.ndim - 1))).astype(weight.dtype))
    own = f"{conv.input[1]}.folded"  # a bias may be of several layers
    inputs = [*conv.input[:2], own]
    del conv.input[:]
    conv.input.extend(inputs)
    graph.set_constant(own, (bias * scale + shift).astype(weight.dtype))
    graph.refresh()


def _as_product_and_sum(graph: Graph, norm: onnx.NodeProto, scale: Array, shift: Array) -> None:
    axis, source, last = 1, norm.input[0], norm
    before, after = graph.producer(source), graph.only_reader(norm.output[0])
    rank = graph.rank(source)
    if before is not None and after is not None and _swap_alike(before, after):
        order = attributes(before)["perm"]
        axis, source, last, rank = order[1], before.input[0], after, len(order)
    if rank is None:
        return
    shape = [-1 if place == axis else 1 for place in range(rank)]
    own = norm.input[1].removesuffix(".weight")
    for part, value in (("scale", scale), ("shift", shift)):
        graph.set_constant(f"{own}.{part}", value.reshape(shape).astype(np.float32))
    scaled = f"{norm.output[0]}_scaled"
    product = helper.make_node("Mul", [source, f"{own}.scale"], [scaled], f"{scaled}_mul")
    total = helper.make_node("Add", [scaled, f"{own}.shift"], [last.output[0]], f"{scaled}_add")
    graph.replace(last, product, total)


def _swap_alike(before: onnx.NodeProto, after: onnx.NodeProto) -> bool:
    """Whether two nodes exchange the same two axes, so that the second undoes the first."""
    if (before.op_type, after.op_type) != ("Transpose", "Transpose"):
        return False
    order = attributes(before).get("perm", [])
    return order == attributes(after).get("perm") and all(order[place] == index for index, place in enumerate(order))


def _bypass(graph: Graph, node: onnx.NodeProto) -> None:
    """Remove a node: what heard it hears what it heard, under whichever of the two names is an output."""
    source, result = node.input[0], node.output[0]
    kept, gone = (result, source) if graph.is_output(result) else (source, result)
    graph.replace(node)
    for other in graph.model.graph.node:
        for names in (other.input, other.output):
            renamed = [kept if name == gone else name for name in names]
            del names[:]
            names.extend(renamed)
    graph.refresh()


def drop_unused(model: onnx.ModelProto) -> None:
    """Remove nodes and constants that no output depends on, in place."""
    graph = model.graph
    needed = {output.name for output in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed.update(node.input)
    constants = [constant for constant in graph.initializer if constant.name in needed]
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(kept)]
    del graph.node[:]
    graph.node.extend(nodes)
    values = [onnx.TensorProto.FromString(constant.SerializeToString()) for constant in constants]
    del graph.initializer[:]
    graph.initializer.extend(values)


def _array(graph: Graph, name: str) -> Array:
    held = graph.constant(name)
    assert held is not None, f"{name} is a constant of every network"
    return held
