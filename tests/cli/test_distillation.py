"""``epanns finetune --teacher``: who teaches, how much, and what is refused."""

import json

import pytest

from epanns.cli.main import cli
from epanns.data.batches.dataset import PackDataset
from epanns.errors import ConfigError
from epanns.labels import LabelSet
from epanns.models.files.checkpoint import save_checkpoint
from epanns.models.files.load import load
from epanns.pruning.prune import prune
from tests.builders import make_checkpoint


@pytest.fixture
def runs(tmp_path, tiny_packs):
    """A base and a network that was pruned from it, side by side."""
    make_checkpoint(tmp_path / "base", "Cnn14_8k", tiny_packs["train"], width=0.03, seed=1)
    save_checkpoint(prune(load(tmp_path / "base"), ratio=0.5)[0], tmp_path / "pruned")
    return tmp_path


@pytest.fixture
def finetune(runner, runs, tiny_packs):
    """Fine-tune the pruned network; return the output, and the operation of the recipe."""

    def run(*arguments, out="run", checkpoint="pruned"):
        short = ["--iterations", "1", "--batch-size", "4", "--train", tiny_packs["train"], "--val", tiny_packs["val"]]
        given = ["finetune", runs / checkpoint, *short, "--out", runs / out, *arguments]
        result = runner.invoke(cli, [str(argument) for argument in given], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stderr, load(runs / out).provenance.recipe[-1].settings

    return run


def test_a_teacher_alone_has_half_of_the_loss(finetune, runs):
    said, step = finetune("--teacher", runs / "base")
    sha256 = load(runs / "base").provenance.sha256
    assert f"teacher: {runs / 'base'} (Cnn14_8k, sha256 {sha256[:12]}), distil weight 0.5" in said
    assert (step["teacher_sha256"], step["training"]["distil_weight"]) == (sha256, 0.5)


def test_a_weight_alone_finds_the_unpruned_network(finetune, runs):
    said, step = finetune("--feature-weight", 0.1, "--teacher-precision", "bfloat16")
    assert f"teacher: {runs.resolve() / 'base'} (" in said and "feature weight 0.1" in said
    assert step["teacher_sha256"] == load(runs / "base").provenance.sha256
    assert "distil_weight" not in step["training"]
    assert (step["training"]["feature_weight"], step["training"]["teacher_precision"]) == (0.1, "bfloat16")


def test_without_weight_there_is_no_teacher_and_a_teacher_needs_a_weight(finetune, runs):
    said, step = finetune()
    assert "teacher" not in said and "teacher_sha256" not in step
    unheard = "teacher without weight: set distil_weight or feature_weight above 0, or remove --teacher"
    with pytest.raises(ConfigError, match=unheard):
        finetune("--teacher", runs / "base", "--distil-weight", 0, out="control")
    assert not (runs / "control").exists()


def test_a_file_of_options_may_name_teacher_and_weight(finetune, runs):
    (runs / "recipe.toml").write_text(f'teacher = "{runs / "base"}"\ndistil-weight = 0.75\n')
    assert finetune("--config", runs / "recipe.toml")[1]["training"]["distil_weight"] == 0.75


def test_what_has_no_unpruned_network_beside_it_needs_a_teacher(finetune, runs):
    with pytest.raises(
        ConfigError, match=r"distil_weight and feature_weight without a teacher: .*base has no unpruned"
    ):
        finetune("--distil-weight", 0.5, "--feature-weight", 1, checkpoint="base")
    assert not (runs / "run").exists()


def test_fresh_deletes_nothing_where_the_teacher_does_not_fit(finetune, runs):
    finetune()
    kept = (runs / "run" / "training.json").read_text()
    make_checkpoint(runs / "other", "Cnn14_8k", LabelSet.of(["a", "b", "c", "d"]), width=0.03)
    with pytest.raises(ConfigError, match="the teacher Cnn14_8k has other classes .* and lacks 'tone'"):
        finetune("--teacher", runs / "other", "--fresh")
    assert (runs / "run" / "training.json").read_text() == kept
    assert json.loads(kept)["result"]["steps"] == 1


def test_a_new_network_learns_from_a_checkpoint_or_from_its_stored_scores(runner, runs, tiny_packs):
    def call(*arguments):
        result = runner.invoke(cli, [str(argument) for argument in arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stderr

    scored, sha256 = runs / "scored", load(runs / "base").provenance.sha256
    call("evaluate", runs / "base", "--data", tiny_packs["train"], "--bootstrap", 0, "--out", scored)
    new = ["train", "Cnn14_8k", "--width", 0.03, "--iterations", 1, "--batch-size", 4, "--keep", "last"]
    new += ["--train", tiny_packs["train"], "--val", tiny_packs["val"]]
    said = call(*new, "--teacher", runs / "base", "--out", runs / "by-network")
    assert f"teacher: {runs / 'base'} (Cnn14_8k, sha256 {sha256[:12]}), distil weight 0.5" in said
    said = call(*new, "--teacher", scored / "scores.npz", "--distil-weight", 0.7, "--out", runs / "by-scores")
    n_clips = len(PackDataset([tiny_packs["train"]]))
    assert f"teacher: {scored / 'scores.npz'} (scores of {n_clips} clips, sha256 " in said
    found = [load(runs / out).provenance.recipe[-1].settings for out in ("by-network", "by-scores")]
    assert [each["training"]["distil_weight"] for each in found] == [0.5, 0.7]
    assert found[0]["teacher_sha256"] == sha256
    with pytest.raises(ConfigError, match=r"^distil_weight without a teacher: give --teacher CKPT"):
        call(*new, "--distil-weight", 0.5, "--out", runs / "alone")
    assert not (runs / "alone").exists()
