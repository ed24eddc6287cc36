"""Files of `torch.save`, read without running any code they may hold."""

import re
import struct
from pathlib import Path
from pickle import UnpicklingError  # only the exception; nothing is unpickled here
from typing import Any

import numpy as np
import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from epanns.errors import CheckpointError

# What torch.load was seen to raise on files with flipped, missing and foreign bytes, besides UnpicklingError.
_DAMAGED = (
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    MemoryError,
    struct.error,
)

# The `sampler` of released PANNs files holds lists of NumPy arrays. Object arrays are left out: they can hold anything.
_ARRAY_TYPES = ("bool", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "S1", "U1")


def read_torch_file(path: Path) -> Any:
    """Read tensors, plain containers and NumPy arrays, on the CPU, and refuse everything else.

    Raises:
        CheckpointError: If the file would run code (the message lists what it asks for) or is damaged.
    """
    reconstruct = np.empty(0).__reduce__()[0]  # the function that NumPy's own pickles of arrays call
    arrays: list[Any] = [
        reconstruct,
        (reconstruct, "numpy.core.multiarray._reconstruct"),  # its name before NumPy 2
        np.ndarray,
        np.dtype,
        *(type(np.dtype(name)) for name in _ARRAY_TYPES),
    ]
    with safe_globals(arrays):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except UnpicklingError as error:
            if names := _refused_names(path, str(error)):
                raise CheckpointError(
                    f"{path}: refused without running it, because it asks for {', '.join(names)}; epanns reads files "
                    "of tensors only: where you trust this one, save its state_dict() alone and import that"
                ) from error
            raise _damaged(path, error) from error
        except _DAMAGED as error:
            raise _damaged(path, error) from error


def _refused_names(path: Path, message: str) -> list[str]:
    """Return the globals a file asks for beyond the allowed ones, read from its opcodes alone."""
    try:
        return sorted(get_unsafe_globals_in_checkpoint(path))
    except (ValueError, RuntimeError):  # a file older than torch 1.6, which is no zip: torch's message names the first
        return re.findall(r"GLOBAL ([\w.]+)", message)[:1]


def _damaged(path: Path, error: BaseException) -> CheckpointError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return CheckpointError(f"{path}: damaged, or no file of torch.save ({reason[:200]}): download or copy it again")
