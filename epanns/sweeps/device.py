"""What a run was computed on: part of every record."""

import platform

import torch
from torch import nn


def device_of(model: nn.Module) -> str:
    """Return the device of a network and what computes there, such as ``cpu (x86_64, 2 threads)``."""
    device = next(model.parameters()).device
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({platform.machine()}, {torch.get_num_threads()} threads)"
