"""Checkpoints that are installed with epanns, by name: they need no download."""

import functools
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

DEFAULT = "esc50"  # tags sound if no checkpoint is given

_PLACE = resources.files("epanns") / "models" / "included"


@dataclass(frozen=True)
class IncludedNetwork:
    """One installed checkpoint; all numbers are copies of its record.

    Attributes:
        name: Name of its folder, which commands and `epanns.load` accept in place of a path.
        network: Row of the zoo from which it was made.
        classes: Its classes, in words.
        sample_rate: In Hz.
        n_params: Trainable parameters.
        backbone_macs: Multiply-adds for 10 s of sound.
        bytes: Size of its weights.
        sha256: Of its weights.
        scored_on: The clips of its scores, none of which it was trained on.
        mAP: Macro average precision on these clips.
        accuracy: Share of these clips whose class has the highest score.
        licence: Terms of the weights.
    """

    name: str
    network: str
    classes: str
    sample_rate: int
    n_params: int
    backbone_macs: int
    bytes: int
    sha256: str
    scored_on: str
    mAP: float  # noqa: N815 (the field's spelling)
    accuracy: float
    licence: str

    @property
    def folder(self) -> Path:
        """Folder of the checkpoint."""
        return Path(str(_PLACE)) / self.name


@functools.cache
def included_networks() -> tuple[IncludedNetwork, ...]:
    """Return the installed checkpoints, in the order of their file."""
    text = (_PLACE / "included.json").read_text(encoding="utf-8")
    return tuple(IncludedNetwork(**entry) for entry in json.loads(text)["networks"])


def included_network(name: str) -> IncludedNetwork:
    """Return the installed checkpoint of a name; raises `KeyError` without one."""
    return {network.name: network for network in included_networks()}[name]


def included_folder(path: str | Path) -> Path | None:
    """Return the folder of an installed checkpoint by its name; None for another name, or if `path` exists."""
    named = next((network for network in included_networks() if network.name == str(path)), None)
    return None if named is None or Path(path).exists() else named.folder
