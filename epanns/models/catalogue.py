"""The released files epanns knows: where they are, how long, with which checksum."""

import functools
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from epanns.errors import CheckpointError, did_you_mean


@dataclass(frozen=True)
class ReleasedFile:
    """One published weight file.

    Attributes:
        name: File name.
        model: The publisher's name of the network.
        network: Row of the zoo that reads it.
        mAP: On AudioSet's evaluation set, as published.
        url: Where it is published.
        bytes: Length, or None where nobody has said.
        sha256: In hexadecimal, or None where nobody has said.
        licence: Under which terms.
    """

    name: str
    model: str
    network: str
    mAP: float  # noqa: N815 (the field's spelling)
    url: str
    bytes: int | None
    sha256: str | None
    licence: str


@functools.cache
def released_files() -> tuple[ReleasedFile, ...]:
    """Return the catalogue, in the order of its file."""
    text = (resources.files("epanns") / "models" / "released_files.json").read_text(encoding="utf-8")
    return tuple(ReleasedFile(**entry) for entry in json.loads(text)["files"])


def released_file(name: str) -> ReleasedFile:
    """Find a file by its own name or by its network's (``Cnn14_mAP=0.431.pth`` or ``Cnn14``).

    Raises:
        CheckpointError: If it is unknown; the nearest name is offered.
    """
    by_name = {file.name: file for file in released_files()} | {file.model: file for file in released_files()}
    if name not in by_name:
        raise CheckpointError(
            f"{name}: neither a file nor a released one{did_you_mean(Path(name).name, by_name)}; "
            "`epanns models` lists those epanns can download"
        )
    return by_name[name]


def known_file(path: Path, sha256: str) -> ReleasedFile | None:
    """Return the released file that this one is by its contents; its name decides nothing.

    Raises:
        CheckpointError: If it has the name of a released file whose sha256 is known, and other contents.
    """
    if by_contents := next((file for file in released_files() if file.sha256 == sha256), None):
        return by_contents
    named = next((file for file in released_files() if file.name == path.name and file.sha256), None)
    if named is not None:
        raise CheckpointError(
            f"{path}: sha256 {sha256}, must be {named.sha256} of the released file with this name: it is damaged or "
            "another file: download it again or, if it is a network of your own, rename it"
        )
    return None
