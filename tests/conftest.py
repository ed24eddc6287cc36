"""Fixtures of the whole suite, made by `tests/builders.py`."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from hypothesis import settings

from epanns.cli.main import main
from epanns.data.datasets.synthetic import SyntheticSettings, make_synthetic
from epanns.data.manifest import Manifest, write_manifest
from epanns.labels import LabelSet
from epanns.models.spec import ModelSpec
from tests import builders

# A deadline would fail at random on a busy machine; the time of the whole suite is measured instead.
settings.register_profile("epanns", deadline=None)
settings.register_profile("long", deadline=None, max_examples=10_000)  # --hypothesis-profile=long
settings.load_profile("epanns")

# Networks of tests are small: threads that wait for each other take longer than they save. Processes that tests start
# use one thread too, so that their sums are the same to the last bit.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture
def runner() -> CliRunner:
    return CliRunner()


@pytest.fixture
def epanns(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command line; return exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        return stop.value.code, *capsys.readouterr()

    return run


@pytest.fixture
def tiny_spec() -> ModelSpec:
    """A network that is built and run in milliseconds."""
    return builders.tiny_spec()


@pytest.fixture
def tiny_checkpoint(tmp_path: Path, tiny_packs: dict[str, Path]) -> Path:
    """A checkpoint of `tiny_spec` with the classes of `tiny_packs`."""
    return builders.make_checkpoint(tmp_path / "tiny", labels=tiny_packs["val"])


@pytest.fixture(autouse=True)
def only_svg(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write figures only as SVG, which is fast; tests of other formats set `FORMATS` themselves."""
    monkeypatch.setattr("epanns.reporting.figures.style.FORMATS", (".svg",))


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Seed torch's generator before every test."""
    torch.manual_seed(0)
    yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real audio and official metadata, if there is one."""
    folder = Path(os.environ.get("EPANNS_SHARED", Path(__file__).parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}; set EPANNS_SHARED")
    return folder


@pytest.fixture(scope="session")
def tiny_packs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Packs of generated sound for `tiny_spec`: 60 train, 20 val and 20 test clips of half a second, 4 classes."""
    return builders.make_packs(builders.make_manifest(tmp_path_factory.mktemp("tiny"), clips=100, classes=4))


@pytest.fixture(scope="session")
def single_label_packs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Packs like `tiny_packs` with one label per clip of three classes: two of `tiny_packs`, respelled, one new."""
    folder = tmp_path_factory.mktemp("single")
    drawn = make_synthetic(folder / "audio", SyntheticSettings(clips=200, classes=4, seconds=0.5, sample_rate=8_000))
    names = {"noise band": "noise_band", "tone": "Tone", "clicks": "mouse click"}
    clips = tuple(
        replace(clip, labels=(names[clip.labels[0]],), clip_id=f"one-{clip.clip_id}")
        for clip in drawn.clips
        if len(clip.labels) == 1 and clip.labels[0] in names
    )
    write_manifest(Manifest("single", LabelSet.of(list(names.values())), clips), folder / "manifest.csv")
    return builders.make_packs(folder / "manifest.csv")
