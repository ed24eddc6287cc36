"""The optimizer, its learning rate at each step, and the moving average of the weights."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from epanns.errors import ConfigError
from epanns.models.tagger import Tagger
from epanns.training.config import TrainingConfig

NOTHING_LEARNS = "no parameter of the model may learn: every requires_grad is False"
_FACTOR = "rate_factor"  # key of a parameter group: factor on the learning rate of the step
_DECAYS: Mapping[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "linear": lambda progress: 1 - progress,
}


def learning_rate_at(step: int, config: TrainingConfig) -> float:
    """Return the learning rate of a step (from 0): linear warm-up, then constant, or cosine or linear decay to zero.

    The last step is ``iterations - 1``; the rate of the step after it would be zero.
    """
    if step < config.warmup_iterations:
        return config.learning_rate * (step + 1) / config.warmup_iterations
    progress = (step - config.warmup_iterations) / max(1, config.iterations - config.warmup_iterations)
    return config.learning_rate * _DECAYS[config.schedule](progress)


def build_optimizer(model: Tagger, config: TrainingConfig) -> torch.optim.Adam:
    """Return PANNs' Adam (betas .9 and .999, eps 1e-8, AMSGrad) over the trainable parameters.

    With weight decay it is AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101): each step multiplies the kernels and
    matrices by 1 - rate * weight_decay. Biases and batch norms, which have one dimension, do not decay.

    Build it after pruning: an optimizer from before holds parameters that the network no longer has. `set_rate` sets
    the learning rates; the backbone is a parameter group of its own if its rate differs.

    Raises:
        ConfigError: If no parameter is trainable.
    """
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not learning:
        raise ConfigError(NOTHING_LEARNS)
    groups: list[dict[str, Any]] = [{"params": learning}]
    if config.backbone_rate != 1:
        slower = {id(parameter) for parameter in model.backbone}
        head, rest = ([each for each in learning if (id(each) in slower) is wanted] for wanted in (False, True))
        groups = [{"params": head}, {"params": rest, _FACTOR: config.backbone_rate}]
    if config.weight_decay:
        groups = [
            {**group, "params": [each for each in group["params"] if (each.dim() > 1) is decays], "weight_decay": decay}
            for group in groups
            for decays, decay in ((True, config.weight_decay), (False, 0.0))
        ]
    # Fused: one pass over the memory instead of a dozen. `take_step` alone may call its `step`.
    constants: dict[str, Any] = {"lr": config.learning_rate, "betas": (0.9, 0.999), "eps": 1e-8}
    decoupled = config.weight_decay > 0
    return torch.optim.Adam(groups, **constants, amsgrad=True, fused=True, decoupled_weight_decay=decoupled)


def clip_gradient(optimizer: torch.optim.Optimizer, largest: float) -> Tensor:
    """Scale the gradient down to the norm `largest`, 0 for no limit, and return its norm before."""
    learning = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = nn.utils.get_total_norm([each.grad for each in learning if each.grad is not None])
    if largest:
        nn.utils.clip_grads_with_norm_(learning, largest, norm)
    return norm


def take_step(optimizer: torch.optim.Optimizer) -> None:
    """Update the parameters by their gradients.

    torch's fused Adam reads parameters, gradients and moments in their order in memory: if one of them is channels-last
    and another is not, it combines unrelated numbers on a CPU and fails on a GPU. So gradients and moments are first
    copied into the order of their parameter.
    """
    learning = [each for group in optimizer.param_groups for each in group["params"] if each.grad is not None]
    for parameter in learning:
        parameter.grad = _in_order_of(parameter, parameter.grad)
        state = optimizer.state[parameter]
        for name in state.keys() - {"step"}:
            state[name] = _in_order_of(parameter, state[name])
    optimizer.step()
    torch.autograd.graph.increment_version(learning)  # as optimizers that are not fused do; autograd checks it


def _in_order_of(parameter: Tensor, values: Tensor) -> Tensor:
    """Return values in the memory order of a parameter of their shape; no copy if they are."""
    if values.stride() == parameter.stride():
        return values
    return torch.empty_like(parameter).copy_(values)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every parameter group, with `rate` for the classifier."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(_FACTOR, 1.0)


@contextmanager
def only_classifier_learns(model: Tagger, only: bool) -> Iterator[None]:
    """Freeze the backbone inside the block if `only` is true; restore every ``requires_grad`` after it.

    The optimizer skips parameters without a gradient, so moments of the backbone start at its first step. Batch norms
    stay in evaluation mode when `Tagger.train` is called inside the block.
    """
    learning = [parameter for parameter in model.backbone if parameter.requires_grad] if only else []
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


class MovingAverage:
    """Exponential moving average of a network's parameters and batch-norm statistics.

    After step k (from 0) the average is ``d * average + (1 - d) * weights``, d = min(decay, (1 + k) / (10 + k)), so the
    initial weights lose their influence early in a run of any length (TensorFlow's `ExponentialMovingAverage` with
    `num_updates`). The average often scores better than the weights of any single step.

    Attributes:
        network: A copy of the network, with the averaged weights.
    """

    def __init__(self, model: Tagger, decay: float) -> None:
        """Start from the present weights of `model`; `decay` in (0, 1)."""
        self.network = copy.deepcopy(model).requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, model: Tagger, step: int) -> None:
        """Add the weights after step `step` to the average."""
        weight = 1 - min(self._decay, (1 + step) / (10 + step))
        averages = (*self.network.parameters(), *self.network.buffers())
        for average, value in zip(averages, (*model.parameters(), *model.buffers()), strict=True):
            if average.is_floating_point():
                average.lerp_(value, weight)
            else:
                average.copy_(value)
