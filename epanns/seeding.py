"""Seeds and generators that are pure functions of their purpose."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derive_seed(*parts: str | int) -> int:
    """Return a 63-bit seed that depends on every part and on their order, the same on every machine."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_generator(*parts: str | int) -> np.random.Generator:
    """Return a generator of NumPy for a purpose, such as ``("sampler", seed, epoch)``."""
    return np.random.default_rng(derive_seed(*parts))


def torch_generator(*parts: str | int) -> "torch.Generator":
    """Return a CPU generator of torch for a purpose."""
    import torch

    return torch.Generator().manual_seed(derive_seed(*parts))


@contextmanager
def random_state_kept(device: "torch.device | str" = "cpu") -> Iterator[None]:
    """Restore the state of torch's generators on the CPU and on `device` after the block."""
    import torch

    with torch.random.fork_rng([device] if torch.device(device).type == "cuda" else []):
        yield
