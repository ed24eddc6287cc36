"""Whether an optimizer is the network's own: one made before pruning trains what is gone, and says nothing."""

import hashlib

import torch

from epanns.errors import PruningError
from epanns.models.tagger import Tagger


def check_optimizer(optimizer: torch.optim.Optimizer, model: Tagger) -> None:
    """Refuse an optimizer that was not made for this network as it is.

    Pruning returns a network with parameters of its own. An optimizer of the network before goes on stepping through
    the parameters of that one: the loss stays where it is, and nothing tells why.

    Raises:
        PruningError: If the optimizer holds a parameter that is not the network's, or lacks one that may learn.
    """
    held = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    own = {id(weight) for weight in model.parameters()}
    learning = [name for name, weight in model.named_parameters() if weight.requires_grad and id(weight) not in held]
    foreign = len(held - own)
    if not foreign and not learning:
        return
    problems = [f"holds {foreign} of {len(held)} parameters that are not the network's"] if foreign else []
    problems += [f"lacks {len(learning)} that may learn, first {learning[0]}"] if learning else []
    raise PruningError(
        f"this {type(optimizer).__name__} {' and '.join(problems)}: make a new one from the parameters of this network"
    )


def versions_of(model: Tagger) -> dict[str, int]:
    """Return how often each parameter has been written to, by torch's own count, which fused optimizers leave alone."""
    return {name: weight._version for name, weight in model.named_parameters()}


def marks_of(model: Tagger) -> dict[str, tuple[int, str]]:
    """Return what tells whether a parameter was written to: torch's count, and the sha256 of its values."""
    versions = versions_of(model)
    return {name: (versions[name], _digest(weight)) for name, weight in model.named_parameters()}


def refuse_lost_gradients(model: Tagger, before: dict[str, tuple[int, str]], *, when: str) -> None:
    """Refuse a training that computed gradients of a network and changed none of its weights.

    That is what an optimizer of another network does.

    Args:
        model: After the training.
        before: Its `marks_of` before, when it had no gradients.
        when: Named in the message.

    Raises:
        PruningError: If there are gradients and no weight was written to.
    """
    has_gradients = any(weight.grad is not None for weight in model.parameters())
    if has_gradients and marks_of(model) == before:
        raise PruningError(
            f"{when} gradients were computed and no weight changed: the optimizer is not this network's; "
            "make a new one after each cut"
        )


def _digest(weight: torch.Tensor) -> str:
    values = weight.detach().cpu().contiguous().reshape(-1)
    return hashlib.sha256(values.view(torch.uint8).numpy().tobytes()).hexdigest()
