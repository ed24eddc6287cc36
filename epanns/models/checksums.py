"""The checksums.json of a checkpoint folder: the sha256 of each of its files, written last and checked on load."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from epanns.atomic import sha256_of
from epanns.errors import CheckpointError
from epanns.feedback import note
from epanns.text_files import read_json

CHECKSUMS = "checksums.json"

_FORMAT = "epanns-checksums/1"
_LONGEST = 64 << 10  # bytes
_REMEDY = f"copy the whole checkpoint again or, where a file was changed on purpose, delete {CHECKSUMS}"


def write_checksums(folder: Path, names: tuple[str, ...]) -> None:
    """Write the sha256 of files of a folder that holds them already."""
    table = {"format": _FORMAT, "sha256": {name: sha256_of(folder / name) for name in names}}
    (folder / CHECKSUMS).write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8", newline="\n")


def check_files(folder: Path, *, required: tuple[str, ...], free: tuple[str, ...], known: Mapping[str, str]) -> None:
    """Compare the files of a checkpoint folder with their checksums.

    A folder without checksums.json, as earlier versions wrote them and as some tools copy them, gets a note and no
    more. So does a changed file that nothing reads, the model card, which people edit by hand.

    Args:
        folder: The checkpoint.
        required: Names of the files that a network is made of; each must have a checksum and fit it.
        free: Names of the files that may be changed or removed.
        known: sha256 of files that were read already, which are not read again.

    Raises:
        CheckpointError: If checksums.json is damaged, lacks a required file, or a file differs from its checksum.
    """
    path = folder / CHECKSUMS
    if not path.exists():
        note(f"{folder}: has no {CHECKSUMS}, so that changes of its labels and settings cannot be found")
        return
    stored = _read(path, names={*required, *free})
    if missing := [name for name in required if name not in stored]:
        raise CheckpointError(f"{path}: no sha256 of {', '.join(missing)}: {_REMEDY}")
    for name in required:
        if (known.get(name) or sha256_of(folder / name)) != stored[name]:
            raise CheckpointError(
                f"{folder / name}: its sha256 is not the one in {CHECKSUMS}: the file is damaged or was changed: "
                f"{_REMEDY}"
            )
    for name in free:
        if name in stored and (folder / name).is_file() and sha256_of(folder / name) != stored[name]:
            note(f"{folder / name}: was changed after it was written; the network does not depend on it")


def _read(path: Path, *, names: set[str]) -> dict[str, str]:
    values = read_json(path, error=CheckpointError, limit=_LONGEST, remedy=_REMEDY)
    found = values.get("format") if isinstance(values, dict) else None
    if found != _FORMAT:
        raise CheckpointError(f"{path}: format {str(found)[:60]!r} is unknown, must be {_FORMAT!r}: {_REMEDY}")
    stored = values.get("sha256")
    if not isinstance(stored, dict) or set(values) != {"format", "sha256"}:
        raise CheckpointError(f"{path}: must hold 'format' and a table 'sha256' and no more: {_REMEDY}")
    for name, digest in stored.items():
        if name not in names or not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
            raise CheckpointError(
                f"{path}: sha256 of {name[:60]!r} is {str(digest)[:80]!r}: must be 64 hexadecimal digits for one of "
                f"{', '.join(sorted(names))}: {_REMEDY}"
            )
    return stored
