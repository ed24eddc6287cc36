"""``epanns sensitivity``: the table as text, JSON, CSV and figure; progress is logged on stderr."""

import json
import os
import signal
from functools import partial

import numpy as np
import pytest

from epanns.cli import sensitivity as module
from epanns.data.packs.any_pack import SparseTargets
from epanns.pruning.budgets.sensitivity_table import FIGURES, read_sensitivity
from epanns.reporting.figures import style as figure
from tests.builders import make_checkpoint

ONE = ("--layers", "conv_block6.conv1", "--ratios", "0.5")


@pytest.fixture
def run(epanns, tiny_packs, tmp_path):
    """Run `epanns sensitivity` on a small network and pack; return exit code, stdout and stderr."""
    dense = make_checkpoint(tmp_path / "dense", labels=tiny_packs["val"])
    return partial(epanns, "sensitivity", dense, "--data", tiny_packs["val"], "--out", tmp_path / "out")


def test_each_layer_at_three_ratios_goes_into_table_and_figure(run, tmp_path, monkeypatch):
    monkeypatch.setattr(figure, "FORMATS", (".svg", ".pdf", ".png"))
    code, stdout, stderr = run("--recover", "none", "--layers", "conv_block6.conv2,conv_block3")
    layers = ("conv_block3.conv1", "conv_block3.conv2", "conv_block6.conv2")
    table = read_sensitivity(tmp_path / "out" / "sensitivity.csv")
    assert code == 0
    assert table.layers == layers
    assert table.ratios == (0.25, 0.5, 0.75)
    assert f"unpruned mAP {table.dense.mAP:.4f} on 20 clips of synthetic" in stdout
    assert "pruned by l1, nothing done after it; loss of mAP:" in stdout
    losses = "".join(f"{table.loss_of(row):.4f}".rjust(10) for row in table.of("conv_block3.conv2"))
    assert f"conv_block3.conv2{losses}\n" in stdout
    assert stdout.endswith("sensitivity.csv, sensitivity.json, sensitivity.svg, sensitivity.pdf, sensitivity.png\n")
    lines = stderr.splitlines()
    assert len(lines) == 10
    assert lines[0].startswith(f"[1/10] unpruned: mAP {table.dense.mAP:.4f}, about ")
    assert lines[8].startswith("[9/10] conv_block6.conv2 50 %: mAP 0.") and lines[8].endswith(" left")
    assert not lines[9].endswith(" left")
    svg = (tmp_path / "out" / "sensitivity.svg").read_text()
    assert all(f">{layer} (" in svg for layer in layers)
    assert {path.name for path in (tmp_path / "out").glob("sensitivity.[sp]*")} == set(FIGURES)
    assert all((tmp_path / "out" / image).stat().st_size > 8_000 for image in FIGURES)


def test_json_holds_what_was_asked_and_measured(run, tmp_path):
    code, stdout, _ = run(*ONE, "--json")
    result = json.loads(stdout)
    assert code == 0
    assert list(result) == ["out", "asked", "rows", "seconds", "device", "versions", "network", "files"]
    assert [row["layer"] for row in result["rows"]] == ["", "conv_block6.conv1"]
    assert result["asked"]["calibration"] is None
    assert result["asked"]["protocol"] == "whole clip"
    assert result["asked"]["data"]["clips"] == 20
    held = json.loads((tmp_path / "out" / "sensitivity.json").read_text())
    assert held["is_complete"] is True
    assert held["rows"] == result["rows"]


def test_the_calibration_clips_are_named(run, tiny_packs, tmp_path):
    _, stdout, _ = run(*ONE)
    assert "measured again on the scored clips themselves, without their labels; loss of mAP:" in stdout
    _, stdout, _ = run(*ONE, "--calibration", tiny_packs["train"], "--fresh")
    assert "pruned by l1, batch-norm statistics measured again on 60 clips of synthetic; loss of mAP:" in stdout
    code, _, stderr = run(*ONE, "--calibration", tiny_packs["train"], "--recover", "none", "--fresh")
    assert (code, stderr) == (
        1,
        "epanns: --calibration has no use with --recover none: remove --calibration, or choose a recovery\n",
    )


def test_the_same_command_again_measures_nothing_and_another_one_is_refused(run, tmp_path):
    first = run(*ONE)
    files = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    again = run(*ONE)
    assert again == (0, first[1], "resume: 2 of 2 rows are done\n")
    assert files == {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    code, _, stderr = run("--layers", "conv_block6.conv1", "--ratios", "0.25")
    assert code == 1
    assert stderr.startswith(f"epanns: {tmp_path / 'out'} was measured with ratios=[0.5], not [0.25]: repeat")
    assert files == {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert run("--layers", "conv_block6.conv1", "--ratios", "0.25", "--fresh")[0] == 0
    assert read_sensitivity(tmp_path / "out" / "sensitivity.csv").ratios == (0.25,)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138)])
def test_a_signal_ends_it_with_one_line(run, monkeypatch, tmp_path, number, code):
    monkeypatch.setattr(module, "_row_logger", lambda: lambda record: os.kill(os.getpid(), number))
    out = tmp_path / "out"
    where = f"0 of 2 rows are kept in {out}: run the same command again without --fresh to resume"
    assert run(*ONE) == (code, "", f"epanns: stopped by signal {int(number)}; {where}\n")


def test_ratios_that_are_no_numbers_are_refused(run):
    code, _, stderr = run("--ratios", "0.5;0.75")
    assert code == 1
    assert stderr == "epanns: --ratios 0.5;0.75: must be numbers in (0, 1) with commas between, as 0.25,0.5\n"


def test_clips_that_every_network_scores_alike_are_named(run, tmp_path, monkeypatch):
    counts = SparseTargets.counts
    monkeypatch.setattr(SparseTargets, "counts", lambda targets: np.where(counts(targets) > 0, len(targets), 0))
    code, _, said = run(*ONE, "--recover", "none")
    assert code == 0
    assert "are in every one of the 20 clips of synthetic: the mAP of any network is 1, so no pruning" in said
