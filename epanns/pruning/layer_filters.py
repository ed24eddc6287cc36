"""What a criterion may look at."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class LayerFilters:
    """The filters of one layer.

    Attributes:
        name: Layer name, such as ``conv_block4.conv1``.
        weight: ``(filters, in_channels, *kernel)``, float64 on the CPU, unpruned.
        seed: Of the whole plan; a criterion that draws numbers derives its own from it and `name`.
        scale: ``(filters,)`` float64, factors of the batch norm that follows; None where there is none.
    """

    name: str
    weight: Tensor
    seed: int
    scale: Tensor | None = None
