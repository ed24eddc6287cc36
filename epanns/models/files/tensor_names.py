"""Names of tensors in released files and state dicts: wrappers and prefixes removed, so that PANNs' names remain."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from epanns.errors import CheckpointError
from epanns.models.tensors import shortened

# Keys under which training code stores a state dict; the first key that leads to tensors is used.
_WRAPPERS = (
    *("model", "state_dict", "model_state_dict", "model_state", "student", "net", "network", "module", "weights"),
    *("checkpoint", "ckpt", "params", "parameters", "generator", "tagger", "classifier", "ema", "model_ema"),
)
_DEEPEST = 4  # nested wrappers

# Parts that torch inserts into names when it wraps a module.
_TRANSPARENT = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")

# Least share of all names for a prefix to be mentioned in a message; with student and teacher in one file it is half.
_LEAST_SHARE = 0.4

_CLASSIFIER, _NEW_CLASSIFIER = "fc_audioset", "fc_transfer"


@dataclass(frozen=True)
class StateDict:
    """Tensors by PANNs' names.

    Attributes:
        weights: The tensors.
        keys: Keys of the wrappers in the file, outermost first.
        prefix: Removed prefix that all names shared, without the last dot; may be empty.
        notes: Other entries that were left out or changed, one phrase each.
    """

    weights: dict[str, Tensor]
    keys: tuple[str, ...]
    prefix: str
    notes: tuple[str, ...]


def unwrapped(content: object, path: Path) -> StateDict:
    """Return the tensors of a state dict, alone or in wrappers, with or without prefixes.

    A prefix that all names share is removed, such as ``module.``, ``model.`` or ``base.``; ``_orig_mod.`` and similar
    names of torch are removed at any place. In PANNs' networks for transfer, ``base.*`` and ``fc_transfer.*``, the
    classifier is ``fc_transfer``. Entries without a dot in their names that are not tensors, or single numbers, such
    as the best score so far, are left out. Each of these changes is noted.

    Raises:
        CheckpointError: If there are no tensors by name, or tensors that are not dense.
    """
    keys, found, others = _state_dict(content)
    if not isinstance(found, Mapping) or not found:
        raise CheckpointError(f"{path}: holds a {type(found).__name__} and no tensors by name: is it a PANNs file?")
    weights, beside = _tensors(found, path)
    plain = [".".join(part for part in name.split(".") if part not in _TRANSPARENT) for name in weights]
    if twice := [name for name, count in Counter(plain).items() if count > 1]:
        raise CheckpointError(
            f"{path}: {shortened(twice)} appears twice, with and without {'., '.join(_TRANSPARENT)}.: "
            "save the state_dict() of one network"
        )
    names, prefix = _without_prefix(plain)
    named = dict(zip(names, weights.values(), strict=True))
    notes = [f"left out what is no tensor of a network: {shortened(beside)}"] if beside else []
    if others:
        notes.append(
            f"the weights of {shortened(['.'.join(keys)])} are read, and not the other weights in {shortened(others)}"
        )
    firsts = {name.split(".")[0] for name in named}
    if _NEW_CLASSIFIER in firsts and len(firsts) == 2:  # PANNs' network for transfer: the base, and a new classifier
        named, replaced = _as_one_network(named, base=(firsts - {_NEW_CLASSIFIER}).pop())
        notes.append(
            f"the classifier is {_NEW_CLASSIFIER}, that of the transfer network; {shortened(replaced)} "
            f"{'is' if len(replaced) == 1 else 'are'} left out; PANNs' code trains such networks with a softmax: "
            "`epanns import --task single-label`"
        )
    return StateDict(named, keys, prefix, tuple(notes))


def prefix_hint(names: Sequence[str], own: Collection[str]) -> str:
    """Return a phrase on the prefix outside `own` that most names share, and the first name without it; else ""."""
    firsts = Counter(name.split(".")[0] for name in names if "." in name)
    first, count = max(firsts.items(), key=lambda item: item[1], default=("", 0))
    if first in own or not _LEAST_SHARE * len(names) <= count < len(names):
        return ""
    prefix = f"{first}."
    odd = next(name for name in names if not name.startswith(prefix))
    return f"{count} of {len(names)} names begin with {shortened([prefix])}, the first without it is {shortened([odd])}"


def _state_dict(content: object, depth: int = 0) -> tuple[tuple[str, ...], object, list[str]]:
    """Return the keys of the wrappers, the state dict in them, and the keys of other weights beside them.

    If a table holds weights itself, a wrapper in it holds a copy, such as a moving average, and is not entered. If no
    wrapper holds tensors, the outermost content is returned.
    """
    if isinstance(content, Mapping) and depth < _DEEPEST and not _holds_weights(content):
        for key in _WRAPPERS:
            keys, found, others = _state_dict(content.get(key), depth + 1)
            if isinstance(found, Mapping) and any(isinstance(value, Tensor) for value in found.values()):
                beside = [str(name) for name, value in content.items() if name != key and _holds_weights(value)]
                return (key, *keys), found, [*beside, *others]
    return (), content, []


def _holds_weights(content: object) -> bool:
    """Return whether an object holds tensors with a dot in their names, as those of modules."""
    return isinstance(content, Mapping) and any(
        "." in str(name) and isinstance(value, Tensor) for name, value in content.items()
    )


def _tensors(found: Mapping[object, object], path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors by name, and the names of the other entries."""
    # Single numbers are no weights, such as ``n_averaged`` of `torch.optim.swa_utils.AveragedModel`.
    beside = [
        str(name)
        for name, value in found.items()
        if "." not in str(name) and not (isinstance(value, Tensor) and value.dim() > 0)
    ]
    weights = {str(name): value for name, value in found.items() if str(name) not in beside}
    if others := [name for name, value in weights.items() if not isinstance(value, Tensor)]:
        raise CheckpointError(
            f"{path}: {shortened(others)} are no tensors; a PANNs file is {{'model': state_dict}} or a state_dict"
        )
    tensors = {name: value for name, value in weights.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(
            f"{path}: holds {shortened(beside)} and no tensors by name; a PANNs file is {{'model': state_dict}} or a "
            "state_dict"
        )

    def is_dense(tensor: Tensor) -> bool:
        strided = tensor.layout is torch.strided and not tensor.is_nested
        return strided and not tensor.is_quantized and not tensor.is_meta

    if others := [name for name, tensor in tensors.items() if not is_dense(tensor)]:
        raise CheckpointError(
            f"{path}: {shortened(others)}: sparse, quantised or without values, and epanns reads dense tensors only: "
            "save the network's dense floating-point state_dict() and give that"
        )
    return tensors, beside


def _without_prefix(names: list[str]) -> tuple[list[str], str]:
    """Remove the first parts that all names share; return the names and the removed prefix."""
    removed: list[str] = []
    while all("." in name for name in names) and len(firsts := {name.split(".")[0] for name in names}) == 1:
        removed += firsts
        names = [name.split(".", 1)[1] for name in names]
    return names, ".".join(removed)


def _as_one_network(weights: Mapping[str, Tensor], base: str) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors of the base with the new classifier, and the names of the replaced classifier."""
    inner = {name.removeprefix(f"{base}."): tensor for name, tensor in weights.items() if name.startswith(f"{base}.")}
    names, _ = _without_prefix(list(inner))
    kept = dict(zip(names, inner.values(), strict=True))
    replaced = [name for name in kept if name.startswith(f"{_CLASSIFIER}.")]
    new = {
        name.replace(_NEW_CLASSIFIER, _CLASSIFIER, 1): tensor
        for name, tensor in weights.items()
        if name.startswith(f"{_NEW_CLASSIFIER}.")
    }
    return {name: tensor for name, tensor in kept.items() if name not in replaced} | new, replaced
