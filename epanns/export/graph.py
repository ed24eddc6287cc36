"""An ONNX graph: look-ups, changes, and simplifications that keep what it computes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

Array = NDArray[Any]


class Graph:
    """Look-ups and changes in the graph of a model, which is changed in place."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self._constants = {constant.name: constant for constant in model.graph.initializer}
        self.refresh()

    def refresh(self) -> None:
        """Build the index of edges again, after nodes were changed."""
        self._producers = {name: node for node in self.model.graph.node for name in node.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.model.graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    def nodes(self, *types: str) -> list[onnx.NodeProto]:
        """Return the nodes of the given types in execution order."""
        return [node for node in self.model.graph.node if node.op_type in types]

    def constant(self, name: str) -> Array | None:
        """Return the value of a constant; None if the tensor is not a constant."""
        held = self._constants.get(name)
        return None if held is None else numpy_helper.to_array(held)

    def required_constant(self, name: str) -> Array:
        """Return the value of a tensor that is a constant in every network, such as a weight."""
        value = self.constant(name)
        assert value is not None, f"{name} is not a constant"
        return value

    def set_constant(self, name: str, value: Array) -> None:
        """Add or replace a constant."""
        made = numpy_helper.from_array(np.array(value, order="C"), name)  # ascontiguousarray gives scalars an axis
        if name in self._constants:
            self._constants[name].CopyFrom(made)
        else:
            self.model.graph.initializer.append(made)
            self._constants[name] = self.model.graph.initializer[-1]

    def producer(self, name: str) -> onnx.NodeProto | None:
        """Return the node that computes a tensor; None for inputs and constants."""
        return self._producers.get(name)

    def readers(self, name: str) -> list[onnx.NodeProto]:
        """Return the nodes that read a tensor, once per input that is this tensor."""
        return self._readers.get(name, [])

    def is_output(self, name: str) -> bool:
        """Return whether a tensor is an output of the graph."""
        return any(output.name == name for output in self.model.graph.output)

    def only_reader(self, name: str) -> onnx.NodeProto | None:
        """Return the only node that reads a tensor; None if there are several or the tensor is a graph output."""
        readers = self.readers(name)
        return readers[0] if len(readers) == 1 and not self.is_output(name) else None

    def rank(self, name: str) -> int | None:
        """Return the number of axes of a tensor; None if the graph does not hold its shape."""
        graph = self.model.graph
        for value in (*graph.value_info, *graph.input, *graph.output):
            if value.name == name and value.type.tensor_type.HasField("shape"):
                return len(value.type.tensor_type.shape.dim)
        return None

    def replace(self, old: onnx.NodeProto, *new: onnx.NodeProto) -> None:
        """Replace a node by any number of nodes; node objects from earlier look-ups are stale afterwards."""
        nodes = list(self.model.graph.node)
        place = next(index for index, node in enumerate(nodes) if node.output[0] == old.output[0])
        _set_nodes(self.model, [*nodes[:place], *new, *nodes[place + 1 :]])
        self.refresh()


def attributes(node: onnx.NodeProto) -> Mapping[str, Any]:
    """Return the attributes of a node as Python values."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a deep copy of a model."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def fold_constants(model: onnx.ModelProto) -> None:
    """Compute nodes that read constants alone, in place, such as the reordering of an LSTM's gates."""
    graph = Graph(model)
    for node in list(model.graph.node):
        given = {name: graph.constant(name) for name in node.input if name}
        if given and all(value is not None for value in given.values()) and len(node.output) == 1:
            (value,) = ReferenceEvaluator(node).run(None, given)
            graph.set_constant(node.output[0], np.asarray(value))
            model.graph.node.remove(node)
    remove_unused(model)


def remove_unit_poolings(model: onnx.ModelProto) -> None:
    """Remove poolings over one element, in place; MobileNets have them in layers that keep the size of the maps.

    The readers of a pooling are connected to its input; if its output is an output of the graph, that name is kept.
    """
    graph = Graph(model)
    for result in [node.output[0] for node in graph.nodes("AveragePool", "MaxPool")]:
        node = graph.producer(result)
        if node is None or any(size != 1 for size in attributes(node)["kernel_shape"]):
            continue
        source = node.input[0]
        kept, removed = (result, source) if graph.is_output(result) else (source, result)
        graph.replace(node)
        for other in model.graph.node:
            for names in (other.input, other.output):
                names[:] = [kept if name == removed else name for name in names]
        graph.refresh()


def batch_norms_as_products(model: onnx.ModelProto) -> None:
    """Replace each batch norm by a product and a sum with constants, in place.

    A batch norm between two equal transpositions of two axes, such as `bn0` over the mel bins, becomes a product and a
    sum on the axis of the mel bins, and the transpositions are removed.
    """
    graph = Graph(model)
    for result in [norm.output[0] for norm in graph.nodes("BatchNormalization")]:
        norm = graph.producer(result)
        assert norm is not None, "each batch norm is replaced once"
        weight, bias, mean, variance = (np.float64(graph.required_constant(name)) for name in norm.input[1:5])
        scale = weight / np.sqrt(variance + attributes(norm).get("epsilon", 1e-5))
        shift = bias - mean * scale
        axis, source, last, rank = 1, norm.input[0], norm, graph.rank(norm.input[0])
        around = [node for node in (graph.producer(source), graph.only_reader(result)) if node is not None]
        orders = [attributes(node)["perm"] for node in around if node.op_type == "Transpose"]
        if len(orders) == 2 and orders[0] == orders[1] == np.argsort(orders[0]).tolist():
            axis, source, last, rank = orders[0][1], around[0].input[0], around[1], len(orders[0])
        if rank is None:
            continue
        shape = [-1 if place == axis else 1 for place in range(rank)]
        own = norm.input[1].removesuffix(".weight")
        for part, value in (("scale", scale), ("shift", shift)):
            graph.set_constant(f"{own}.{part}", value.reshape(shape).astype(np.float32))
        scaled = f"{result}_scaled"
        product = helper.make_node("Mul", [source, f"{own}.scale"], [scaled], f"{scaled}_mul")
        total = helper.make_node("Add", [scaled, f"{own}.shift"], [last.output[0]], f"{scaled}_add")
        graph.replace(last, product, total)
    remove_unused(model)


def simplify_names(model: onnx.ModelProto, prefix: str) -> None:
    """Remove a prefix of the names of tensors, and the exporter's metadata, a tenth of a small file, in place."""
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
        for names in (node.input, node.output):
            names[:] = [name.removeprefix(prefix) for name in names]
    for value in (*model.graph.initializer, *model.graph.input, *model.graph.output):
        value.name = value.name.removeprefix(prefix)
        value.doc_string = ""
        del value.metadata_props[:]
    del model.graph.value_info[:]
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
    del model.functions[:]
    model.graph.name = "tagger"
    model.producer_name, model.producer_version = "epanns", ""


def remove_unused(model: onnx.ModelProto) -> None:
    """Remove nodes and constants that no output depends on, in place."""
    graph = model.graph
    needed = {output.name for output in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed.update(node.input)
    _set_nodes(model, kept[::-1])
    constants = [
        onnx.TensorProto.FromString(each.SerializeToString()) for each in graph.initializer if each.name in needed
    ]
    del graph.initializer[:]
    graph.initializer.extend(constants)


def _set_nodes(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    """Replace the nodes of a graph by copies, since protobuf frees the nodes that are deleted."""
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
