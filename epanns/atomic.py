"""Write files and folders atomically, and compute checksums."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from epanns.errors import OutputError


def fsync(path: Path) -> None:
    """Flush a closed file, or the entries of a folder, to the disk, so that a rename in it survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield ``NAME.partial`` to write; it replaces `path` when the block ends without error.

    The file must be closed inside the block. On an error the partial file is removed and `path` is unchanged.
    """
    partial = partial_of(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        put_in_place(partial, path)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # the error of a write, such as on a full disk, has no file name
        partial.unlink(missing_ok=True)
        raise


def partial_of(path: Path) -> Path:
    """Return ``NAME.partial`` beside `path`, the name of the file while it is written."""
    return path.with_name(path.name + ".partial")


def put_in_place(partial: Path, path: Path) -> None:
    """Flush a closed file to the disk, rename it and flush the folder."""
    fsync(partial)
    partial.replace(path)
    fsync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def write_texts(texts: Mapping[Path, str]) -> None:
    """Write text files like `write_text`, each atomically, with one flush of the disk for all of them.

    Thousands of small files take seconds, where a flush of each takes minutes. A file that holds its text already is
    left unchanged.
    """
    partials: dict[Path, Path] = {}
    try:
        for path, text in texts.items():
            content = text.encode()
            if path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content:
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            partials[path] = partial_of(path)
            partials[path].write_bytes(content)
        if partials:
            os.sync()
        for path, partial in partials.items():
            partial.replace(path)
        for folder in {path.parent for path in partials}:
            fsync(folder)
    except BaseException:
        for partial in partials.values():
            partial.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, keys in the given order, indented by two spaces."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """Return the text of a JSON file, keys in the given order, indented by two spaces."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `path` when the block ends without error.

    Until then it is in a hidden folder ``.NAME.*`` beside `path`, which is removed at the end unless the process is
    killed.

    Raises:
        OutputError: If `path` exists; it is left unchanged.
    """
    refuse_existing(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as hidden:
        # One level down: only the owner may read the hidden folder, but a folder in it has the usual permissions.
        partial = Path(hidden) / path.name
        partial.mkdir()
        yield partial
        for file in (*partial.rglob("*"), partial):
            fsync(file)
        refuse_existing(path)
        partial.replace(path)
    fsync(path.parent)


def refuse_existing(path: Path) -> None:
    """Raise `OutputError` if `path` exists; call it before long work."""
    if path.exists():
        raise OutputError(f"{path} exists already: choose another --out or delete it first")


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_json(value: Any) -> str:
    """Return the sha256 of a JSON value in canonical form (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
