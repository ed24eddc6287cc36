"""What a criterion may look at."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from epanns.errors import PruningError

_PART_BYTES = 1 << 18  # of filters in float64 at a time; more than fits the cache takes four times as long


@dataclass(frozen=True)
class LayerFilters:
    """The filters of one layer, and what was measured of its channels where a criterion asks for it.

    Attributes:
        name: Layer name, such as ``conv_block4.conv1``.
        stored: ``(filters, in_channels, *kernel)``, on the CPU, unpruned, in the network's own precision.
        seed: Of the whole plan; a criterion that draws numbers derives its own from it and `name`.
        scale: ``(filters,)`` float64, factors of the batch norm that follows; None where there is none.
        read_covariance: ``(filters, filters)`` float64, see `ranking.activations`; None where not measured.
        gate_gradient: ``(filters,)`` float64, see `ranking.gradients`; None where not measured.
    """

    name: str
    stored: Tensor
    seed: int
    scale: Tensor | None = None
    read_covariance: Tensor | None = None
    gate_gradient: Tensor | None = None

    @property
    def weight(self) -> Tensor:
        """``(filters, in_channels, *kernel)`` float64; made anew each time, twice the memory of the layer.

        Raises:
            PruningError: If a number is not finite; sums of it would be no rank, decompositions no error in words.
        """
        weight = self.stored.to(torch.float64)
        if not math.isfinite(float(weight.sum())):
            broken = int((~weight.flatten(1).isfinite().all(dim=1)).nonzero()[0])
            raise PruningError(
                f"{self.name}: filter {broken} holds numbers that are not finite; its weights are damaged, so load a "
                "sound checkpoint"
            )
        return weight

    def parts(self) -> Iterator[Tensor]:
        """Yield `weight` flattened, ``(some filters, weights)`` float64, for sums that need little memory."""
        flat = self.stored.flatten(1)
        for part in torch.split(flat, max(1, _PART_BYTES // (8 * max(1, flat.shape[1])))):
            yield part.to(torch.float64)
