"""Exact minimum of a sum of terms that each depend on the levels of one or two layers."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
_Factor = tuple[tuple[int, ...], Array]


@dataclass(frozen=True)
class PairwiseSum:
    """A function of one level per layer: a sum of terms of single layers and of pairs of layers.

    Attributes:
        single: For each layer, the term ``(levels,)``.
        pairs: Layers i < j -> the term ``(levels of i, levels of j)``.
    """

    single: Sequence[Array]
    pairs: Mapping[tuple[int, int], Array]

    @classmethod
    def of(cls, cost: Callable[[Array], Array], sizes: Sequence[int]) -> "PairwiseSum":
        """Decompose a function of levels, up to a constant.

        Args:
            cost: Returns the values ``(n,)`` of choices ``(n, layers)``; must be such a sum.
            sizes: Number of levels of each layer.
        """
        count = len(sizes)

        def grid(layers: Sequence[int]) -> Array:
            levels = np.stack([axis.ravel() for axis in np.indices([sizes[layer] for layer in layers])], axis=1)
            choices = np.zeros((len(levels), count), np.int64)
            choices[:, list(layers)] = levels
            return cost(choices).astype(float).reshape([sizes[layer] for layer in layers])

        least = float(cost(np.zeros((1, count), np.int64))[0])
        single = [grid([layer]) - least for layer in range(count)]
        tops = np.array(sizes) - 1
        both = list(itertools.combinations(range(count), 2))
        ends = np.zeros((len(both), count), np.int64)
        for row, layers in enumerate(both):
            ends[row, list(layers)] = tops[list(layers)]
        together = cost(ends).astype(float) if both else np.zeros(0)
        pairs = {}
        for (i, j), joint in zip(both, together, strict=True):
            if not np.isclose(joint - least, single[i][-1] + single[j][-1], rtol=1e-12):
                pairs[i, j] = grid([i, j]) - least - single[i][:, None] - single[j][None]
        return cls(single, pairs)

    def plus(self, losses: Sequence[Array], price: float) -> "PairwiseSum":
        """Return the losses of single layers plus `price` times this function."""
        single = [loss + price * own for loss, own in zip(losses, self.single, strict=True)]
        return PairwiseSum(single, {layers: price * own for layers, own in self.pairs.items()})

    def minimum(self) -> NDArray[np.int64]:
        """Return the levels ``(layers,)`` with the smallest sum.

        Dynamic programming: a layer is eliminated by a table of its best level for each choice of the layers that share
        a term with it. In a chain of layers that is one neighbour; layers with few neighbours are eliminated first.
        """
        factors: list[_Factor] = [((layer,), own) for layer, own in enumerate(self.single)]
        factors += list(self.pairs.items())
        best: list[tuple[int, tuple[int, ...], Array]] = []
        remaining = set(range(len(self.single)))
        while remaining:
            scopes = {layer: _scope(factors, layer) for layer in remaining}
            layer = min(remaining, key=lambda layer: (len(scopes[layer]), layer))
            scope = scopes[layer]
            total = sum((_spread(factor, (*scope, layer)) for factor in factors if layer in factor[0]), np.zeros(()))
            best.append((layer, scope, total.argmin(axis=-1)))
            factors = [factor for factor in factors if layer not in factor[0]] + [(scope, total.min(axis=-1))]
            remaining.remove(layer)
        levels = np.zeros(len(self.single), np.int64)
        for layer, scope, table in reversed(best):
            levels[layer] = table[tuple(levels[list(scope)])]
        return levels


def _scope(factors: Sequence[_Factor], layer: int) -> tuple[int, ...]:
    """Return the layers that share a term with a layer."""
    return tuple(sorted({other for layers, _ in factors if layer in layers for other in layers} - {layer}))


def _spread(factor: _Factor, layers: tuple[int, ...]) -> Array:
    """Return a factor with an axis for each of `layers`."""
    own, values = factor
    order = [own.index(layer) for layer in layers if layer in own]
    sizes = iter(values.transpose(order).shape)
    return values.transpose(order).reshape([next(sizes) if layer in own else 1 for layer in layers])
