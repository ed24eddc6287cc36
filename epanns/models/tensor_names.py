"""State dicts as people save them: unwrapped, without prefixes, with the names of PANNs."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from epanns.errors import CheckpointError
from epanns.models.tensors import shortened

# Keys under which training code stores a state dict; the first one that leads to tensors is taken.
_WRAPPERS = (
    *("model", "state_dict", "model_state_dict", "model_state", "student", "net", "network", "module", "weights"),
    *("checkpoint", "ckpt", "params", "parameters", "generator", "tagger", "classifier", "ema", "model_ema"),
)
_DEEPEST = 4  # wrappers in each other

# Modules that wrappers of torch put around any module, wherever it is.
_TRANSPARENT = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")

_LEAST_SHARE = 0.4  # of all names, for a prefix that a message names: student and teacher in one file have half each

_CLASSIFIER, _NEW_CLASSIFIER = "fc_audioset", "fc_transfer"


@dataclass(frozen=True)
class StateDict:
    """Tensors by PANNs' names, and what was done to the names.

    Attributes:
        weights: The tensors.
        keys: Keys of the file that led to them, outermost first.
        prefix: What all names began with, without the last dot; empty where they did not.
        notes: What else was left out or changed, one phrase each.
    """

    weights: dict[str, Tensor]
    keys: tuple[str, ...]
    prefix: str
    notes: tuple[str, ...]


def unwrapped(content: object, path: Path) -> StateDict:
    """Return the tensors of what a file holds: a state dict, alone or in wrappers, with or without prefixes.

    A prefix that all names share is removed, ``module.``, ``_orig_mod.``, ``model.`` and ``base.`` like any other, and
    ``_orig_mod.`` and its like at any place of a name. Of PANNs' networks for transfer, ``base.*`` and
    ``fc_transfer.*``, the classifier is ``fc_transfer``. Entries without a dot in their names that are no tensors or
    single numbers, such as the best score so far, are left out. Each of these is noted.

    Raises:
        CheckpointError: If there are no tensors by name, or others than dense ones.
    """
    keys, found, others = _state_dict(content)
    if not isinstance(found, Mapping) or not found:
        raise CheckpointError(f"{path}: holds a {type(found).__name__} and no tensors by name: is it a PANNs file?")
    weights, beside = _tensors(found, path)
    names, prefix = _without_prefix(_without_wrapped_modules(list(weights), path))
    named = dict(zip(names, weights.values(), strict=True))
    notes = [f"left out what is no tensor of a network: {shortened(beside)}"] if beside else []
    if others:
        notes.append(
            f"the weights of {shortened(['.'.join(keys)])} are read, and not the other weights in {shortened(others)}"
        )
    if (base := _transferred(named)) is not None:
        named, replaced = _as_one_network(named, base)
        notes.append(
            f"the classifier is {_NEW_CLASSIFIER}, that of the transfer network; {shortened(replaced)} "
            f"{'is' if len(replaced) == 1 else 'are'} left out; PANNs' code trains such networks with a softmax: "
            "`epanns import --task single-label`"
        )
    return StateDict(named, keys, prefix, tuple(notes))


def prefix_hint(names: Sequence[str], own: Collection[str]) -> str:
    """Return a phrase on the prefix that most names share, and the first name without it; empty where none is.

    Args:
        names: Of all tensors.
        own: Modules that PANNs' own names begin with, which are no prefixes.
    """
    firsts = Counter(name.split(".")[0] for name in names if "." in name)
    first, count = max(firsts.items(), key=lambda item: item[1], default=("", 0))
    if first in own or not _LEAST_SHARE * len(names) <= count < len(names):
        return ""
    prefix = f"{first}."
    odd = next(name for name in names if not name.startswith(prefix))
    return f"{count} of {len(names)} names begin with {shortened([prefix])}, the first without it is {shortened([odd])}"


def _state_dict(content: object, depth: int = 0) -> tuple[tuple[str, ...], object, list[str]]:
    """Return the keys of the wrappers, the state dict in them, and the keys beside them that hold other weights.

    Weights beside a wrapper are the network's own, and the wrapper holds a copy, such as a moving average. Where no
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
    """Return whether an object has tensors with the names of a module's parameters, which have dots."""
    return isinstance(content, Mapping) and any(
        "." in str(name) and isinstance(value, Tensor) for name, value in content.items()
    )


def _tensors(found: Mapping[object, object], path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors by name, and the names of entries that stand beside them."""
    beside = [str(name) for name, value in found.items() if "." not in str(name) and not _may_be_weight(value)]
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
    if others := [name for name, tensor in tensors.items() if not _is_dense(tensor)]:
        raise CheckpointError(
            f"{path}: {shortened(others)}: sparse, quantised or without values, and epanns reads dense tensors only: "
            "save the network's dense floating-point state_dict() and give that"
        )
    return tensors, beside


def _may_be_weight(value: object) -> bool:
    """Return whether a value has numbers to load; ``n_averaged`` of `torch.optim.swa_utils.AveragedModel` has one."""
    return isinstance(value, Tensor) and value.dim() > 0


def _is_dense(tensor: Tensor) -> bool:
    strided = tensor.layout is torch.strided and not tensor.is_nested
    return strided and not tensor.is_quantized and not tensor.is_meta


def _without_wrapped_modules(names: list[str], path: Path) -> list[str]:
    """Remove the modules of `_TRANSPARENT` from names."""
    short = [".".join(part for part in name.split(".") if part not in _TRANSPARENT) for name in names]
    if twice := [name for name, count in Counter(short).items() if count > 1]:
        raise CheckpointError(
            f"{path}: {shortened(twice)} stands twice, with and without {'., '.join(_TRANSPARENT)}.: "
            "save the state_dict() of one network"
        )
    return short


def _without_prefix(names: list[str]) -> tuple[list[str], str]:
    """Remove the modules that all names begin with; return the names, and these modules joined by dots."""
    removed: list[str] = []
    while all("." in name for name in names) and len(firsts := {name.split(".")[0] for name in names}) == 1:
        removed += firsts
        names = [name.split(".", 1)[1] for name in names]
    return names, ".".join(removed)


def _transferred(weights: Mapping[str, Tensor]) -> str | None:
    """Return the module beside ``fc_transfer`` in PANNs' network for transfer; None of other networks."""
    firsts = {name.split(".")[0] for name in weights}
    others = firsts - {_NEW_CLASSIFIER}
    return others.pop() if _NEW_CLASSIFIER in firsts and len(others) == 1 else None


def _as_one_network(weights: Mapping[str, Tensor], base: str) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors of the base with the new classifier in place of its own, and the names that it replaces."""
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
