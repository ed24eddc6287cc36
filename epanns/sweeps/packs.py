"""The packs an experiment asks for, made once under the sweep's folder."""

from collections.abc import Callable
from pathlib import Path

from epanns.data.audioset import read_audioset
from epanns.data.esc50 import read_esc50
from epanns.data.folder import read_folder
from epanns.data.fsd50k import read_fsd50k
from epanns.data.manifest import Manifest, write_manifest
from epanns.data.pack_format import PackSettings
from epanns.data.packer import pack_manifest
from epanns.data.synthetic import make_synthetic
from epanns.errors import ConfigError
from epanns.sweeps.experiment import DataConfig

PARTS = ("train", "val", "test")


def prepare_packs(data: DataConfig, folder: Path, *, jobs: int = 1) -> dict[str, list[str]]:
    """Return the absolute paths of the packs of each part, making those that are not there.

    Args:
        data: What is asked for.
        folder: Manifest and packs go to ``manifest.csv`` and ``packs/<split>`` in it.
        jobs: Processes that decode.

    Raises:
        ConfigError: If a split is asked for that the data set does not have.
        OutputError: If the folder holds packs of other data.
    """
    if data.kind == "packs":
        return {part: [str(Path(path).resolve()) for path in getattr(data, part)] for part in PARTS}
    manifest_path = folder / "manifest.csv"
    manifest = _read(data, folder)
    for split in {split for part in PARTS for split in getattr(data, part)} - set(manifest.splits):
        raise ConfigError(f"[data] no split {split!r} in {manifest.dataset}: it has {', '.join(manifest.splits)}")
    write_manifest(manifest, manifest_path)  # refuses a folder that holds another data set's
    packs: dict[str, list[str]] = {}
    for part in PARTS:
        packs[part] = []
        for split in getattr(data, part):
            out = folder / "packs" / split
            settings = PackSettings(splits=(split,), sample_rate=data.sample_rate, seconds=float(data.seconds))
            pack_manifest(manifest_path, out, settings, jobs=jobs)
            packs[part].append(str(out.resolve()))
    return packs


def _read(data: DataConfig, folder: Path) -> Manifest:
    if data.kind == "synthetic":
        return make_synthetic(folder / "audio", data.generator())
    readers: dict[str, Callable[[Path], Manifest]] = {
        "esc50": read_esc50,
        "folder": read_folder,
        "audioset": read_audioset,
        "fsd50k": read_fsd50k,
    }
    return readers[data.kind](Path(data.root))
