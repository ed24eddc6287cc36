"""Context managers that change modes, memory format or ``requires_grad`` of a network and restore them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put every module in evaluation mode and restore its flag, by name: pruning and copying replace modules."""
    was_training = {name: module.training for name, module in model.named_modules()}
    model.eval()
    try:
        yield
    finally:
        for name, module in model.named_modules():
            module.training = was_training[name]


@contextmanager
def channels_last(model: nn.Module) -> Iterator[None]:
    """Keep the weights of two-dimensional convolutions in the faster channels-last format; restore it at the end."""
    before = [(parameter, parameter.data) for parameter in model.parameters() if parameter.dim() == 4]
    model.to(memory_format=torch.channels_last)
    try:
        yield
    finally:
        for parameter, data in before:
            parameter.data = data


@contextmanager
def requires_grad_restored(model: nn.Module) -> Iterator[None]:
    """Restore ``requires_grad`` of every parameter at the end, by name: pruning replaces parameters."""
    required_grad = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    try:
        yield
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(required_grad[name])
