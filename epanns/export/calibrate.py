"""What a network's tensors range over, as clips are heard."""

from collections.abc import Iterable, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from epanns.export.graph import copy_of
from epanns.export.runtime import Inputs, outputs_of


def ranges_of(
    model: onnx.ModelProto, names: Sequence[str], batches: Iterable[Inputs]
) -> dict[str, tuple[float, float]]:
    """Return the smallest and the largest value of each tensor over all clips."""
    probe = copy_of(model)
    del probe.graph.output[:]
    ends = []
    for index, name in enumerate(names):
        for operation in ("ReduceMin", "ReduceMax"):
            end = f"{operation}_{index}"
            probe.graph.node.append(helper.make_node(operation, [name], [end], keepdims=0))
            probe.graph.output.append(helper.make_tensor_value_info(end, TensorProto.FLOAT, []))
            ends.append(end)
    found = np.array([outputs for outputs in outputs_of(probe, batches, ends)] if ends else [], np.float64)
    return {
        name: (float(found[:, 2 * index].min()), float(found[:, 2 * index + 1].max()))
        for index, name in enumerate(names)
    }
