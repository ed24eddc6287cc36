"""Sensitivities: each row is what pruning, recovery and scoring by hand give; stopped or killed, nothing is redone."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest
import torch

from epanns.complexity.macs import profile
from epanns.data.batches.dataset import PackDataset
from epanns.data.batches.loader import make_loader
from epanns.data.batches.sampler import sequential_batches
from epanns.errors import ConfigError, Interrupted, OutputError, PruningError
from epanns.evaluation.metrics import evaluate
from epanns.evaluation.predict import predict
from epanns.evaluation.protocol import EvaluationProtocol
from epanns.models.files.load import load
from epanns.models.tensors import weights_digest
from epanns.models.zoo import build_model
from epanns.pruning.budgets.sensitivity_table import read_sensitivity
from epanns.pruning.prune import prune
from epanns.pruning.recovery.batch_norm_reestimation import recalibrate_batch_norm
from epanns.stages.sensitivity import SensitivityConfig, measure_sensitivity
from tests.builders import make_checkpoint

CONFIG = SensitivityConfig(ratios=(0.75, 0.25), layers=("conv_block6.conv1", "conv_block2"))
LAYERS = ("conv_block2.conv1", "conv_block2.conv2", "conv_block6.conv1")


@pytest.fixture
def dataset(tiny_packs):
    return PackDataset([tiny_packs["val"]])


@pytest.fixture
def model(dataset, tmp_path):
    return load(make_checkpoint(tmp_path / "dense", labels=dataset.labels))


def mean_average_precision(model, dataset):
    protocol = EvaluationProtocol()
    return evaluate(predict(model, dataset, protocol), dataset.labels, protocol, bootstrap=0).mAP


def test_each_row_is_what_each_step_by_hand_gives(model, dataset, tmp_path):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    record = measure_sensitivity(model, dataset, CONFIG, tmp_path / "out")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    table = record.table
    assert table.dense.mAP == mean_average_precision(model, dataset)
    assert table.network == weights_digest(load(tmp_path / "dense"))
    assert [(row.layer, row.ratio) for row in table.rows] == [(layer, r) for layer in LAYERS for r in (0.25, 0.75)]
    for row in table.rows:
        pruned, plan = prune(model, ratio=row.ratio, layers=[row.layer])
        batches = make_loader(dataset, sequential_batches(len(dataset), 32))
        recalibrate_batch_norm(pruned, (batch.float_waveform() for batch in batches), plan=plan)
        cost = profile(pruned, seconds=0.5)
        assert (row.width, row.n_params) == (plan.widths[row.layer], cost.n_params)
        assert row.backbone_macs == cost.backbone_macs
        assert row.mAP == mean_average_precision(pruned, dataset)
    read = read_sensitivity(tmp_path / "out" / "sensitivity.csv")
    assert read.to_csv() == table.to_csv() == (tmp_path / "out" / "sensitivity.csv").read_text()


def test_recovery_criterion_and_calibration_pack_count(model, dataset, tiny_packs, tmp_path):
    layers = ("conv_block1.conv1",)
    train = PackDataset([tiny_packs["train"]])
    tables = {
        (criterion, recover, calibration is None): measure_sensitivity(
            model,
            dataset,
            SensitivityConfig((0.5,), layers, criterion, recover),
            tmp_path / f"{criterion}-{recover}-{calibration is None}",
            calibration=calibration,
        ).table
        for criterion, recover, calibration in [
            ("l1", "none", None),
            ("l1", "bn", None),
            ("l1", "bn", train),
            ("l1", "ls", train),
            ("random", "bn", train),
        ]
    }
    assert len({table.rows[0].mAP for table in tables.values()}) == 5
    assert len({table.dense.mAP for table in tables.values()}) == 1


def test_a_criterion_that_measures_clips_reads_the_calibration_pack(model, dataset, tiny_packs, tmp_path):
    train = PackDataset([tiny_packs["train"]])
    config = SensitivityConfig((0.5,), ("conv_block1.conv1",), "taylor", "none")
    record = measure_sensitivity(model, dataset, config, tmp_path / "out", calibration=train)
    clips = [(train.__getitems__(range(60)).float_waveform(), train.__getitems__(range(60)).float_target())]
    pruned, _ = prune(model, ratio=0.5, layers=config.layers, criterion="taylor", calibration=clips)
    assert record.table.rows[0].mAP == mean_average_precision(pruned, dataset)


def test_labels_of_the_scored_clips_are_not_used(model, dataset, tmp_path):
    with pytest.raises(ConfigError, match="criterion 'taylor' uses labels, and the labels of the scored clips would"):
        measure_sensitivity(model, dataset, SensitivityConfig(criterion="taylor"), tmp_path / "out")


def test_narrow_layers_keep_a_channel_and_those_of_one_are_left_out(tiny_spec, dataset, tmp_path):
    widths = {"conv_block1.conv1": 1, "conv_block1.conv2": 2}
    narrow = build_model(tiny_spec.with_widths(widths), labels=dataset.labels)
    cells = SensitivityConfig((0.75,)).cells(narrow)
    assert [cell.layer for cell in cells] == list(tiny_spec.widths)[1:]
    assert cells[0] == ("conv_block1.conv2", 0.75, 1)


class Killed(BaseException):
    """What no `except Exception` catches, as little as a kill."""


@pytest.mark.parametrize("stop_after", [1, 2, 5])
def test_a_resumed_measurement_repeats_no_row_and_ends_with_the_same_bytes(model, dataset, tmp_path, stop_after):
    whole = measure_sensitivity(model, dataset, CONFIG, tmp_path / "whole")
    told = []

    def until(record):
        told.append(len(record.rows))
        if len(record.rows) == stop_after:
            raise Killed

    with pytest.raises(Killed):
        measure_sensitivity(model, dataset, CONFIG, tmp_path / "out", on_row=until)
    assert not (tmp_path / "out" / "sensitivity.csv").exists()
    again = []
    record = measure_sensitivity(
        model, dataset, CONFIG, tmp_path / "out", on_row=lambda record: again.append(len(record.rows))
    )
    assert (told, again) == ([*range(stop_after + 1)], [*range(stop_after, 8)])
    assert record.rows == whole.rows
    files = [(tmp_path / name / "sensitivity.csv").read_bytes() for name in ("whole", "out")]
    assert files[0] == files[1]
    held = (tmp_path / "out" / "sensitivity.json").read_bytes()
    measure_sensitivity(model, dataset, CONFIG, tmp_path / "out")
    assert (tmp_path / "out" / "sensitivity.json").read_bytes() == held


@pytest.mark.slow
def test_a_killed_process_can_be_resumed(model, dataset, tiny_packs, tmp_path):
    measure_sensitivity(model, dataset, SensitivityConfig(), tmp_path / "whole")
    out = tmp_path / "out"
    arguments = ["sensitivity", tmp_path / "dense", "--data", tiny_packs["val"], "--out", out]
    command = [sys.executable, "-m", "epanns", *map(str, arguments)]
    for _ in range(2):
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            for _ in range(3):
                line = process.stderr.readline()
            process.kill()
        assert line.startswith("[") and not (out / "sensitivity.csv").exists()
    (out / "sensitivity.csv.partial").write_text("half")
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.match(r"resume: \d+ of \d+ rows are done\n", finished.stderr)
    assert (out / "sensitivity.csv").read_bytes() == (tmp_path / "whole" / "sensitivity.csv").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_it_within_a_row_and_keeps_the_rows_done(model, dataset, tmp_path, number):
    def send(record):
        if len(record.rows) == 2:
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted) as stop:
        measure_sensitivity(model, dataset, CONFIG, tmp_path / "out", on_row=send)
    assert stop.value.exit_code == 128 + number
    assert str(stop.value) == (
        f"stopped by signal {int(number)}; 2 of 7 rows are kept in {tmp_path / 'out'}: run the same command again "
        "without --fresh to resume"
    )
    assert len(json.loads((tmp_path / "out" / "sensitivity.json").read_text())["rows"]) == 2


def test_another_measurement_is_refused_and_fresh_starts_over(model, dataset, tmp_path):
    out = tmp_path / "out"
    measure_sensitivity(model, dataset, SensitivityConfig((0.5,), ("conv_block1.conv1",)), out)
    other = SensitivityConfig((0.5,), ("conv_block1.conv1",), criterion="l2")
    with pytest.raises(OutputError, match=r"measured with criterion='l1', not 'l2': repeat its options to resume it"):
        measure_sensitivity(model, dataset, other, out)
    (out / "precious").write_text("")
    with pytest.raises(OutputError, match="holds 'precious', which is no part of a measurement, so"):
        measure_sensitivity(model, dataset, other, out, fresh=True)
    assert (out / "sensitivity.csv").exists()
    (out / "precious").unlink()
    assert measure_sensitivity(model, dataset, other, out, fresh=True).asked["criterion"] == "l2"
    assert sorted(file.name for file in out.iterdir()) == ["sensitivity.csv", "sensitivity.json"]


def test_a_folder_of_something_else_is_left_alone(model, dataset, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("")
    (tmp_path / "file").write_text("")
    for name, message in (
        ("out", "exists already and holds no sensitivities"),
        ("file", "is a file, not a folder"),
    ):
        with pytest.raises(OutputError, match=message):
            measure_sensitivity(model, dataset, CONFIG, tmp_path / name)
    (tmp_path / "out" / "precious").rename(tmp_path / "out" / "sensitivity.json")
    with pytest.raises(OutputError, match=r"sensitivity.json: cannot be read .*: give --fresh or another --out"):
        measure_sensitivity(model, dataset, CONFIG, tmp_path / "out")


@pytest.mark.parametrize("fresh", [False, True])
def test_two_processes_do_not_measure_in_one_folder(model, dataset, tmp_path, fresh):
    """The second is refused and deletes nothing; the first continues to its end."""
    config = SensitivityConfig((0.5,), ("conv_block1.conv1",))

    def measure_again(record):
        files = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
        with pytest.raises(OutputError, match="out is in use by process"):
            measure_sensitivity(model, dataset, config, tmp_path / "out", fresh=fresh)
        assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == files

    assert measure_sensitivity(model, dataset, config, tmp_path / "out", on_row=measure_again).is_complete


def test_an_error_of_the_measurement_is_not_reported_as_a_lock(model, dataset, tmp_path):
    def fail(record):
        raise BlockingIOError(11, "a pipe is full")

    with pytest.raises(BlockingIOError, match="a pipe is full"):
        measure_sensitivity(model, dataset, CONFIG, tmp_path / "out", on_row=fail)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"ratios": ()}, ConfigError, "ratios=: give each ratio once"),
        ({"ratios": (0.5, 0.5)}, ConfigError, "ratios=0.5,0.5: give each ratio once"),
        ({"ratios": (1.5,)}, PruningError, r"ratio 1.5 for conv_block1.conv1: must be in \[0, 1\)"),
        ({"ratios": (0.5, 0.01)}, PruningError, "ratio 0.01 removes no channel of any layer"),
        ({"layers": ("conv_block7",)}, PruningError, "unknown layer 'conv_block7'"),
        ({"criterion": "l3"}, PruningError, "unknown criterion 'l3'"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is(model, dataset, tmp_path, changes, kind, message):
    with pytest.raises(kind, match=message):
        measure_sensitivity(model, dataset, SensitivityConfig(**changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_network_without_a_checkpoint_is_refused(tiny_spec, dataset, tmp_path):
    model = build_model(tiny_spec, labels=dataset.labels)
    with pytest.raises(ConfigError, match="has no checkpoint: save it with epanns.save, then load it"):
        measure_sensitivity(model, dataset, CONFIG, tmp_path / "out")


def test_a_table_without_weights_digest_gets_it_without_measuring(model, dataset, tmp_path, monkeypatch):
    out = tmp_path / "out"
    config = SensitivityConfig((0.5,), ("conv_block1.conv1",))
    measure_sensitivity(model, dataset, config, out)
    whole = (out / "sensitivity.csv").read_text()
    held = json.loads((out / "sensitivity.json").read_text())
    assert held.pop("network") == weights_digest(model)
    (out / "sensitivity.json").write_text(json.dumps(held))
    (out / "sensitivity.csv").write_text(whole.replace(weights_digest(model), ""))
    monkeypatch.setattr("epanns.stages.scorer.score", None)
    measure_sensitivity(model, dataset, config, out)
    assert (out / "sensitivity.csv").read_text() == whole
