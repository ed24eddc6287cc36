"""EfficientAT's mn from the command line: judged layer by layer, pruned by every kind of method and budget."""

import json

import pytest

from epanns.cli.main import cli
from epanns.models.files.load import load
from epanns.models.zoo import ZOO
from epanns.pruning.budgets import latency_budget
from tests.builders import make_checkpoint, parameter_clock
from tests.families import at_8k

GATE = "features.4.block.1.conc_se_layers.0.fc1"
LAYERS = f"{GATE},features.5.block.0.0"


@pytest.fixture(scope="module")
def dense(tmp_path_factory, tiny_packs):
    spec = at_8k(ZOO["mn01"].scaled(1 / 2))
    return make_checkpoint(tmp_path_factory.mktemp("mn") / "dense", spec, labels=tiny_packs["val"])


@pytest.fixture
def run(runner):
    """Run a command; return its result and what it wrote to stderr."""

    def invoke(*arguments):
        result = runner.invoke(cli, [*map(str, arguments), "--json"], catch_exceptions=False)
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout), result.stderr

    return invoke


def test_the_sensitivity_of_a_gate_and_of_an_expansion_is_measured(run, dense, tiny_packs, tmp_path):
    asked = ("--layers", LAYERS, "--ratios", "0.5", "--out", tmp_path / "out")
    found, _ = run("sensitivity", dense, "--data", tiny_packs["val"], "--calibration", tiny_packs["val"], *asked)
    assert [row["layer"] for row in found["rows"]] == ["", *LAYERS.split(",")]


@pytest.mark.parametrize(
    "target", [("--target-macs", 0.5), ("--target-params", 0.8, "--layers", "features.15,features.16.0")]
)
def test_the_method_auto_meets_a_budget(run, dense, tiny_packs, tmp_path, target):
    """With a refit in place of the method's gradient steps, which take minutes."""
    out = tmp_path / "auto"
    cut, stderr = run(
        "prune", dense, "--method", "auto", "--recover", "ls", *target, "--calibration", tiny_packs["val"], "--out", out
    )
    assert "--method auto: --criterion activation" in stderr
    assert 0.9 * cut["budget"]["asked"] <= cut["budget"]["reached"] <= cut["budget"]["asked"]
    assert any(reader.endswith("conc_se_layers.0.fc2") for reader in cut["recovery"]["errors"])
    assert all(bool(value.isfinite().all()) for value in load(out).state_dict().values())


def test_a_latency_is_shared_out_by_a_ranking_of_batch_norms(run, dense, tmp_path, monkeypatch):
    monkeypatch.setattr(latency_budget, "Timing", parameter_clock)
    options = ("--target-latency", 0.6, "--criterion", "bn", "--allocate", "global")
    cut, stderr = run("prune", dense, *options, "--out", tmp_path / "fast")
    assert 0.9 * cut["budget"]["asked"] <= cut["budget"]["reached"] <= cut["budget"]["asked"]
    assert f"no batch norm follows the 8 layers inside gates, {GATE} first; they are ranked by 'l1'\n" in stderr
