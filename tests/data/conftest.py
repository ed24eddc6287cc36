"""A small generated data set, its manifest and its pack: half-second clips at 8 kHz."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from epanns.data.manifest import write_manifest
from epanns.data.pack_format import PackSettings
from epanns.data.packer import pack_manifest
from epanns.data.synthetic import SyntheticSettings, make_synthetic

SETTINGS = PackSettings(sample_rate=8_000, seconds=0.5, clips_per_shard=8)


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """A folder with `set/` (audio), `set.csv` (manifest) and `pack/`; not to be changed."""
    folder = tmp_path_factory.mktemp("made")
    settings = SyntheticSettings(clips=20, classes=4, seconds=0.5, sample_rate=8_000)
    write_manifest(make_synthetic(folder / "set", settings), folder / "set.csv")
    pack_manifest(folder / "set.csv", folder / "pack", SETTINGS)
    return folder


@pytest.fixture
def own(made, tmp_path) -> Iterator[Path]:
    """A copy of `made` that the test may damage."""
    folder = tmp_path / "own"
    shutil.copytree(made, folder)
    yield folder


@pytest.fixture
def tree(tmp_path):
    """Make empty files below a folder."""

    def run(*files):
        root = tmp_path / "sounds"
        for file in files:
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).touch()
        return root

    return run
