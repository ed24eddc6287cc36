"""Networks on the waveform from the command line: trained, judged, used, pruned and used again."""

import json

import pytest

from epanns.cli.main import cli
from tests.builders import make_manifest, make_packs


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Generated sound at 32 kHz, the rate of these networks: clips, and packs of train, val and test."""
    manifest = make_manifest(tmp_path_factory.mktemp("sounds"), clips=40, classes=3, sample_rate=32_000)
    make_packs(manifest, sample_rate=32_000)
    return manifest.parent


@pytest.mark.parametrize("name", ["LeeNet11", "Wavegram_Logmel_Cnn14"])
def test_train_evaluate_tag_and_prune(runner, tmp_path, sounds, name):
    def run(*arguments):
        result = runner.invoke(cli, [*map(str, arguments), "--json"], catch_exceptions=False)
        assert result.exit_code == 0
        return json.loads(result.stdout)

    base, pruned = tmp_path / "base", tmp_path / "pruned"
    steps = ("--iterations", 2, "--batch-size", 4, "--validate-every", 1)
    run("train", name, "--width", 0.0625, "--train", sounds / "train", "--val", sounds / "val", *steps, "--out", base)
    cut = run("prune", base, "--ratio", 0.5, "--calibration", sounds / "train", "--recover", "bn", "--out", pruned)
    assert cut["n_params"] < 0.6 * run("profile", base)["n_params"]
    sound = next((sounds / "audio").rglob("*.wav"))
    for network in (base, pruned):
        assert 0 <= run("evaluate", network, "--data", sounds / "test")["mAP"] <= 1
        (window,) = run("tag", network, sound)["windows"]
        assert len(window["tags"]) == 3
