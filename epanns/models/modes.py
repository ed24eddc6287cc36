"""Changing a network's modes, and which of its parameters learn, only inside a ``with``."""

from collections.abc import Iterator
from contextlib import contextmanager

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
def requires_grad_restored(model: nn.Module) -> Iterator[None]:
    """Give every parameter back its ``requires_grad``, by name: surgery replaces parameters and makes them learn."""
    required_grad = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    try:
        yield
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(required_grad[name])
