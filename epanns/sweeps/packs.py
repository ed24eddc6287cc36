"""The packs of an experiment, made once in the sweep's folder."""

import shutil
from collections.abc import Callable
from pathlib import Path

from epanns.atomic import write_json
from epanns.data.audioset import read_audioset
from epanns.data.class_folders import read_folder
from epanns.data.esc50 import read_esc50
from epanns.data.fsd50k import read_fsd50k
from epanns.data.manifest import Manifest, write_manifest
from epanns.data.pack_format import PackSettings
from epanns.data.packer import pack_manifest
from epanns.data.synthetic import make_synthetic
from epanns.errors import ConfigError, OutputError
from epanns.sweeps.experiment import DataConfig
from epanns.text_files import read_json

PARTS = ("train", "val", "test")
_ASKED = "asked.json"


def prepare_manifest(data: DataConfig, folder: Path) -> Manifest | None:
    """Return the clips of the data set; None where packs are given.

    Args:
        data: The ``[data]`` table.
        folder: Sound that is generated goes to ``audio`` in it; it belongs to one request, kept in ``asked.json``.

    Raises:
        ConfigError: If the data set does not have one of the splits.
        OutputError: If the folder holds other generated sound.
    """
    if data.kind == "packs":
        return None
    manifest = _read(data, folder)
    for split in sorted({split for part in PARTS for split in getattr(data, part)} - set(manifest.splits)):
        raise ConfigError(f"[data] no split {split!r} in {manifest.dataset}: it has {', '.join(manifest.splits)}")
    return manifest


def prepare_packs(data: DataConfig, manifest: Manifest | None, folder: Path, *, jobs: int = 1) -> dict[str, list[str]]:
    """Return the absolute paths of the packs of each part, making those that are not there.

    Args:
        data: The ``[data]`` table.
        manifest: From `prepare_manifest`.
        folder: Manifest and packs go to ``manifest.csv`` and ``packs/<split>`` in it.
        jobs: Processes that decode.

    Raises:
        OutputError: If the folder holds packs of other data.
    """
    if manifest is None:
        return {part: [str(Path(path).resolve()) for path in getattr(data, part)] for part in PARTS}
    manifest_path = folder / "manifest.csv"
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


def replace_unused_data(data: DataConfig, folder: Path) -> bool:
    """Remove what was made for another request than `data`, and keep this request; return whether anything went.

    For a sweep without a finished trial, whose experiment was corrected. The folder of a version that kept no request
    is left alone.

    Args:
        data: The ``[data]`` table as it is now.
        folder: As in `prepare_packs`.
    """
    asked, kept = {**data.identity(), "root": data.root}, folder / _ASKED
    if not folder.exists():
        write_json(kept, asked)
        return False
    if not kept.exists() or read_json(kept, error=OutputError) == asked:
        return False
    shutil.rmtree(folder)
    write_json(kept, asked)
    return True


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
