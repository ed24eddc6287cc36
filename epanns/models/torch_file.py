"""Files of `torch.save`, read without running any code they may hold."""

import re
import struct
import warnings
from pathlib import Path
from pickle import UnpicklingError  # only the exception; nothing is unpickled here
from typing import Any

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

# What a pickled NumPy array asks for: the `sampler` of released PANNs files holds lists of arrays.
_ARRAY_NAMES = (
    "numpy._core.multiarray._reconstruct",
    "numpy.core.multiarray._reconstruct",  # its name before NumPy 2
    "numpy.ndarray",
    "numpy.dtype",
)


class UnreadArray:
    """Stands where a file holds a NumPy array.

    Nothing reads these arrays, and NumPy trusts the state it is given: a forged dtype can corrupt memory. So NumPy's
    names are allowed in a file and NumPy itself is never called.
    """

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        """Ignore the array's bytes."""


def read_torch_file(path: Path) -> Any:
    """Read tensors and plain containers, on the CPU, with `UnreadArray` for NumPy arrays; refuse everything else.

    Raises:
        CheckpointError: If the file would run code (the message lists what it asks for) or is damaged.
    """
    arrays: list[Any] = [(UnreadArray, name) for name in _ARRAY_NAMES]
    with safe_globals(arrays), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's guesses about odd files; what they lead to is an error or is not
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except UnpicklingError as error:
            if names := _refused_names(path, str(error)):
                raise CheckpointError(
                    f"{path}: refused without running it, because it asks for {', '.join(names)}; epanns reads files "
                    "of tensors only: where you trust this one, save its state_dict() alone and import that"
                ) from error
            raise _damaged(path, "its table of contents cannot be read") from error
        except _DAMAGED as error:
            raise _damaged(path, f"{type(error).__name__}: {error}") from error


def _refused_names(path: Path, message: str) -> list[str]:
    """Return the globals a file asks for beyond the allowed ones, read from its opcodes alone."""
    try:
        return sorted(get_unsafe_globals_in_checkpoint(path))
    except (UnpicklingError, *_DAMAGED):  # not a zip, as before torch 1.6, or broken: torch's message names the first
        return re.findall(r"GLOBAL ([\w.]+)", message)[:1]


def _damaged(path: Path, reason: str) -> CheckpointError:
    first_line = reason.splitlines()[0][:200]
    return CheckpointError(f"{path}: damaged, or no file of torch.save ({first_line}): download or copy it again")
