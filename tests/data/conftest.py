"""A small generated data set, its manifest and its pack: half-second clips at 8 kHz."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from epanns.data.clip import Clip
from epanns.data.datasets.synthetic import SyntheticSettings, make_synthetic
from epanns.data.manifest import Manifest, write_manifest
from epanns.data.packing.packer import pack_manifest
from epanns.data.packs.pack_format import PackSettings
from epanns.labels import LabelSet

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


@pytest.fixture
def dataset(tmp_path):
    """Write audio files and their manifest; return the manifest's path."""

    def run(sounds, rate=8_000):
        (tmp_path / "audio").mkdir(exist_ok=True)
        clips = []
        for clip_id, samples in sounds.items():
            path = tmp_path / "audio" / clip_id
            if isinstance(samples, bytes):
                path.write_bytes(samples)
            elif samples is not None:
                soundfile.write(path, samples, rate, subtype="FLOAT")
            clips.append(Clip(clip_id, str(path), ("dog",), "train"))
        write_manifest(Manifest("mine", LabelSet.of(["cat", "dog"]), tuple(clips)), tmp_path / "m.csv")
        return tmp_path / "m.csv"

    return run


def noise(seconds=0.5, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(round(8_000 * seconds))).astype(np.float32)
