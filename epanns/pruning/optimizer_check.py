"""Checks that an optimizer belongs to the network: one made before pruning trains the removed parameters silently."""

import hashlib

import torch

from epanns.errors import PruningError
from epanns.models.tagger import Tagger


def check_optimizer(optimizer: torch.optim.Optimizer, model: Tagger) -> None:
    """Refuse an optimizer that was not made for this network as it is.

    Pruning returns a network with new parameters. An optimizer of the network before keeps updating the old parameters:
    the loss does not change, and no error is raised.

    Raises:
        PruningError: If the optimizer holds a parameter that is not the network's, or lacks a trainable one.
    """
    held = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    own = {id(weight) for weight in model.parameters()}
    lacking = [name for name, weight in model.named_parameters() if weight.requires_grad and id(weight) not in held]
    foreign = len(held - own)
    if not foreign and not lacking:
        return
    problems = [f"holds {foreign} of {len(held)} parameters that are not the network's"] if foreign else []
    problems += [f"lacks {len(lacking)} trainable ones, first {lacking[0]}"] if lacking else []
    raise PruningError(
        f"this {type(optimizer).__name__} {' and '.join(problems)}: make a new one from the parameters of this network"
    )


def weight_marks(model: Tagger) -> dict[str, tuple[int, str]]:
    """Return each parameter's version and sha256, to find out later whether it was written to.

    Torch counts the writes to a tensor as its version, but not those of fused optimizers.
    """
    marks = {}
    for name, weight in model.named_parameters():
        values = weight.detach().cpu().contiguous().reshape(-1)
        marks[name] = weight._version, hashlib.sha256(values.view(torch.uint8).numpy().tobytes()).hexdigest()
    return marks


def refuse_lost_gradients(model: Tagger, before: dict[str, tuple[int, str]], *, when: str) -> None:
    """Refuse a training that computed gradients of a network and changed none of its weights.

    This happens with an optimizer of another network.

    Args:
        model: After the training.
        before: Its `weight_marks` before, when it had no gradients.
        when: Used in the message.

    Raises:
        PruningError: If there are gradients and no weight was written to.
    """
    has_gradients = any(weight.grad is not None for weight in model.parameters())
    if has_gradients and weight_marks(model) == before:
        raise PruningError(
            f"{when} gradients were computed and no weight changed: the optimizer is not this network's; "
            "make a new one after each round"
        )
