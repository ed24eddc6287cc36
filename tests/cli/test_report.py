"""``epanns report``: records in, tables and a figure out, and the table into a document."""

import json
from functools import partial

import pytest

from epanns.records import Stage, read_records
from epanns.training.metrics import write_metrics
from tests.builders import make_finished_run, make_record

COST = {"n_params": 5_000_000, "param_bytes": 20_000_000, "backbone_macs": 1_000_000_000}


@pytest.fixture
def run(epanns):
    """Run `epanns report`; return exit code, stdout and stderr."""
    return partial(epanns, "report")


@pytest.fixture
def sweep(tmp_path):
    """A folder of two runs of one base."""
    for seed in (0, 1):
        stages = (Stage("dense", {"test": {"mAP": 0.6 + 0.1 * seed}}, 1.0),)
        record = make_record(
            f"base{seed}",
            seed,
            stages,
            model="Cnn6",
            width=1.0,
            dataset="tones",
            clip_seconds=1.0,
            config={},
            cost_before=COST,
            cost_after=COST,
        )
        folder = tmp_path / "sweep" / "trials" / record.trial_id
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps(record.to_dict()))
    return tmp_path / "sweep"


def test_json_names_the_files_and_counts_the_runs(run, sweep, tmp_path):
    code, out, _ = run(sweep, "--out", tmp_path / "report", "--no-quoted", "--json")
    result = json.loads(out)
    assert code == 0
    assert (result["n_records"], result["n_rows"]) == (2, 1)
    assert {"table.md", "table.csv", "records.csv", "figure.svg"} <= {file.split("/")[-1] for file in result["files"]}
    assert not (tmp_path / "report" / "quoted.md").exists()


def test_text_is_the_table_and_where_it_is(run, sweep, tmp_path):
    _, out, _ = run(sweep, "--out", tmp_path / "report")
    assert "| Cnn6 | unpruned | 5.00 M | 20.0 | 1.00 G | 0.650 ± 0.071 | 2 |" in out
    assert f"2 records in 1 rows; in {tmp_path / 'report'}: table.md, " in out


def test_table_goes_into_a_document(run, sweep, tmp_path):
    document = tmp_path / "README.md"
    document.write_text("before\n<!-- epanns report: smoke -->\n<!-- end of epanns report -->\nafter\n")
    code, _, _ = run(sweep, "--out", tmp_path / "report", "--into", document, "--name", "smoke")
    assert code == 0
    assert "| Cnn6 | unpruned |" in document.read_text()
    assert document.read_text().startswith("before\n")
    assert document.read_text().endswith("\nafter\n")


def test_into_needs_a_name(run, sweep, tmp_path):
    code, _, err = run(sweep, "--out", tmp_path / "report", "--name", "smoke")
    assert code == 1
    assert "--into None and --name smoke go together: give both or neither" in err


@pytest.mark.parametrize("folder", ["nowhere", "."])
def test_folder_without_records_ends_in_one_line(run, tmp_path, folder):
    code, out, err = run(tmp_path / folder, "--out", tmp_path / "report")
    assert (code, out) == (1, "")
    assert err.startswith(f"epanns: {tmp_path / folder}: no ")
    assert err.count("\n") == 1


def test_quoted_results_show_alone_and_without_torch(run, tmp_path):
    code, out, err = run("--quoted", "--out", tmp_path / "quoted")
    assert (code, err) == (0, "")
    assert "| LEAN, GPU | 0.4677 |" in out
    assert (tmp_path / "quoted" / "quoted.md").read_text() == out.removesuffix("\n")
    rows = json.loads(run("--quoted", "--json")[1])["quoted"]
    assert {(row["name"], row["dataset"]) for row in rows} >= {("YAMNet", "AudioSet"), ("PaSST-S", "FSD50K")}
    assert {path.name for path in (tmp_path / "quoted").iterdir()} == {"quoted.md", "quoted.csv"}


def test_quoted_results_follow_the_measured_ones_in_tables_of_their_own(run, sweep, tmp_path):
    _, out, _ = run(sweep, "--out", tmp_path / "report", "--quoted")
    measured, _, quoted = out.partition("**AudioSet, mAP** (quoted, not measured here)")
    assert "| Cnn6 | unpruned |" in measured
    assert "0.650" not in quoted


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no DIR: name folders with run records, or give --quoted for published results"),
        (("--no-quoted",), "no DIR: name folders"),
        (
            ("--quoted", "--into", __file__, "--name", "x"),
            "takes the table of measured runs: give a DIR",
        ),
        (("somewhere",), "--out is missing: give the folder for tables and figures"),
    ],
)
def test_folders_that_cannot_be_reported_are_refused_in_one_line(run, arguments, message):
    code, out, err = run(*arguments)
    assert (code, out) == (1, "")
    assert message in err
    assert err.count("\n") == 1


def test_quoted_results_overwrite_no_file_of_another_program(run, tmp_path):
    (tmp_path / "quoted.md").write_text("mine")
    code, _, err = run("--quoted", "--out", tmp_path)
    assert code == 1
    assert "quoted.md exists and was not written by a report: choose another --out" in err
    assert (tmp_path / "quoted.md").read_text() == "mine"


def test_training_runs_are_drawn_together(run, tmp_path):
    for name, best in (("base", 0.6), ("pruned", 0.5)):
        write_metrics(tmp_path / name, [{"step": 0, "loss": 0.7, "mAP": 0.1}, {"step": 1200, "loss": 0.1, "mAP": best}])
        (tmp_path / name / "training.json").write_text('{"asked": {"model": {"name": "Cnn14"}}}')
    runs, out = (tmp_path / "base", tmp_path / "pruned"), tmp_path / "curves"
    code, stdout, _ = run(*runs, "--out", out)
    assert code == 0
    assert stdout.startswith(f"{runs[0]}: best mAP 0.6000 at step 1,200\n{runs[1]}: best mAP 0.5000 at step 1,200\nin ")
    answer = json.loads(run(*runs, "--out", out, "--json")[1])
    assert answer["runs"][1] == {"run": str(runs[1]), "score": "mAP", "best_step": 1200, "best_score": 0.5}
    assert answer["files"] == [str(out / name) for name in sorted(path.name for path in out.iterdir())[::-1]]
    code, _, stderr = run(*runs, "--out", out, "--into", runs[0] / "training.json", "--name", "x")
    assert code == 1
    assert "takes the table of run records: training runs have learning curves only" in stderr


def test_trials_without_a_result_are_on_stdout_in_the_table_and_in_json(run, sweep, tmp_path):
    (sweep / "trials" / "failed").mkdir()
    reason = {"kind": "ValueError", "message": "no\x1b room"}
    (sweep / "trials" / "failed" / "error.json").write_text(json.dumps(reason))
    (sweep / "sweep.json").write_text(json.dumps({"experiment": "x", "trials": ["base0", "base1", "failed"]}))
    code, out, err = run(str(sweep), "--out", str(tmp_path / "out"), "--no-quoted")
    counted = "Trials without a result, which are in no row: 1. 1 of them: no\\\\x1b room."
    assert (code, err) == (0, "")
    assert counted in out
    assert counted in (tmp_path / "out" / "table.md").read_text()
    assert f"  without a result: {sweep}/trials/failed: no\\x1b room\n" in out
    found = json.loads(run(str(sweep), "--out", str(tmp_path / "out"), "--no-quoted", "--json")[1])
    assert found["failed"] == [{"trial": str(sweep / "trials" / "failed"), "reason": "no\x1b room"}]


def test_the_outputs_of_other_commands_are_on_the_page_and_checkpoints_have_cards(
    epanns, tiny_checkpoint, tiny_packs, tmp_path
):
    runs = tmp_path / "runs"
    steps = [
        (
            "evaluate",
            tiny_checkpoint,
            "--data",
            tiny_packs["val"],
            "--latency",
            "--bootstrap",
            20,
            "--out",
            runs / "scores",
        ),
        ("agree", tiny_checkpoint, tiny_checkpoint, "--data", tiny_packs["val"], "--out", runs / "agreement"),
        (
            *("sensitivity", tiny_checkpoint, "--data", tiny_packs["val"], "--out", runs / "sensitivity"),
            *("--layers", "conv_block3.conv1", "--ratios", "0.5", "--recover", "none"),
        ),
    ]
    for step in steps:
        assert epanns(*step)[0] == 0
    make_finished_run(runs / "training", {"mAP": (0.1, 0.2, 0.4, 0.3)})
    folders = (runs, tiny_checkpoint)
    code, out, err = epanns("report", *folders, "--out", tmp_path / "report", "--no-quoted", "--json")
    assert code == 0, err
    files = {path.removeprefix(f"{tmp_path / 'report'}/") for path in json.loads(out)["files"]}
    (card,) = [name for name in files if name.startswith("cards/")]
    assert files >= {"report.html", "learning_curves.svg", "per_class.svg", "deployment.svg"}
    page = (tmp_path / "report" / "report.html").read_text()
    record = read_records([runs])[0]
    milliseconds = record.cost_after["latency_ms"]["median"]
    assert "latency for 0.5 s, ms" in page
    assert f"{milliseconds:.2f} ms" in page or f"{milliseconds:.1f} ms" in page or f"{milliseconds:.3g} ms" in page
    for heading in ("Sensitivity of layers: sensitivity", "Average precision by class", "Training runs"):
        assert f"<h2>{heading}</h2>" in page
    assert "Agreement with the unpruned network" in page
    assert page.count("1.0000") >= 3
    text = (tmp_path / "report" / card).read_text()
    assert f'"value": {record.stages[0].scores["val"]["mAP"]}' in text
    assert (tiny_checkpoint / "README.md").read_text().rstrip() in text
    assert f"| {record.stages[0].scores['val']['mAP']:.4f} |" in text
    only = epanns("report", runs / "sensitivity", "--out", tmp_path / "alone", "--no-quoted", "--json")
    assert (only[0], json.loads(only[1])["n_records"]) == (0, 0)


def test_a_broken_source_is_noted_and_left_out(run, sweep, tmp_path):
    (sweep / "agreement.json").write_text('{"pruned": 3}')
    (sweep / "config.json").write_text("{}")
    (sweep / "model.safetensors").touch()
    code, _, err = run(sweep, "--out", tmp_path / "report", "--no-quoted")
    assert code == 0
    assert (
        "agreement.json: has no pruned, dense, dataset: give the --out of `epanns agree`; left out of the report" in err
    )
    assert "config.json: has no weights_sha256: write the checkpoint again; no card is made" in err
    assert not (tmp_path / "report" / "cards").exists()
