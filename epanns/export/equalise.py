"""Equal ranges of channels before quantisation: int8 has one scale per tensor, and channels may differ a hundredfold.

A channel divided by a positive number stays divided by it through ReLU, pooling and means. Multiplying the weights that
read the channel by the same number restores the function of the network (Nagel et al. 2019, arXiv 1906.04721, who
choose the numbers by the ranges of weights; here they are chosen by the ranges of activations).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from epanns.export.graph import Graph, attributes, copy_of
from epanns.export.runtime import Inputs, outputs_of

QUIETEST = 1e-3  # of the loudest channel: smallest maximum a channel is taken to have
DEPTHWISE_POWER, MIXING_POWER = 1.0, 0.5

_ELEMENTWISE = ("Relu", "Identity", "Dropout", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
_REDUCTIONS = ("ReduceMean", "ReduceMax")
_POOLED = (1, 2)  # channels on the second of two axes

Place = tuple[int, int]  # axis of the channels in a tensor, and number of axes of the tensor


@dataclass(frozen=True)
class Reader:
    """A layer that reads the channels; they are on `axis` of its weight."""

    weight: str
    axis: int
    is_depthwise: bool


@dataclass(frozen=True)
class Pair:
    """A convolution whose channels can be divided, and the layers that compensate for it.

    Attributes:
        weight: Name of its weight, channels on the first axis.
        bias: Name of its bias, or empty.
        measured: Tensor in which the channels are measured, channels on the second axis.
        rank: Number of axes of `measured`.
        readers: Layers that read the channels.
        restored: Pooled tensors ``(clips, channels)`` with other readers, which are multiplied back for those readers.
        through: Names of the nodes that read the divided channels.
    """

    node: str
    weight: str
    bias: str
    measured: str
    rank: int
    readers: tuple[Reader, ...]
    restored: tuple[str, ...]
    through: frozenset[str]

    @property
    def power(self) -> float:
        """How far ranges are equalised: fully if every reader filters each channel by itself.

        Readers that mix channels get the spread, which is removed from the activations, into their weights.
        """
        return DEPTHWISE_POWER if all(reader.is_depthwise for reader in self.readers) else MIXING_POWER


def equalise(model: onnx.ModelProto, batches: Iterable[Inputs]) -> tuple[str, ...]:
    """Equalise the ranges of channels, in place; outputs stay equal up to rounding.

    With ``a`` the largest absolute values of a layer's channels over the clips, each at least `QUIETEST` of the
    loudest, channel ``c`` is divided by ``(a_c / max a) ** power``, and the weights that read it are multiplied by it.

    Args:
        model: Graph in float32, with batch norms folded.
        batches: Calibration clips.

    Returns:
        Names of the weights of the convolutions whose channels were divided, in forward order.
    """
    pairs = pairs_of(model)
    graph = Graph(model)
    for pair, loudest in zip(pairs, channel_maxima(model, pairs, batches), strict=True):
        if not loudest.any():
            continue
        factors = (np.maximum(loudest, QUIETEST * loudest.max()) / loudest.max()) ** pair.power
        for name in (pair.weight, pair.bias):
            if name:
                _multiply(graph, name, 0, 1 / factors)
        for reader in pair.readers:
            _multiply(graph, reader.weight, reader.axis, factors)
        for name in pair.restored:
            _restore(graph, name, factors, pair.through)
    return tuple(pair.weight for pair in pairs)


def channel_maxima(
    model: onnx.ModelProto, pairs: Sequence[Pair], batches: Iterable[Inputs]
) -> list[NDArray[np.float64]]:
    """Return for each pair the largest absolute value ``(channels,)`` of each channel over all clips."""
    if not pairs:
        return []
    probe = copy_of(model)
    del probe.graph.output[:]
    names = []
    for index, pair in enumerate(pairs):
        name = f"loudest_{index}"
        axes = helper.make_tensor(f"{name}_axes", TensorProto.INT64, [pair.rank - 1], [0, *range(2, pair.rank)])
        probe.graph.initializer.append(axes)
        probe.graph.node.append(helper.make_node("Abs", [pair.measured], [f"{name}_abs"]))
        probe.graph.node.append(helper.make_node("ReduceMax", [f"{name}_abs", axes.name], [name], keepdims=0))
        probe.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
        names.append(name)
    found: list[NDArray[np.float64]] = []
    for maxima in outputs_of(probe, batches, names):
        now = [maximum.astype(np.float64) for maximum in maxima]
        found = [np.maximum(*both) for both in zip(found, now, strict=True)] if found else now
    return found


def pairs_of(model: onnx.ModelProto) -> list[Pair]:
    """Return the convolutions whose channels reach, neither mixed nor shifted, layers with weights alone.

    The channels of residual streams, of joined maps, before ReLU6 and of graph outputs stay unchanged.
    """
    graph = Graph(model)
    return [pair for conv in graph.nodes("Conv") if (pair := _pair_of(graph, conv)) is not None]


def _pair_of(graph: Graph, conv: onnx.NodeProto) -> Pair | None:
    """Follow the channels of a convolution to the layers that read them; None if they cannot be divided."""
    weight = graph.constant(conv.input[1])
    if weight is None:
        return None
    places: dict[str, Place] = {conv.output[0]: (1, weight.ndim)}
    readers, through, elsewhere = [], [], []
    for node in graph.model.graph.node:
        if not (read := [name for name in node.input if name in places]):
            continue
        if (reader := _as_reader(graph, node, places)) is not None:
            readers.append(reader)
        elif (place := _place_behind(graph, node, places)) is not None:
            places[node.output[0]] = place
        else:
            elsewhere += read
            continue
        through.append(node.name)
    elsewhere += [name for name in places if graph.is_output(name)]
    constants = [*conv.input[1:], *(reader.weight for reader in readers)]
    if not readers or any(len(graph.readers(name)) > 1 for name in constants):
        return None
    if any(places[name] != _POOLED for name in elsewhere):
        return None
    return Pair(
        node=conv.name,
        weight=conv.input[1],
        bias=conv.input[2] if len(conv.input) > 2 else "",
        measured=_behind_relu(graph, conv.output[0]),
        rank=weight.ndim,
        readers=tuple(readers),
        restored=tuple(dict.fromkeys(elsewhere)),
        through=frozenset(through),
    )


def _behind_relu(graph: Graph, name: str) -> str:
    """Return the output of the ReLU that follows a tensor, directly or behind a pooling; else the tensor."""
    reader, behind = graph.only_reader(name), name
    while reader is not None and reader.op_type in _ELEMENTWISE:
        behind = str(reader.output[0])
        if reader.op_type == "Relu":
            return behind
        reader = graph.only_reader(behind)
    return name


def _as_reader(graph: Graph, node: onnx.NodeProto, places: dict[str, Place]) -> Reader | None:
    """Return a node that mixes or filters the channels by a constant weight as a `Reader`; None for other nodes."""
    if node.op_type not in ("Conv", "Gemm", "MatMul") or node.input[0] not in places:
        return None
    axis, rank = places[node.input[0]]
    weight = graph.constant(node.input[1])
    given = attributes(node)
    if weight is None:
        return None
    if node.op_type == "Conv":
        groups = given.get("group", 1)
        is_depthwise = groups > 1 and groups == len(weight)
        return Reader(node.input[1], 0 if is_depthwise else 1, is_depthwise) if is_depthwise or groups == 1 else None
    if axis != rank - 1 or given.get("transA"):
        return None
    return Reader(node.input[1], 1 if given.get("transB") else weight.ndim - 2, False)


def _place_behind(graph: Graph, node: onnx.NodeProto, places: dict[str, Place]) -> Place | None:
    """Return where the channels are in the output of a node; None if a factor on a channel does not pass through."""
    axis, rank = places.get(node.input[0], (0, 0))
    if node.op_type in _ELEMENTWISE and node.input[0] in places:
        return axis, rank
    if node.op_type == "Transpose" and "perm" in attributes(node):
        return list(attributes(node)["perm"]).index(axis), rank
    if node.op_type == "Add":
        held = {places.get(name) for name in node.input}
        return held.pop() if len(held) == 1 else None
    if node.op_type in _REDUCTIONS and len(node.input) > 1:
        given = graph.constant(node.input[1])
        axes = {int(each) % rank for each in given.ravel()} if given is not None else {axis}
        if axis in axes:
            return None
        removed = set[int]() if attributes(node).get("keepdims", 1) else axes
        return axis - sum(each < axis for each in removed), rank - len(removed)
    return None


def _multiply(graph: Graph, name: str, axis: int, factors: NDArray[np.float64]) -> None:
    value = graph.required_constant(name)
    shape = [-1 if place == axis else 1 for place in range(value.ndim)]
    graph.set_constant(name, (value * factors.reshape(shape)).astype(value.dtype))


def _restore(graph: Graph, name: str, factors: NDArray[np.float64], through: frozenset[str]) -> None:
    """Multiply a pooled tensor back for all readers but the nodes in `through`, which compensate themselves."""
    divided = f"{name}_equalised"
    maker = graph.producer(name)
    assert maker is not None, "a pooled tensor is computed by a node"
    maker.output[0] = divided
    graph.set_constant(f"{name}_factors", factors.astype(np.float32)[None])
    product = helper.make_node("Mul", [divided, f"{name}_factors"], [name], f"{name}_restored")
    for reader in graph.readers(name):
        if reader.name in through:
            reader.input[:] = [divided if each == name else each for each in reader.input]
    graph.refresh()
    graph.replace(maker, maker, product)
