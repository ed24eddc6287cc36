"""An ONNX graph whose constants are arrays and whose edges can be looked up."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Array = NDArray[Any]


class Graph:
    """Look-ups and changes in the graph of a model, which is changed in place.

    Attributes:
        model: What is changed.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self._constants = {constant.name: constant for constant in model.graph.initializer}
        self.refresh()

    def refresh(self) -> None:
        """Look the edges up again, after nodes were changed."""
        self._producers = {name: node for node in self.model.graph.node for name in node.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.model.graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    def nodes(self, *types: str) -> list[onnx.NodeProto]:
        """Return the nodes of some types, in the order in which they run."""
        return [node for node in self.model.graph.node if node.op_type in types]

    def constant(self, name: str) -> Array | None:
        """Return the constant of a name, None where it is none."""
        held = self._constants.get(name)
        return None if held is None else numpy_helper.to_array(held)

    def set_constant(self, name: str, value: Array) -> None:
        """Replace a constant, or add one."""
        made = numpy_helper.from_array(np.array(value, order="C"), name)  # ascontiguousarray gives scalars an axis
        if name in self._constants:
            self._constants[name].CopyFrom(made)
        else:
            self.model.graph.initializer.append(made)
            self._constants[name] = self.model.graph.initializer[-1]

    def producer(self, name: str) -> onnx.NodeProto | None:
        """Return the node that makes a tensor; None for inputs and constants."""
        return self._producers.get(name)

    def readers(self, name: str) -> list[onnx.NodeProto]:
        """Return the nodes that read a tensor, once for each time."""
        return self._readers.get(name, [])

    def is_output(self, name: str) -> bool:
        """Whether a tensor is an output of the graph."""
        return any(output.name == name for output in self.model.graph.output)

    def only_reader(self, name: str) -> onnx.NodeProto | None:
        """Return the one node that reads a tensor; None where there are several, or it is an output."""
        readers = self.readers(name)
        return readers[0] if len(readers) == 1 and not self.is_output(name) else None

    def rank(self, name: str) -> int | None:
        """Return the number of axes of a tensor as far as the graph tells."""
        graph = self.model.graph
        for value in (*graph.value_info, *graph.input, *graph.output):
            if value.name == name and value.type.tensor_type.HasField("shape"):
                return len(value.type.tensor_type.shape.dim)
        return None

    def replace(self, old: onnx.NodeProto, *new: onnx.NodeProto) -> None:
        """Put nodes in the place of one; nodes that were looked up before are copies from then on."""
        nodes = list(self.model.graph.node)
        place = next(index for index, node in enumerate(nodes) if node.output[0] == old.output[0])
        copies = [
            onnx.NodeProto.FromString(node.SerializeToString()) for node in (*nodes[:place], *new, *nodes[place + 1 :])
        ]
        del self.model.graph.node[:]
        self.model.graph.node.extend(copies)
        self.refresh()


def attributes(node: onnx.NodeProto) -> Mapping[str, Any]:
    """Return a node's attributes as Python values."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model of its own that is the same."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy
