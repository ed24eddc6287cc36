"""Run records as a pandas table."""

import json
import math
import subprocess
import sys

import pytest

import epanns
from epanns.errors import ConfigError, DataError
from epanns.reporting import frame
from tests.builders import make_record, make_stage


@pytest.fixture
def folder(tmp_path, records):
    (tmp_path / "records").mkdir()
    for record in records:
        (tmp_path / "records" / f"{record.trial_id}.json").write_text(json.dumps(record.to_dict()))
    return tmp_path


def test_each_record_is_one_row_of_flat_values(folder, records):
    table = epanns.read_records(folder)
    assert sorted(table.trial_id) == sorted(record.trial_id for record in records)
    for record in records:
        (row,) = table[table.trial_id == record.trial_id].to_dict("records")
        assert (row["model"], row["width"], row["layers"]) == ("Cnn14", 0.25, ";".join(record.layers))
        assert (row["n_params"], row["param_bytes"]) == (
            record.cost_after["n_params"],
            record.cost_after["param_bytes"],
        )
        assert row["mac_reduction"] == 1 - record.cost_after["backbone_macs"] / record.cost_before["backbone_macs"]
        assert row["config.seed"] == record.seed
        for name in ("dense", "pruned", "finetuned"):
            stage = record.stage(name)
            expected = math.nan if stage is None else stage.scores["test"]["mAP"]
            assert row[f"{name}_test_mAP"] == pytest.approx(expected, nan_ok=True)


def test_columns_have_one_type_whether_or_not_records_have_the_value(folder):
    table = epanns.read_records(str(folder))
    types = {name: str(table[name].dtype) for name in ("n_params", "seed", "ratio", "latency_ms", "dense_test_mAP")}
    expected = ["Int64", "Int64", "float64", "float64", "float64"]
    assert list(types.values()) == expected
    assert table.latency_ms.isna().all()


def test_intervals_and_latency_are_columns_and_broken_ones_are_left_out(tmp_path):
    intervals = {"test": {"by_clip": {"n_clips": 3, "mAP": [0.1, 0.3]}}, "val": {"by_clip": 3}, "odd": 4}
    given = make_record("a", 0, (make_stage("dense", 0.2),), intervals=intervals)
    slow = given.cost_after | {"latency_ms": {"median": 3.5, "threads": 1}}
    (tmp_path / "result.json").write_text(json.dumps(given.to_dict() | {"cost_after": slow}))
    row = epanns.read_records(tmp_path).iloc[0]
    assert (row.test_mAP_low, row.test_mAP_high, row.latency_ms) == (0.1, 0.3, 3.5)
    assert not [name for name in row.index if name.startswith(("val_", "odd"))]


def test_several_folders_are_one_table_and_a_missing_one_is_refused(folder, tmp_path):
    assert len(epanns.read_records(folder, folder)) == len(epanns.read_records(folder))
    with pytest.raises(DataError, match="no such folder"):
        epanns.read_records(folder, tmp_path / "nowhere")


def test_without_pandas_the_error_gives_the_command(monkeypatch, folder):
    monkeypatch.setattr(frame, "is_installed", lambda module: False)
    with pytest.raises(ConfigError, match=r"needs pandas, which is not installed; pip install -e \"\.\[report\]\""):
        epanns.read_records(folder)


def test_torch_is_not_imported(folder):
    code = f"import sys, epanns; assert len(epanns.read_records({str(folder)!r})) == 8; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"
