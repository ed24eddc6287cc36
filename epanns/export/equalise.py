"""Channels of equal range before quantisation: int8 has one scale for a tensor, and channels may differ a hundredfold.

A channel that is divided by a positive number passes through ReLU, pooling and means, and what reads it is multiplied
by the same number, so that the network computes what it did (Nagel et al. 2019, arXiv 1906.04721, choose the numbers by
the ranges of weights; here they are those of the channels as they are heard).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from epanns.export.graph import Array, Graph, attributes, copy_of
from epanns.export.sessions import Inputs, outputs_of

QUIETEST = 1e-3  # of the loudest channel: quieter ones count as this loud
DEPTHWISE_POWER, MIXING_POWER = 1.0, 0.5

_PASS_ON = ("Relu", "Identity", "Dropout", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
_REDUCTIONS = ("ReduceMean", "ReduceMax")
_POOLED = (1, 2)  # channels on the second of two axes


@dataclass(frozen=True)
class Reader:
    """A layer that reads channels, which lie along an axis of its weight."""

    weight: str
    axis: int
    is_depthwise: bool


@dataclass(frozen=True)
class Pair:
    """A convolution whose channels can be divided, and the layers that make good for it.

    Attributes:
        node: Name of the convolution's node.
        weight: Its weight, channels on the first axis.
        bias: Its bias, or nothing.
        measured: Tensor in which the channels are heard, on its second axis.
        rank: Number of axes of `measured`.
        readers: Layers that read the channels.
        restored: Pooled tensors ``(clips, channels)`` that something else hears too, multiplied back for it.
        through: Names of the nodes that hear the channels divided.
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
        """How far ranges are evened out: all the way where each channel is read by filters of its own.

        Where channels are mixed, what is taken from a range is added to the spread of the reader's weights.
        """
        return DEPTHWISE_POWER if all(reader.is_depthwise for reader in self.readers) else MIXING_POWER


def equalise(model: onnx.ModelProto, batches: Iterable[Inputs]) -> tuple[str, ...]:
    """Even out the ranges of channels, in place; what the model computes stays, but for rounding.

    With ``a`` the largest absolute values of a layer's channels over the clips, each at least `QUIETEST` of the
    loudest, channel ``c`` is divided by ``(a_c / max a) ** power`` and what reads it multiplied by that.

    Args:
        model: In float32, batch norms folded.
        batches: What the model hears, as for calibration.

    Returns:
        Names of the weights of the convolutions whose channels were divided, in forward order.
    """
    pairs = pairs_of(model)
    graph = Graph(model)
    for pair, loudest in zip(pairs, channel_maxima(model, pairs, batches), strict=True):
        if not loudest.any():
            continue
        factors = (np.maximum(loudest, QUIETEST * loudest.max()) / loudest.max()) ** pair.power
        _multiply(graph, pair.weight, 0, 1 / factors)
        if pair.bias:
            _multiply(graph, pair.bias, 0, 1 / factors)
        for reader in pair.readers:
            _multiply(graph, reader.weight, reader.axis, factors)
        for name in pair.restored:
            _restore(graph, name, factors, pair.through)
    return tuple(pair.weight for pair in pairs)


def channel_maxima(
    model: onnx.ModelProto, pairs: Sequence[Pair], batches: Iterable[Inputs]
) -> list[NDArray[np.float64]]:
    """Return the largest absolute value ``(channels,)`` of each channel of each pair, over all clips."""
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
    if not pairs:
        return []
    found: list[NDArray[np.float64]] = []
    for maxima in outputs_of(probe, batches, names):
        now = [maximum.astype(np.float64) for maximum in maxima]
        found = [np.maximum(*both) for both in zip(found, now, strict=True)] if found else now
    return found


def pairs_of(model: onnx.ModelProto) -> list[Pair]:
    """Return the convolutions whose channels go, unmixed and unshifted, to layers with weights alone.

    Residual streams, joined maps, ReLU6 and outputs of the network keep their channels as they are.
    """
    graph = Graph(model)
    return [pair for conv in graph.nodes("Conv") if (pair := _pair_of(graph, conv)) is not None]


def _pair_of(graph: Graph, conv: onnx.NodeProto) -> Pair | None:
    """Follow the channels of a convolution to what hears them."""
    weight = graph.constant(conv.input[1])
    if weight is None:
        return None
    places = {conv.output[0]: (1, weight.ndim)}  # tensor that holds the channels -> their axis, and its number of axes
    readers, through, elsewhere = [], [], []
    for node in graph.model.graph.node:
        if not (heard := [name for name in node.input if name in places]):
            continue
        if (reader := _as_reader(graph, node, places)) is not None:
            readers.append(reader)
        elif (place := _passed_on(graph, node, places)) is not None:
            places[node.output[0]] = place
        else:
            elsewhere += heard
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
        measured=_heard(graph, conv.output[0]),
        rank=weight.ndim,
        readers=tuple(readers),
        restored=tuple(dict.fromkeys(elsewhere)),
        through=frozenset(through),
    )


def _heard(graph: Graph, name: str) -> str:
    """Return the tensor behind the ReLU that follows a tensor, at once or behind a pooling; else the tensor itself."""
    reader, behind = graph.only_reader(name), name
    while reader is not None and reader.op_type in _PASS_ON:
        behind = str(reader.output[0])
        if reader.op_type == "Relu":
            return behind
        reader = graph.only_reader(behind)
    return name


def _as_reader(graph: Graph, node: onnx.NodeProto, places: dict[str, tuple[int, int]]) -> Reader | None:
    """Return how a node with a weight mixes or filters the channels; None where it does neither."""
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


def _passed_on(graph: Graph, node: onnx.NodeProto, places: dict[str, tuple[int, int]]) -> tuple[int, int] | None:
    """Return where a node leaves the channels that it hears; None where a factor on one would not come out of it."""
    axis, rank = places.get(node.input[0], (0, 0))
    if node.op_type in _PASS_ON and node.input[0] in places:
        return axis, rank
    if node.op_type == "Transpose" and "perm" in attributes(node):
        return list(attributes(node)["perm"]).index(axis), rank
    if node.op_type == "Add":
        held = {places.get(name) for name in node.input}
        return held.pop() if len(held) == 1 else None
    if node.op_type in _REDUCTIONS and len(node.input) > 1:
        return _reduced(graph, node, axis, rank)
    return None


def _reduced(graph: Graph, node: onnx.NodeProto, axis: int, rank: int) -> tuple[int, int] | None:
    given = graph.constant(node.input[1])
    axes = {int(one) % rank for one in given.ravel()} if given is not None else {axis}
    if axis in axes:
        return None
    gone = [] if attributes(node).get("keepdims", 1) else [one for one in axes]
    return axis - sum(one < axis for one in gone), rank - len(gone)


def _multiply(graph: Graph, name: str, axis: int, factors: NDArray[np.float64]) -> None:
    held: Array | None = graph.constant(name)
    assert held is not None, f"{name} is a constant of every network"
    shape = [-1 if place == axis else 1 for place in range(held.ndim)]
    graph.set_constant(name, (held * factors.reshape(shape)).astype(held.dtype))


def _restore(graph: Graph, name: str, factors: NDArray[np.float64], through: frozenset[str]) -> None:
    """Multiply a pooled tensor back for all that hear it but the layers that make good for it themselves."""
    divided = f"{name}_equalised"
    maker = graph.producer(name)
    assert maker is not None, "what was pooled is made by a node"
    maker.output[0] = divided
    graph.set_constant(f"{name}_factors", factors.astype(np.float32)[None])
    product = helper.make_node("Mul", [divided, f"{name}_factors"], [name], f"{name}_restored")
    for reader in graph.readers(name):
        if reader.name in through:
            inputs = [divided if one == name else one for one in reader.input]
            del reader.input[:]
            reader.input.extend(inputs)
    graph.refresh()
    graph.replace(maker, maker, product)
