"""The optimizer, and which part of a network learns how fast."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from epanns.errors import ConfigError
from epanns.models.tagger import Tagger
from epanns.training.config import TrainingConfig

NOTHING_LEARNS = "no parameter of the model may learn: every requires_grad is False"
_FACTOR = "rate_factor"  # key of a parameter group: its rate is so many times that of the step


def build_optimizer(model: Tagger, config: TrainingConfig) -> torch.optim.Adam:
    """Return PANNs' Adam (betas .9 and .999, eps 1e-8, no weight decay, AMSGrad) over what may learn.

    Build it after pruning: an optimizer made before holds parameters that are no longer the network's. `set_rate` gives
    the rates; the backbone is a group of its own where it has another one.

    Raises:
        ConfigError: If no parameter may learn.
    """
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not learning:
        raise ConfigError(NOTHING_LEARNS)
    groups: list[dict[str, Any]] = [{"params": learning}]
    if config.backbone_rate != 1:
        slower = {id(parameter) for parameter in model.backbone}
        head, rest = ([each for each in learning if (id(each) in slower) is wanted] for wanted in (False, True))
        groups = [{"params": head}, {"params": rest, _FACTOR: config.backbone_rate}]
    # Fused: one pass over the memory in place of a dozen. To be stepped by `take_step` alone.
    return torch.optim.Adam(groups, lr=config.learning_rate, betas=(0.9, 0.999), eps=1e-8, amsgrad=True, fused=True)


def take_step(optimizer: torch.optim.Optimizer) -> None:
    """Change the parameters by their gradients.

    torch's fused Adam goes through parameters, gradients and moments as they lie in memory, and pairs other numbers
    where one of them is channels-last and another is not; on a GPU it refuses. All are given the order of the parameter
    first.
    """
    learning = [each for group in optimizer.param_groups for each in group["params"] if each.grad is not None]
    for parameter in learning:
        parameter.grad = _in_order_of(parameter, parameter.grad)
        state = optimizer.state[parameter]
        for name in state.keys() - {"step"}:
            state[name] = _in_order_of(parameter, state[name])
    optimizer.step()
    torch.autograd.graph.increment_version(learning)  # as optimizers that are not fused do: autograd looks at it


def _in_order_of(parameter: Tensor, values: Tensor) -> Tensor:
    """Return values that lie in memory as a parameter of their shape does; themselves if they do."""
    if values.stride() == parameter.stride():
        return values
    return torch.empty_like(parameter).copy_(values)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its learning rate, where that of the classifier is `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(_FACTOR, 1.0)


@contextmanager
def only_classifier_learns(model: Tagger, only: bool) -> Iterator[None]:
    """Keep the backbone as it is for a step, where `only` says so; what may learn is the same again afterwards.

    An optimizer leaves alone what has no gradient: moments of the backbone begin with its own first step. Batch norms
    stay in evaluation mode when `Tagger.train` is called within.
    """
    learning = [parameter for parameter in model.backbone if parameter.requires_grad] if only else []
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
