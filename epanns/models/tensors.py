"""Names, shapes, types and number of a network's tensors; the digest of their values."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from epanns.models.spec import ModelSpec
from epanns.models.zoo import build_model

_SHOWN = 4  # names per kind of difference; a message stays one readable line
_LONGEST = 100  # characters of a name in a message


class TensorForm(NamedTuple):
    """Shape and element type of a tensor that may not be in memory."""

    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.shape} {self.dtype}"


def forms_of(weights: Mapping[str, Tensor]) -> dict[str, TensorForm]:
    """Return the form of each tensor of a state dict."""
    return {
        name: TensorForm(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        for name, tensor in weights.items()
    }


def expected_forms(spec: ModelSpec) -> dict[str, TensorForm]:
    """Return the forms of the state dict of `spec`, without allocating it."""
    with torch.device("meta"):
        return forms_of(build_model(spec).state_dict())


class ParameterCounts(NamedTuple):
    """The size of a network in three conventions.

    Attributes:
        trainable: Weights, biases, and scales and shifts of batch norms.
        with_statistics: Trainable parameters and running means and variances of batch norms: the total of Keras.
        folded: Parameters after folding each batch norm into the layer before it, which leaves a bias per channel. The
            batch norm of the mel bins has no layer before it and keeps scale and shift.
    """

    trainable: int
    with_statistics: int
    folded: int


def count_parameters(model: nn.Module) -> ParameterCounts:
    """Count the parameters of a network, which may be on the meta device."""
    trainable = sum(parameter.numel() for parameter in model.parameters())
    norms = {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
    statistics = sum(2 * norm.num_features for norm in norms.values())
    scales = sum(isinstance(norm.weight, nn.Parameter) * norm.num_features for norm in norms.values())
    kept = norms["bn0"].num_features if "bn0" in norms else 0
    return ParameterCounts(trainable, trainable + statistics, trainable - scales + kept)


def parameters_of(spec: ModelSpec) -> ParameterCounts:
    """Count the parameters of `spec` without allocating them."""
    with torch.device("meta"):
        return count_parameters(build_model(spec))


def count_params(spec: ModelSpec) -> int:
    """Return the number of trainable parameters of `spec`, without allocating them."""
    return parameters_of(spec).trainable


def weights_digest(model: nn.Module) -> str:
    """Return the sha256 of names, types, shapes and values of a network's floating-point tensors.

    It is the same for a network in memory, its checkpoint and the released file it was read from, on any device.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if tensor.is_floating_point():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def difference(found: Mapping[str, TensorForm], expected: Mapping[str, TensorForm]) -> str:
    """Return in one line which tensors are missing, unexpected or of another form; empty if the forms are equal."""
    wrong = [
        f"{_readable(name)} is {found[name]}, must be {form}"
        for name, form in expected.items()
        if name in found and found[name] != form
    ]
    kinds = {
        "missing": [_readable(name) for name in expected if name not in found],
        "unexpected": [_readable(name) for name in found if name not in expected],
        "of another shape or type": wrong,
    }
    return "; ".join(f"{len(texts)} {kind}: {_first(texts)}" for kind, texts in kinds.items() if texts)


def shape_difference(model: nn.Module, spec: ModelSpec) -> str:
    """Return in one line how the shapes of a network's tensors differ from its specification; types are ignored."""
    found, expected = forms_of(model.state_dict()), expected_forms(spec)
    return difference(
        found, {name: form._replace(dtype=found.get(name, form).dtype) for name, form in expected.items()}
    )


def shortened(names: Iterable[str]) -> str:
    """Join the first few names by commas, each cut to a readable length, and count the others."""
    return _first([_readable(name) for name in names])


def _first(texts: Sequence[str]) -> str:
    rest = len(texts) - _SHOWN
    return ", ".join(texts[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _readable(name: str) -> str:
    """Return a name of any length and characters in a form for messages."""
    cut = name if len(name) <= _LONGEST else f"{name[:_LONGEST]}..."
    return cut if cut.isprintable() else repr(cut)
