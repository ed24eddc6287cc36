"""Records survive JSON unchanged, and a record that does not is refused with every reason."""

import json
import re
from dataclasses import replace

import pytest

from epanns.errors import DataError
from epanns.records import FORMAT, RunRecord, Stage, read_records

COST = {"n_params": 100, "param_bytes": 400, "backbone_macs": 1000, "clip_seconds": 5.0}
RECORD = RunRecord(
    trial_id="a1",
    experiment="esc10",
    model="Cnn14",
    width=0.25,
    criterion="l1",
    layers=("conv_block4", "conv_block5"),
    ratio=0.5,
    recover="bn",
    finetune_iterations=200,
    seed=0,
    dataset="ESC-10",
    protocol="whole clip",
    clip_seconds=5.0,
    config={"seed": 0, "batch_size": 32},
    plan_digest="f" * 64,
    cost_before=COST,
    cost_after=COST | {"n_params": 40},
    stages=(
        Stage("pruned", {"test": {"mAP": 0.2, "d_prime": None}}, 0.5),
        Stage("finetuned", {"val": {"mAP": 0.7}, "test": {"mAP": 0.6}}, 30.0, [[0, 0.2], [100, 0.7]], best_step=100),
    ),
    device="cpu",
    versions={"torch": "2.11.0"},
    seconds=31.5,
)


def write(path, record, **changes):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record.to_dict() | changes))


def test_record_survives_json():
    given = json.loads(json.dumps(RECORD.to_dict()))
    assert given["format"] == FORMAT
    assert RunRecord.from_dict(given) == RECORD


def test_the_report_of_a_recovery_survives_json_and_is_left_out_where_there_is_none():
    report = {"method": "ls", "clips": 8, "errors": {"fc1": {"plain": 0.5, "refit": 0.25}}}
    recovered = Stage("recovered", {"test": {"mAP": 0.5}}, 1.0, recovery=report)
    record = replace(RECORD, stages=(*RECORD.stages, recovered))
    given = json.loads(json.dumps(record.to_dict()))
    assert RunRecord.from_dict(given) == record
    assert [stage.get("recovery") for stage in given["stages"]] == [None, None, report]


def test_record_of_an_unpruned_row_survives_json():
    record = replace(RECORD, criterion=None, ratio=None, plan_digest=None, layers=(), stages=())
    assert RunRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record


def test_stage_is_found_by_name():
    assert RECORD.stage("finetuned") is RECORD.stages[1]
    assert RECORD.stage("recovered") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "epanns-record/2"}, "format='epanns-record/2': must be 'epanns-record/1'"),
        ({"creterion": "l1"}, "unknown key 'creterion' (did you mean 'criterion'?)"),
        ({"ratio": 1.0}, "ratio=1.0: must be a number in [0, 1) or null"),
        ({"ratio": float("nan")}, "ratio=nan: must be a number in [0, 1) or null"),
        ({"seed": True}, "seed=True: must be a whole number >= 0"),
        ({"seconds": float("inf")}, "seconds=inf: must be a finite number"),
        ({"layers": "conv_block4"}, "layers='conv_block4': must be a list of texts"),
        (
            {"cost_after": {"n_params": 3}},
            "missing key 'cost_after.param_bytes'; missing key 'cost_after.backbone_macs'",
        ),
        ({"cost_before": COST | {"n_params": 0}}, "cost_before.n_params=0: must be a number in [1, 1e+18]"),
        ({"cost_before": COST | {"backbone_macs": -1}}, "cost_before.backbone_macs=-1: must be a number in [1, 1e+18]"),
        ({"cost_after": COST | {"backbone_macs": 1e308}}, "cost_after.backbone_macs=1e+308: must be a number in [1, "),
        ({"cost_after": []}, "cost_after=[]: must be a table"),
        ({"width": 0}, "width=0: must be a finite number > 0"),
        ({"clip_seconds": -1.0}, "clip_seconds=-1.0: must be a finite number > 0"),
        ({"config": [1]}, "config=[1]: must be a table"),
        ({"trial_id": "../../escaped"}, "trial_id='../../escaped': must be a name of 1 to 200 of the characters"),
        ({"trial_id": "/etc/passwd"}, "trial_id='/etc/passwd': must be a name of 1 to 200 of the characters"),
        ({"trial_id": ".."}, "trial_id='..': must be a name of 1 to 200 of the characters"),
        ({"stages": 3}, "stages=3: must be a list"),
        ({"stages": [3]}, "stages[0] is a int, not an object"),
        (
            {"stages": [{"name": "tuned", "scores": {}, "seconds": 1}]},
            "stages[0].name='tuned' (did you mean 'pruned'?): must be one of dense, pruned, recovered, finetuned, ",
        ),
        (
            {"stages": [{"name": "dense", "scores": {}, "seconds": 1, "curve": [[0, 0.5], [100, "high"]]}]},
            "stages[0].curve[1]=[100, 'high']: must be a pair, step and score",
        ),
        (
            {"stages": [{"name": "dense", "scores": {"test": {"mAP": None}}, "seconds": 1}]},
            "stages[0].scores.test.mAP=None: must be a number in [0, 1]",
        ),
        (
            {"stages": [{"name": "dense", "scores": {"test": {"mAP": -1e30, "accuracy": "1"}}, "seconds": 1}]},
            "stages[0].scores.test.mAP=-1e+30: must be a number in [0, 1]; "
            "stages[0].scores.test.accuracy='1': must be a number in [0, 1] or null",
        ),
        (
            {"stages": [{"name": "dense", "scores": {"test": 3}, "seconds": 1}]},
            "stages[0].scores.test=3: must be an object with the number mAP",
        ),
        ({"stages": [{"name": "dense", "scores": 1, "seconds": 1}]}, "stages[0].scores=1: must be a table"),
        (
            {"stages": [{"name": "dense", "scores": {}, "seconds": "1"}]},
            "stages[0].seconds='1': must be a finite number",
        ),
        ({"stages": [{"name": "dense", "scores": {}}]}, "missing key 'stages[0].seconds'"),
    ],
)
def test_broken_record_is_refused_with_the_reason(change, message):
    with pytest.raises(DataError, match=re.escape(message)):
        RunRecord.from_dict(RECORD.to_dict() | change)


def test_every_problem_is_listed_at_once():
    given = RECORD.to_dict() | {"width": "wide", "device": ""}
    del given["dataset"]
    with pytest.raises(DataError, match=r"missing key 'dataset'; width='wide': must be .*; device='': must be text"):
        RunRecord.from_dict(given)


def test_json_that_is_no_object_is_refused():
    with pytest.raises(DataError, match="it is a list, not an object"):
        RunRecord.from_dict([1])


def test_records_are_found_below_folders_and_read_once(tmp_path):
    write(tmp_path / "sweep" / "trials" / "a1" / "result.json", RECORD)
    write(tmp_path / "published" / "records" / "a1.json", RECORD)
    write(tmp_path / "published" / "records" / "b2.json", replace(RECORD, trial_id="b2", seed=1))
    (tmp_path / "published" / "records.md").write_text("not a record")
    assert [r.trial_id for r in read_records([tmp_path])] == ["a1", "b2"]
    assert [r.trial_id for r in read_records([tmp_path / "published" / "records"])] == ["a1", "b2"]
    assert [r.trial_id for r in read_records([tmp_path / "sweep", tmp_path / "sweep"])] == ["a1"]


def test_two_files_of_one_trial_with_other_scores_are_refused(tmp_path):
    write(tmp_path / "a" / "result.json", RECORD)
    write(tmp_path / "b" / "result.json", RECORD, seed=3)
    with pytest.raises(DataError, match=r"b/result.json and .*a/result.json differ in seed but both are trial a1"):
        read_records([tmp_path])
    write(tmp_path / "b" / "result.json", replace(RECORD, stages=RECORD.stages[1:]), config={})
    with pytest.raises(DataError, match="differ in config, stages but both are trial a1: keep one of them"):
        read_records([tmp_path])


def test_a_repeated_run_is_read_once(tmp_path):
    stages = tuple(replace(stage, seconds=9.0) for stage in RECORD.stages)
    again = replace(RECORD, stages=stages, seconds=99.0, device="cuda", versions={"torch": "2.12.0"})
    write(tmp_path / "a" / "result.json", RECORD)
    write(tmp_path / "b" / "result.json", again)
    assert read_records([tmp_path]) == [RECORD]
    assert read_records([tmp_path / "b", tmp_path / "a"]) == [again]


def test_missing_and_empty_folders_are_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere: no such folder; give the --out of"):
        read_records([tmp_path / "nowhere"])
    with pytest.raises(DataError, match=re.escape(f"{tmp_path}: no run record")):
        read_records([tmp_path])


def test_broken_files_are_named(tmp_path):
    path = tmp_path / "result.json"
    path.write_text('{"format": ')
    with pytest.raises(DataError, match=r"result.json: cannot be read as JSON .*: delete it and run the trial again"):
        read_records([tmp_path])
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"result.json: byte 0 is not UTF-8: delete it"):
        read_records([tmp_path])
    write(path, RECORD, width=None)
    with pytest.raises(DataError, match=r"result.json: not a usable run record: width=None: must be a finite number"):
        read_records([tmp_path])


def test_a_record_of_an_earlier_version_has_no_best_step_and_is_the_same_trial(tmp_path):
    given = RECORD.to_dict()
    assert "best_step" not in given["stages"][0] and given["stages"][1].pop("best_step") == 100
    write(tmp_path / "records" / "old.json", RECORD, stages=given["stages"])
    write(tmp_path / "records" / "new.json", RECORD)
    assert read_records([tmp_path]) == [RECORD]
    given["stages"][1]["best_step"] = -1
    with pytest.raises(DataError, match=r"stages\[1\]\.best_step=-1: must be a whole number >= 0 or null"):
        RunRecord.from_dict(given)
