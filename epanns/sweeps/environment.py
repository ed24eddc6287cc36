"""Where and with what a run was made: part of every record."""

import platform
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import nn

from epanns import __version__

_PACKAGES = ("torch", "torchaudio", "torch-pruning", "numpy", "scikit-learn")


def device_of(model: nn.Module) -> str:
    """Return the device of a network and what computes there, such as ``cpu (x86_64, 2 threads)``."""
    device = next(model.parameters()).device
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({platform.machine()}, {torch.get_num_threads()} threads)"


def versions() -> dict[str, str]:
    """Return the versions of epanns and of the packages that decide a result."""
    found = {"epanns": __version__}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
