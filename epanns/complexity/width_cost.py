"""The cost of a network as an exact formula of its widths, for searches over thousands of widths."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from epanns.complexity.macs import FLOAT32_BYTES, MACS, profile
from epanns.errors import ConfigError
from epanns.models.families.lean import BiLSTM
from epanns.models.families.yamnet import ShiftNorm2d
from epanns.models.spec import MAXIMUM_WIDTH, ModelSpec
from epanns.models.zoo import build_model

Widths = NDArray[np.int64]


class WidthCost:
    """Parameters, multiply-adds and bytes of a network as functions of the widths of its layers.

    The length of every axis of every parameter is a constant plus a sum of widths (several widths if channels are
    concatenated), and a layer has as many multiply-adds per weight as output positions, which do not depend on widths.
    So every cost is a weighted sum of products of such sums. The coefficients are read from the network's shapes at
    neighbouring widths, so the formula holds for any family; it is compared with `macs.profile` in the constructor.

    Kinds of cost:

    - ``params``: every weight, bias and batch-norm scale and shift, as `ModelCost.n_params`;
    - ``macs``: convolutions and linear layers, as `ModelCost.backbone_macs`;
    - ``bytes``: the parameters in float32, as `ModelCost.param_bytes`;
    - ``int8_bytes``: one byte per weight of a convolution or linear layer, and in float32 one scale and one bias per
      output channel of it. A batch norm's scale and shift are folded into the scale and bias of the layer before it;
      the batch norm of the mel bins, which follows no layer, keeps two numbers per bin. The rest of a file (graph, zero
      points, scales of activations) is not counted.

    Attributes:
        layers: Names of the layers with a width, in forward order: the columns of the argument of `evaluate`.
    """

    def __init__(self, spec: ModelSpec, *, seconds: float = 10.0) -> None:
        """Derive the formula of a network.

        Args:
            spec: The network at any widths.
            seconds: Clip length for ``macs``.

        Raises:
            ConfigError: If the cost is not such a formula of the widths, which would be a bug in a family's builder.
        """
        self.layers = tuple(spec.widths)
        modules = _modules(spec)
        shapes = _shapes(modules)
        self._names = tuple(shapes)
        depth = max(map(len, shapes.values()))
        lengths = _padded(shapes.values(), depth)  # (parameters, axes)
        self._slopes = np.zeros((*lengths.shape, len(spec.widths)), np.int64)
        for index, (layer, width) in enumerate(spec.widths.items()):
            step = 1 if width < MAXIMUM_WIDTH else -1
            moved = _shapes(_modules(spec.with_widths({layer: width + step})))
            self._slopes[:, :, index] = (_padded(moved.values(), depth) - lengths) * step
        self._constant = lengths - self._slopes @ np.array(list(spec.widths.values()), np.int64)
        macs = {layer.name: layer.macs for layer in profile(spec, seconds=seconds).layers}
        n_weights = Counter[str]()
        for name in filter(_is_weight, shapes):
            n_weights[_module(name)] += math.prod(shapes[name])
        outputs = {layer: macs[layer] // size for layer, size in n_weights.items()}  # number of output positions
        # The products of attention have no weights, and widths that are never pruned.
        self._weightless = {"macs": sum(macs[name] for name in macs.keys() - {_module(name) for name in shapes})}
        self._factors = {
            "params": np.ones(len(shapes), np.int64),
            "macs": np.array([_is_weight(name) * outputs.get(_module(name), 0) for name in shapes], np.int64),
            "bytes": np.full(len(shapes), FLOAT32_BYTES, np.int64),
            "int8_bytes": np.array([_int8_bytes(name, modules) for name in shapes], np.int64),
        }
        # Compare the formula with a count at widths far from those it was derived from.
        far = {layer: max(1, width // 2 + index % 2) for index, (layer, width) in enumerate(spec.widths.items())}
        counted = profile(spec.with_widths(far), seconds=seconds)
        if (self.of("params", far), self.of("macs", far)) != (counted.n_params, counted.backbone_macs):
            raise ConfigError(f"{spec.name}: its cost is no product of widths; please report it as a bug")

    def evaluate(self, kind: str, widths: Widths) -> NDArray[np.int64]:
        """Return the cost ``(n,)`` of each of `n` networks, exactly.

        Args:
            kind: ``params``, ``macs``, ``bytes`` or ``int8_bytes``.
            widths: ``(n, layers)``.
        """
        axes = np.tensordot(widths, self._slopes, axes=([1], [2])) + self._constant  # (n, parameters, axes)
        cost: NDArray[np.int64] = axes.prod(axis=2) @ self._factors[kind] + self._weightless.get(kind, 0)
        return cost

    def of(self, kind: str, widths: Mapping[str, int]) -> int:
        """Return the cost of one network."""
        return int(self.evaluate(kind, np.array([[widths[layer] for layer in self.layers]], np.int64))[0])

    def axes_of(self, parameters: Sequence[str], widths: Widths) -> NDArray[np.int64]:
        """Return the length ``(n, parameters, axes)`` of every axis of some parameters, 1 for missing axes."""
        chosen = [self._names.index(name) for name in parameters]
        axes: NDArray[np.int64] = np.tensordot(widths, self._slopes[chosen], axes=([1], [2])) + self._constant[chosen]
        return axes

    def depends(self, parameter: str, layers: Sequence[str]) -> NDArray[np.bool_]:
        """Return for each axis ``(axes,)`` of a parameter whether its length depends on the width of a given layer."""
        columns = [self.layers.index(layer) for layer in layers]
        depends: NDArray[np.bool_] = self._slopes[self._names.index(parameter)][:, columns].any(axis=1)
        return depends


def _modules(spec: ModelSpec) -> dict[str, nn.Module]:
    with torch.device("meta"):
        return dict(build_model(spec).named_modules())


def _shapes(modules: Mapping[str, nn.Module]) -> dict[str, tuple[int, ...]]:
    return {
        f"{name}.{own}": tuple(parameter.shape)
        for name, module in modules.items()
        for own, parameter in module.named_parameters(recurse=False)
    }


def _padded(shapes: Iterable[tuple[int, ...]], depth: int) -> NDArray[np.int64]:
    return np.array([(*shape, *[1] * (depth - len(shape))) for shape in shapes], np.int64)


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _is_weight(name: str) -> bool:
    """Return whether a parameter is a matrix or kernel; recurrent layers have several."""
    return name.rpartition(".")[2].startswith("weight")


def _int8_bytes(name: str, modules: Mapping[str, nn.Module]) -> int:
    """Return the bytes per element of a parameter in an int8 file.

    The scale of a channel is counted with its bias, and the scales of both matrices of a recurrent layer with its bias.
    A layer without a bias gets scale and bias from the batch norm behind it, in place of its two parameters.
    """
    module = modules[_module(name)]
    if isinstance(module, ShiftNorm2d):
        return 2 * FLOAT32_BYTES
    if type(module) not in MACS:
        return FLOAT32_BYTES
    if _is_weight(name):
        return 1
    return (3 if isinstance(module, BiLSTM) else 2) * FLOAT32_BYTES
