"""Files of `torch.save`: checked, and read without running code that they may hold."""

import re
import struct
import warnings
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError  # only the exception; nothing is unpickled here
from typing import IO, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from epanns.errors import CheckpointError

# Recorded as assumption for a file that cannot be compared with a checksum.
UNVERIFIED = (
    "the file holds no checksums and its sha256 is not that of a released file: damage to its weights cannot be found"
)

# Exceptions that zipfile and torch.load raised on files with flipped, missing and foreign bytes.
DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    OSError,
    EOFError,
    RuntimeError,  # includes NotImplementedError, and encrypted archives
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    MemoryError,
)

_ZIP_MAGIC = b"PK\x03\x04"
_IS_FOLDER = 0x10  # bit of a record's attributes; torch reads nothing of such a record and leaves memory uninitialised
_LARGEST_RATIO = 4  # bytes of all records / bytes of the file; weights hardly compress
_ALWAYS_ALLOWED = 64 << 20  # bytes of all records, whatever the file's length
_CHUNK = 1 << 20  # bytes in memory at a time
_REMEDY = "download or copy the whole file again"

# Objects that training code stores beside weights. The `sampler` of released PANNs files holds lists of NumPy arrays,
# and best scores are NumPy scalars.
_IGNORED = (
    *(f"numpy.{core}.multiarray.{name}" for core in ("_core", "core") for name in ("_reconstruct", "scalar")),
    *("numpy.ndarray", "numpy.dtype", "argparse.Namespace", "types.SimpleNamespace"),
    *(f"pathlib.{name}" for name in ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
    *(f"pathlib._local.{name}" for name in ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
    *(f"datetime.{name}" for name in ("datetime", "date", "time", "timedelta", "timezone")),
    *("decimal.Decimal", "fractions.Fraction", "uuid.UUID", "builtins.slice", "builtins.range", "builtins.frozenset"),
    *("builtins.list", "builtins.dict", "builtins.int", "builtins.float", "builtins.str", "builtins.bool"),
)
_BYTEARRAY = re.compile(rb"c(builtins|__builtin__)\nbytearray\n")
_LONGEST_NAME = 32  # bytes, longer than a match of `_BYTEARRAY`


class Ignored:
    """Placeholder for a NumPy array or another object that a file holds beside the weights.

    These objects are not needed, and NumPy trusts the state it is given: a forged dtype can corrupt memory. So their
    names are allowed in a file, but none of their classes or functions is called.
    """

    def __init__(self, *_: object) -> None:
        pass

    def __new__(cls, *_: object) -> "Ignored":
        """Ignore the arguments of the object."""
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Ignore the state of the object."""


@dataclass(frozen=True)
class TorchFile:
    """Content of a file of `torch.save`.

    Attributes:
        content: Tensors and plain containers.
        has_checksums: Whether its bytes were compared with checksums in the file; there are none before torch 1.6.
    """

    content: Any
    has_checksums: bool


def read_torch_file(path: Path) -> TorchFile:
    """Read tensors and plain containers, on the CPU, with `Ignored` in place of other harmless objects.

    The CRC-32 of each record is checked before anything is read. A safetensors file is a flat state dict.

    Raises:
        CheckpointError: If the file would run code (the message lists the names) or is damaged.
    """
    with path.open("rb") as file:
        start = file.read(9)
    # safetensors: the length of a JSON table, and the table's first character
    if len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") <= path.stat().st_size - 8:
        try:
            return TorchFile(load_file(path), has_checksums=False)
        except (SafetensorError, *DAMAGED) as error:
            raise _damaged(path, f"safetensors: {error}") from error
    is_zip = start.startswith(_ZIP_MAGIC)
    has_checksums = is_zip and check_archive(path)
    if _names_bytearray(path, is_zip):
        raise CheckpointError(
            f"{path}: refused without running it, because it names builtins.bytearray, which a few bytes of a file "
            "can make as long as the memory: save the network's state_dict() alone and import that"
        )
    # In place of a defaultdict, whose factory is not called, an empty table is built.
    allowed: list[Any] = [*((Ignored, name) for name in _IGNORED), (lambda *_: {}, "collections.defaultdict")]
    with safe_globals(allowed), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of unusual files; real problems are errors
        try:
            return TorchFile(torch.load(path, map_location="cpu", weights_only=True), has_checksums)
        except UnpicklingError as error:
            try:
                names = sorted(get_unsafe_globals_in_checkpoint(path))
            except (UnpicklingError, *DAMAGED):  # broken, or older than torch 1.6: torch's message has the first
                names = re.findall(r"GLOBAL ([\w.]+)", str(error))[:1]
            if names:
                raise CheckpointError(
                    f"{path}: refused without running it, because it names {', '.join(names)}; epanns reads files of "
                    "tensors only: if you trust this one, save its state_dict() alone and import that"
                ) from error
            raise _damaged(path, "its table of contents cannot be read") from error
        except DAMAGED as error:
            raise _damaged(path, f"{type(error).__name__}: {error}") from error


def check_archive(path: Path) -> bool:
    """Compare the records of a zip archive with their sizes and checksums, in constant memory.

    Returns:
        Whether the archive has checksums: `torch.save` writes 0 for each after ``set_crc32_options(False)``.

    Raises:
        CheckpointError: If the archive is damaged, two records have one name, or the records together are far longer
            than the file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            if len({record.filename for record in records}) < len(records):
                raise zipfile.BadZipFile(f"two of its {len(records):,} records have one name")
            total, length = sum(record.file_size for record in records), path.stat().st_size
            if total > (limit := max(_ALWAYS_ALLOWED, _LARGEST_RATIO * length)):
                raise CheckpointError(
                    f"{path}: its records would take {total:,} bytes, must be at most {limit:,} in a file of "
                    f"{length:,}: weights do not compress so far; give another file"
                )
            if not any(record.CRC for record in records if record.file_size):
                return False
            for record in records:
                _check_record(archive, record)
    except DAMAGED as error:
        first_line = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise CheckpointError(f"{path}: damaged ({first_line}): {_REMEDY}") from error
    return True


def _check_record(archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> None:
    """Read a record to its end, where zipfile compares the CRC-32."""
    name = repr(record.filename[:60])
    if record.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise zipfile.BadZipFile(f"record {name} is compressed in an unknown way")
    if record.external_attr & _IS_FOLDER and not record.is_dir():
        raise zipfile.BadZipFile(f"record {name} is called a folder")
    length = 0
    with archive.open(record) as file:
        while chunk := file.read(_CHUNK):
            length += len(chunk)
    if length != record.file_size:
        raise zipfile.BadZipFile(f"record {name} ends after {length:,} of {record.file_size:,} bytes")


def _names_bytearray(path: Path, is_zip: bool) -> bool:
    """Return whether the opcodes name `bytearray`, the only allowed function that allocates memory of any size."""
    if not is_zip:
        with path.open("rb") as file:
            return _holds_bytearray(file)
    with zipfile.ZipFile(path) as archive:
        for record in archive.infolist():
            if record.filename.endswith(".pkl"):
                del record.CRC  # it was compared, and is 0 in a file without checksums
                with archive.open(record) as file:
                    if _holds_bytearray(file):
                        return True
    return False


def _holds_bytearray(file: IO[bytes]) -> bool:
    before = b""
    while chunk := file.read(_CHUNK):
        if _BYTEARRAY.search(before + chunk):
            return True
        before = chunk[-_LONGEST_NAME:]
    return False


def _damaged(path: Path, reason: str) -> CheckpointError:
    first_line = reason.splitlines()[0][:200]
    return CheckpointError(f"{path}: damaged, or no file of torch.save ({first_line}): download or copy it again")
