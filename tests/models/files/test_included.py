"""Checkpoints that are installed with the package: found by name, whole, small, and as their list states."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from epanns.complexity.macs import profile
from epanns.errors import CheckpointError
from epanns.models.files.checkpoint import FILES, WEIGHTS, load_checkpoint
from epanns.models.files.included import DEFAULT, included_folder, included_network, included_networks
from epanns.models.files.load import load
from epanns.models.zoo import list_models
from tests.builders import make_checkpoint

ROOT = Path(__file__).parents[3]
NETWORKS = pytest.mark.parametrize("network", included_networks(), ids=lambda network: network.name)


@NETWORKS
def test_the_list_states_what_is_in_the_folder(network):
    found = load_checkpoint(network.folder)  # checks the sha256 of every file
    model = found.build()
    cost = profile(model, seconds=10.0)
    assert {file.name for file in network.folder.iterdir()} == set(FILES)
    assert (network.n_params, network.backbone_macs) == (cost.n_params, cost.backbone_macs)
    assert (network.sample_rate, network.network) == (cost.sample_rate, found.spec.name)
    assert network.sha256 == found.provenance.sha256
    assert network.bytes == (network.folder / WEIGHTS).stat().st_size
    assert network.classes.startswith(f"{len(found.labels)} classes of ")


@NETWORKS
def test_the_whole_folder_takes_at_most_a_megabyte(network):
    assert sum(file.stat().st_size for file in network.folder.iterdir()) <= 1_000_000


@NETWORKS
def test_the_name_is_accepted_in_place_of_a_path(network, tmp_path, monkeypatch, epanns):
    monkeypatch.chdir(tmp_path)
    assert network.name not in list_models()
    assert included_folder(network.name) == included_folder(Path(network.name)) == network.folder
    code, out, _ = epanns("info", network.name)
    assert code == 0 and network.sha256 in out and "stored as float16" in out
    make_checkpoint(tmp_path / network.name)  # a path of this name takes precedence
    assert included_folder(network.name) is None


def test_load_reads_the_default_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = load(DEFAULT)
    assert model.provenance.sha256 == included_network(DEFAULT).sha256
    with pytest.raises(CheckpointError, match="esc51: no such file or folder"):
        load("esc51")


def test_the_checkpoints_folder_links_to_the_one_copy():
    for network in included_networks():
        link = ROOT / "checkpoints" / network.name
        assert link.is_symlink() and link.resolve() == network.folder.resolve()
        assert f"`{network.name}`" in (ROOT / "checkpoints" / "README.md").read_text()


def test_the_licence_of_the_network_it_was_made_from_is_installed():
    text = (included_network(DEFAULT).folder.parent / "LICENSE-EfficientAT.txt").read_text()
    assert text.startswith("MIT License\n\nCopyright (c) 2022 Florian Schmid")


@pytest.mark.slow
def test_a_wheel_holds_the_network(tmp_path):
    build = "from setuptools import build_meta; import sys; build_meta.build_wheel(sys.argv[1])"
    copied = tmp_path / "source"
    copied.mkdir()
    for name in ("epanns", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        (copied / name).symlink_to(ROOT / name)
    subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=copied, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for network in included_networks():
        assert {f"epanns/models/included/{network.name}/{name}" for name in FILES} <= names
    assert {"epanns/models/included/included.json", "epanns/models/included/LICENSE-EfficientAT.txt"} <= names
