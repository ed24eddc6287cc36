"""Fixtures every part of the suite may use."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from hypothesis import settings

from epanns.audio.frontend import FrontEndSpec
from epanns.data.manifest import Manifest, write_manifest
from epanns.data.pack_format import PackSettings
from epanns.data.packer import pack_manifest
from epanns.data.synthetic import SyntheticSettings, make_synthetic
from epanns.labels import LabelSet
from epanns.models.spec import ModelSpec, conv_widths
from epanns.models.zoo import ZOO

# Two busy cores make any deadline a coin toss; how long the suite takes is watched as a whole.
settings.register_profile("epanns", deadline=None)
settings.register_profile("long", deadline=None, max_examples=10_000)  # --hypothesis-profile=long
settings.load_profile("epanns")


@pytest.fixture
def runner() -> CliRunner:
    return CliRunner()


@pytest.fixture
def tiny_spec() -> ModelSpec:
    """Cnn14's shape with 4 to 12 channels, 8 kHz and 4 classes: builds and runs in milliseconds."""
    front_end = FrontEndSpec(sample_rate=8_000, window_size=256, hop_size=80, mel_bins=64, fmin=50, fmax=4_000)
    return replace(
        ZOO["Cnn14"],
        front_end=front_end,
        widths=conv_widths(4, 4, 6, 8, 10, 12),
        embedding_size=16,
        num_classes=4,
    )


def narrow_spec(**changes: object) -> ModelSpec:
    """Cnn14 in small: twelve convolutions, five poolings, every width different from block to block."""
    values = {
        "name": "narrow",
        "family": "cnn",
        "front_end": FrontEndSpec(8_000, 256, 80, 32, 50, 4_000),
        "widths": conv_widths(4, 6, 8, 10, 12, 14),
        "embedding_size": 9,
        "num_classes": 5,
    }
    return ModelSpec(**(values | changes))


@pytest.fixture(autouse=True)
def only_svg(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write figures as SVG alone, which is fast; tests of the other formats set them again."""
    monkeypatch.setattr("epanns.reporting.figure.FORMATS", (".svg",))


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """The same random numbers in every test, whatever ran before."""
    torch.manual_seed(0)
    yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real audio and official metadata, where there is one."""
    folder = Path(os.environ.get("EPANNS_SHARED", Path(__file__).parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}; set EPANNS_SHARED")
    return folder


@pytest.fixture(scope="session")
def tiny_packs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Packs of generated sound for `tiny_spec`: 60 train, 20 val and 20 test clips of half a second, 4 classes."""
    folder = tmp_path_factory.mktemp("tiny")
    settings = SyntheticSettings(clips=100, classes=4, seconds=0.5, sample_rate=8_000)
    write_manifest(make_synthetic(folder / "audio", settings), folder / "manifest.csv")
    for split in ("train", "val", "test"):
        asked = PackSettings(splits=(split,), sample_rate=8_000, seconds=0.5)
        pack_manifest(folder / "manifest.csv", folder / split, asked)
    return {split: folder / split for split in ("train", "val", "test")}


@pytest.fixture(scope="session")
def single_label_packs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Like `tiny_packs`, but each clip has one of three classes: two of theirs, spelled otherwise, and a new one."""
    folder = tmp_path_factory.mktemp("single")
    drawn = make_synthetic(folder / "audio", SyntheticSettings(clips=200, classes=4, seconds=0.5, sample_rate=8_000))
    names = {"noise band": "noise_band", "tone": "Tone", "clicks": "mouse click"}
    clips = tuple(
        replace(clip, labels=(names[clip.labels[0]],), clip_id=f"one-{clip.clip_id}")
        for clip in drawn.clips
        if len(clip.labels) == 1 and clip.labels[0] in names
    )
    write_manifest(Manifest("single", LabelSet.of(list(names.values())), clips), folder / "manifest.csv")
    for split in ("train", "val", "test"):
        asked = PackSettings(splits=(split,), sample_rate=8_000, seconds=0.5)
        pack_manifest(folder / "manifest.csv", folder / split, asked)
    return {split: folder / split for split in ("train", "val", "test")}
