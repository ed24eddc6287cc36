"""How a checkpoint stores floating-point weights: as float32, or its matrices and kernels as float16.

Tensors of at least two dimensions hold nearly all numbers of a network and lose at most half a unit of float16's eleven
bits. Biases and batch norms stay float32: a running variance may be beyond float16's range.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from epanns.errors import CheckpointError
from epanns.models.tensors import TensorForm

STORAGES = ("float32", "float16")

_HALF, _LARGEST = "float16", torch.finfo(torch.float16).max


def stored_forms(forms: Mapping[str, TensorForm], storage: str) -> dict[str, TensorForm]:
    """Return the forms that the tensors of a network have in a file.

    Args:
        forms: Forms in memory.
        storage: One of `STORAGES`.
    """
    return {
        name: form._replace(dtype=_HALF) if storage == _HALF and _is_reduced(form) else form
        for name, form in forms.items()
    }


def to_storage(weights: Mapping[str, Tensor], storage: str) -> dict[str, Tensor]:
    """Return the tensors as a file holds them.

    Raises:
        CheckpointError: If a value is beyond the range of float16.
    """
    if storage != _HALF:
        return dict(weights)
    reduced = {}
    for name, tensor in weights.items():
        if not _is_reduced(TensorForm(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))):
            reduced[name] = tensor
            continue
        if (largest := tensor.abs().max().item()) > _LARGEST:
            raise CheckpointError(
                f"{name}: holds {largest:g}, float16 ends at {_LARGEST:g}: store the network as float32"
            )
        reduced[name] = tensor.half()
    return reduced


def from_storage(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a file as a network holds them, float16 as float32."""
    return {name: tensor.float() if tensor.dtype == torch.float16 else tensor for name, tensor in weights.items()}


def _is_reduced(form: TensorForm) -> bool:
    return len(form.shape) >= 2 and form.dtype == "float32"
