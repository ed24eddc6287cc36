"""Zip archives of weights, checked before anything in them is read: sizes, and the CRC-32 of each record."""

import struct
import zipfile
import zlib
from pathlib import Path

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
