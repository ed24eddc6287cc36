"""Changing a network's modes, and which of its parameters learn, only inside a ``with``."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def modes_restored(model: nn.Module) -> Iterator[None]:
    """Give every module back the training flag it had, however mixed they were.

    By name, because surgery and deep copies replace modules.
    """
    was_training = {name: module.training for name, module in model.named_modules()}
    try:
        yield
    finally:
        for name, module in model.named_modules():
            module.training = was_training[name]


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put every module in evaluation mode, and restore each one's own flag."""
    with modes_restored(model):
        model.eval()
        yield


@contextmanager
def channels_last(model: nn.Module) -> Iterator[None]:
    """Keep the weights of two-dimensional convolutions in channels-last format, in which they are faster.

    They are the same numbers in another order in memory; afterwards they lie as they did.
    """
    before = [(parameter, parameter.data) for parameter in model.parameters() if parameter.dim() == 4]
    model.to(memory_format=torch.channels_last)
    try:
        yield
    finally:
        for parameter, data in before:
            parameter.data = data


@contextmanager
def requires_grad_restored(model: nn.Module) -> Iterator[None]:
    """Give every parameter back its ``requires_grad``, by name: surgery replaces parameters and makes them learn."""
    required_grad = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    try:
        yield
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(required_grad[name])
