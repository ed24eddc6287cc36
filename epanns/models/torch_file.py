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
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from epanns.errors import CheckpointError

# What is assumed of a file that nothing can be compared with.
UNVERIFIED = (
    "the file holds no checksums and its sha256 is not that of a released file: damage to its weights cannot be found"
)

ZIP_MAGIC = b"PK\x03\x04"

# What zipfile was seen to raise on damaged archives.
DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    OSError,
    EOFError,
    RuntimeError,  # NotImplementedError and what asks for a password among them
    ValueError,
    TypeError,
    LookupError,
    OverflowError,
)

_IS_FOLDER = 0x10  # bit of a record's attributes; torch reads nothing of such a record and leaves its memory as it was
_CHUNK = 1 << 20  # bytes in memory at a time
_LARGEST_RATIO = 4  # of the bytes of all records and those of the file; weights hardly compress
_ALWAYS_ALLOWED = 64 << 20  # bytes of all records, whatever the file's length is
_REMEDY = "download or copy the whole file again"


def is_zip(path: Path) -> bool:
    """Return whether a file begins as an archive of `torch.save` does."""
    with path.open("rb") as file:
        return file.read(len(ZIP_MAGIC)) == ZIP_MAGIC


def check_archive(path: Path) -> bool:
    """Compare the records of a zip archive with their sizes and checksums, in memory that does not grow with them.

    Returns:
        Whether the archive has checksums: `torch.save` writes 0 for each where ``set_crc32_options(False)`` was called.

    Raises:
        CheckpointError: If the archive is damaged, two records have one name, or its records are far longer together
            than the file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            _check_sizes(path, records)
            if not any(record.CRC for record in records if record.file_size):
                return False
            for record in records:
                _check_record(archive, record)
    except DAMAGED as error:
        first_line = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise CheckpointError(f"{path}: damaged ({first_line}): {_REMEDY}") from error
    return True


def _check_sizes(path: Path, records: list[zipfile.ZipInfo]) -> None:
    names = {record.filename for record in records}
    if len(names) < len(records):
        raise CheckpointError(f"{path}: damaged (two of its {len(records):,} records have one name): {_REMEDY}")
    total = sum(record.file_size for record in records)
    limit = max(_ALWAYS_ALLOWED, _LARGEST_RATIO * path.stat().st_size)
    if total > limit:
        raise CheckpointError(
            f"{path}: its records would take {total:,} bytes, must be at most {limit:,} in a file of "
            f"{path.stat().st_size:,}: weights do not compress so far; give another file"
        )


def _check_record(archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> None:
    """Read a record to its end, where zipfile compares the CRC-32."""
    if record.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise zipfile.BadZipFile(f"record {record.filename[:60]!r} is compressed in an unknown way")
    if record.external_attr & _IS_FOLDER and not record.is_dir():
        raise zipfile.BadZipFile(f"record {record.filename[:60]!r} is called a folder")
    length = 0
    with archive.open(record) as file:
        while chunk := file.read(_CHUNK):
            length += len(chunk)
    if length != record.file_size:
        raise zipfile.BadZipFile(f"record {record.filename[:60]!r} ends after {length:,} of {record.file_size:,} bytes")


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

# What training code stores beside weights. NumPy's: the `sampler` of released PANNs files holds lists of arrays, and
# best scores are NumPy scalars.
_UNREAD = (
    *(f"numpy.{core}.multiarray.{name}" for core in ("_core", "core") for name in ("_reconstruct", "scalar")),
    *("numpy.ndarray", "numpy.dtype", "argparse.Namespace", "types.SimpleNamespace"),
    *(f"pathlib.{name}" for name in ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
    *(f"pathlib._local.{name}" for name in ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
    *(f"datetime.{name}" for name in ("datetime", "date", "time", "timedelta", "timezone")),
    *("decimal.Decimal", "fractions.Fraction", "uuid.UUID", "builtins.slice", "builtins.range", "builtins.frozenset"),
    *("builtins.list", "builtins.dict", "builtins.int", "builtins.float", "builtins.str", "builtins.bool"),
)
_BYTEARRAY = re.compile(rb"c(builtins|__builtin__)\nbytearray\n")
_LONGEST_NAME = 32  # bytes, longer than what is searched for
_CHUNK = 1 << 20
_DEFAULT_TABLE = "collections.defaultdict"


class Unread:
    """Stands where a file holds a NumPy array or another object beside the weights.

    Nothing reads these objects, and NumPy trusts the state it is given: a forged dtype can corrupt memory. So their
    names are allowed in a file, and no class or function of theirs is ever called.
    """

    def __init__(self, *_: object) -> None:
        pass

    def __new__(cls, *_: object) -> "Unread":
        """Ignore what the object is made of."""
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Ignore the object's state."""


@dataclass(frozen=True)
class TorchFile:
    """What a file of `torch.save` holds.

    Attributes:
        content: Tensors and plain containers.
        has_checksums: Whether its bytes were compared with checksums in it; files before torch 1.6 have none.
    """

    content: Any
    has_checksums: bool


def read_torch_file(path: Path) -> TorchFile:
    """Read tensors and plain containers, on the CPU, with `Unread` for other harmless objects; refuse everything else.

    The CRC-32 of each record is checked before anything is read. A safetensors file is a flat state dict.

    Raises:
        CheckpointError: If the file would run code (the message lists what it asks for) or is damaged.
    """
    if _is_safetensors(path):
        return TorchFile(_read_safetensors(path), has_checksums=False)
    has_checksums = is_zip(path) and check_archive(path)
    if _asks_for_memory(path):
        raise CheckpointError(
            f"{path}: refused without running it, because it asks for builtins.bytearray, which a few bytes of a file "
            "can make as long as the memory: save the network's state_dict() alone and import that"
        )
    stand_ins: list[Any] = [*((Unread, name) for name in _UNREAD), (_table, _DEFAULT_TABLE)]
    with safe_globals(stand_ins), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's guesses about odd files; what they lead to is an error or is not
        try:
            return TorchFile(torch.load(path, map_location="cpu", weights_only=True), has_checksums)
        except UnpicklingError as error:
            if names := _refused_names(path, str(error)):
                raise CheckpointError(
                    f"{path}: refused without running it, because it asks for {', '.join(names)}; epanns reads files "
                    "of tensors only: where you trust this one, save its state_dict() alone and import that"
                ) from error
            raise _damaged(path, "its table of contents cannot be read") from error
        except _DAMAGED as error:
            raise _damaged(path, f"{type(error).__name__}: {error}") from error


def _asks_for_memory(path: Path) -> bool:
    """Return whether the opcodes of a file name `bytearray`, the one thing torch allows that makes long zeros."""
    if not is_zip(path):
        with path.open("rb") as file:
            return _names_bytearray(file)
    with zipfile.ZipFile(path) as archive:
        for record in archive.infolist():
            if record.filename.endswith(".pkl"):
                del record.CRC  # it is compared already, and 0 where the file has none
                with archive.open(record) as file:
                    if _names_bytearray(file):
                        return True
    return False


def _names_bytearray(file: IO[bytes]) -> bool:
    before = b""
    while chunk := file.read(_CHUNK):
        if _BYTEARRAY.search(before + chunk):
            return True
        before = chunk[-_LONGEST_NAME:]
    return False


def _table(*_: object) -> dict[object, object]:
    """Stand where a file holds a `collections.defaultdict`, whose factory is not called."""
    return {}


def _is_safetensors(path: Path) -> bool:
    """Return whether a file begins with the length of a table and the table's first character."""
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") <= path.stat().st_size - 8


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, *_DAMAGED) as error:
        raise _damaged(path, f"safetensors: {error}") from error


def _refused_names(path: Path, message: str) -> list[str]:
    """Return the globals a file asks for beyond the allowed ones, read from its opcodes alone."""
    try:
        return sorted(get_unsafe_globals_in_checkpoint(path))
    except (UnpicklingError, *_DAMAGED):  # not a zip, as before torch 1.6, or broken: torch's message names the first
        return re.findall(r"GLOBAL ([\w.]+)", message)[:1]


def _damaged(path: Path, reason: str) -> CheckpointError:
    first_line = reason.splitlines()[0][:200]
    return CheckpointError(f"{path}: damaged, or no file of torch.save ({first_line}): download or copy it again")
