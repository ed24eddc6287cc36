"""The unpruned network is found by the parents in checkpoints, if all of them are there."""

import shutil

import pytest
import torch

from epanns.models.families.cnn_2d import Cnn
from epanns.models.files.checkpoint import save_checkpoint
from epanns.models.files.load import find_unpruned, load
from epanns.pruning.prune import prune


@pytest.fixture
def runs(tmp_path, tiny_spec):
    """Base, pruned, fine-tuned, pruned again, each made of the one before."""
    save_checkpoint(Cnn(tiny_spec), tmp_path / "base")
    save_checkpoint(prune(load(tmp_path / "base"), ratio=0.5)[0], tmp_path / "pruned")
    tuned = load(tmp_path / "pruned")
    with torch.no_grad():
        tuned.fc1.bias.add_(1)
    save_checkpoint(tuned, tmp_path / "finetuned")
    save_checkpoint(prune(load(tmp_path / "finetuned"), ratio=0.25)[0], tmp_path / "pruned_again")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "config.json").write_text("{}")
    return tmp_path


def test_the_unpruned_checkpoint_is_found_over_several_prunings(runs, monkeypatch):
    for name in ("pruned", "finetuned", "pruned_again"):
        assert find_unpruned(runs / name) == runs / "base"
    assert find_unpruned(runs / "base") is None
    monkeypatch.chdir(runs / "pruned")
    assert find_unpruned(runs / "pruned" / ".") == runs / "base"


def test_rounds_beside_a_pruned_checkpoint_are_searched(runs):
    (runs / "pruned_again.steps").mkdir()
    (runs / "finetuned").rename(runs / "pruned_again.steps" / "step1")
    assert find_unpruned(runs / "pruned_again") == runs / "base"


def test_a_missing_round_or_another_network_gives_no_unpruned_checkpoint(runs, tiny_spec):
    shutil.rmtree(runs / "finetuned")
    assert find_unpruned(runs / "pruned_again") is None
    assert find_unpruned(runs / "pruned") == runs / "base"
    shutil.rmtree(runs / "base")
    torch.manual_seed(9)
    save_checkpoint(Cnn(tiny_spec), runs / "base")
    assert find_unpruned(runs / "pruned") is None
    assert find_unpruned(runs / "released.pth") is None
