"""Files and folders that appear whole or not at all, and their checksums."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from epanns.errors import OutputError


def fsync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield ``NAME.partial`` to write; it takes the place of `path` when the block ends without error.

    The file must be closed inside the block. On an error the partial file is removed and `path` is left as it was.
    """
    partial = partial_of(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        put_in_place(partial, path)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # an error of a write, such as of a full disk, names no file by itself
        partial.unlink(missing_ok=True)
        raise


def partial_of(path: Path) -> Path:
    """Return ``NAME.partial`` beside `path`, where it is written before it appears."""
    return path.with_name(path.name + ".partial")


def put_in_place(partial: Path, path: Path) -> None:
    """Flush a closed file to the disk, give it its name and flush that too."""
    with partial.open("rb") as written:
        os.fsync(written.fileno())
    partial.replace(path)
    fsync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, keys in the order given, two spaces of indent."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `path` when the block ends without error.

    Until then it lies in a hidden folder of a name of its own beside `path`, which goes whatever happens in the block;
    only a killed process leaves its ``.NAME.*`` behind.

    Raises:
        OutputError: If `path` exists; nothing in it is touched.
    """
    refuse_existing(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as hidden:
        # One level down: the hidden folder is its owner's alone, what is made in it has the usual permissions.
        partial = Path(hidden) / path.name
        partial.mkdir()
        yield partial
        for file in partial.rglob("*"):
            if file.is_dir():
                fsync_folder(file)
            elif file.is_file():
                with file.open("rb") as written:
                    os.fsync(written.fileno())
        fsync_folder(partial)
        refuse_existing(path)
        try:
            partial.replace(path)
        except OSError:
            refuse_existing(path)  # another process has made it meanwhile
            raise
    fsync_folder(path.parent)


def refuse_existing(path: Path) -> None:
    """Raise `OutputError` if something is at `path` already; call it before long work."""
    if path.exists():
        raise OutputError(f"{path} exists already: choose another --out or delete it first")


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_json(value: Any) -> str:
    """Return the sha256 of a JSON value in canonical form (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
