"""`epanns info`: the content and origin of a checkpoint, as text and as JSON."""

import json
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner

from epanns.cli.info import command
from epanns.errors import CheckpointError
from epanns.labels import LabelSet
from epanns.models.files.checkpoint import save_checkpoint
from epanns.models.files.load import load
from epanns.models.files.released import export_panns
from epanns.models.pruning_plan import PruningPlan
from epanns.models.zoo import build_model
from tests.builders import make_checkpoint, output_of

STEPS = [
    {"step": "train", "training": {"iterations": 30, "seed": 1}, "best_step": 20},
    {"step": "prune", "criterion": "l1", "ratios": {"conv_block4.conv1": 0.15}, "seed": 0},
    {"step": "recover", "method": "bn", "clips": 2048},
]


run = partial(output_of, command)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    labels = LabelSet.of([f"sound, {index}" for index in range(8)])
    model = build_model("Cnn6", width=0.1, labels=labels)
    base = model.spec.with_widths({"conv_block4.conv1": 60})
    plan = PruningPlan(base, {"conv_block4.conv1": tuple(range(51))}, "l1", {"conv_block4.conv1": 0.15}, seed=0)
    save_checkpoint(model, tmp_path / "saved", plan=plan, recipe=STEPS)
    return tmp_path / "saved"


def test_text_names_network_widths_labels_plan_and_recipe(folder: Path) -> None:
    text = run(folder)
    for part in (
        str(folder),
        "Cnn6, family cnn, head clip, 5x5 kernels, embedding 51",
        "32000 Hz, window 1024, hop 320, 64 mel bins, 50 to 14000 Hz",
        "conv_block1 6 | conv_block2 13 | conv_block3 26 | conv_block4 51",
        "8: sound, 0; sound, 1; sound, 2; sound, 3; sound, 4; sound, 5; and 2 more",
        "1 of 4 layers pruned by l1: conv_block4.conv1 60 -> 51",
        "recipe        1. train: 30 iterations, seed 1, best step 20\n",
        "                2. prune: l1, ratio 0.15 in conv_block4.conv1, seed 0\n",
        "                3. recover: bn on 2,048 clips\n",
        "built from random weights with epanns",
        "parent        none",
    ):
        assert part in text


def test_json_is_one_object_with_every_label_and_the_plan(folder: Path) -> None:
    result = json.loads(run(folder, "--json"))
    assert result["path"] == str(folder)
    assert len(result["labels"]) == 8
    assert result["sample_rate"] == 32_000
    assert result["n_params"] == sum(parameter.numel() for parameter in load(folder).parameters())
    assert result["provenance"]["plan"]["kept_channels"]["conv_block4.conv1"] == list(range(51))


def test_the_task_is_shown(folder: Path, tmp_path: Path) -> None:
    assert "  task          multi-label\n" in run(folder)
    assert json.loads(run(folder, "--json"))["task"] == "multi-label"
    model = load(folder)
    model.set_task("single-label")
    save_checkpoint(model, tmp_path / "single")
    assert "  task          single-label\n" in run(tmp_path / "single")


def test_released_file_is_described_too(tmp_path: Path) -> None:
    export_panns(build_model("Cnn14_16k", num_classes=4, width=0.05), tmp_path / "a.pth")
    text = run(tmp_path / "a.pth")
    assert "Cnn14_16k" in text
    assert "a.pth, not a known released file" in text
    assert "recipe        1. train: by the publisher of the file\n" in text
    assert "plan          none" in text
    assert json.loads(run(tmp_path / "a.pth", "--json"))["provenance"]["source"].startswith("a.pth")


def test_an_assumed_head_is_logged(tmp_path: Path) -> None:
    export_panns(build_model("Cnn14", num_classes=4, width=0.05), tmp_path / "a.pth")
    for target in ("a.pth", "saved"):
        if target == "saved":
            save_checkpoint(load(tmp_path / "a.pth"), tmp_path / "saved")
        result = CliRunner().invoke(command, [str(tmp_path / target), "--json"])
        assert json.loads(result.stdout)["head"] == "clip"
        assert result.stderr.startswith(f"{tmp_path / target}: head clip is assumed: ")
        assert result.stderr.count("\n") == 1


def test_sample_rate_that_contradicts_is_refused(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"sample_rate=8000: the checkpoint has 32000: leave it out"):
        run(folder, "--sample-rate", 8000)


def test_networks_on_the_waveform_have_no_front_end_and_are_shown_layer_by_layer(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "saved", "Res1dNet31", num_classes=4, width=1 / 32)
    text = run(tmp_path / "saved")
    assert "Res1dNet31, family res1dnet31, head clip, embedding 64" in text
    assert "front end     32000 Hz, none: the network reads the waveform" in text
    assert "widths        conv0 2 | resnet.layer1 2 2 | resnet.layer2 4 4 4 | resnet.layer3 8 8 8 |" in text
