"""The table of the comparison with LEAN: one row per network and stage, means over seeds, and the budget of LEAN."""

import json
import runpy
import sys
from pathlib import Path

import pytest

from epanns.records import Stage
from tests.builders import make_record
from tests.reporting.drawn import assert_drawn_again

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
sys.path.insert(0, str(EXPERIMENTS))  # as when the script is run
TABLE = runpy.run_path(str(EXPERIMENTS / "contest_table.py"))
sys.path.remove(str(EXPERIMENTS))


def cost(n_params: int, macs: int = 100_000_000) -> dict[str, int]:
    return {"n_params": n_params, "param_bytes": 4 * n_params, "backbone_macs": macs}


def write(
    folder: Path,
    seed: int,
    model: str,
    scores: dict[str, float],
    *,
    trained: bool = False,
    n_params: int = 4_000_000,
    rate: float = 3e-4,
) -> str:
    """Write the record of a trial and return its name."""
    pruned = "pruned" in scores
    tuned = {"finetune": {"learning_rate": rate}} if "finetuned" in scores else {}
    trial = f"{model}-{seed}-{trained}-{pruned}-{rate}"
    record = make_record(
        trial,
        seed,
        tuple(Stage(name, {"test": {"mAP": score}}, 1.0) for name, score in scores.items()),
        criterion="l1" if pruned else None,
        experiment="contest",
        model=model,
        width=0.5 if model == "Cnn14_16k" else 1.0,
        layers=(),
        dataset="esc",
        protocol="1 s windows",
        clip_seconds=1.0,
        config={"seed": seed} | tuned | ({"yamnet_sha256": "0" * 64} if trained else {}),
        cost_before=cost(20_000_000),
        cost_after=cost(n_params),
    )
    (folder / "records").mkdir(parents=True, exist_ok=True)
    (folder / "records" / f"{trial}.json").write_text(json.dumps(record.to_dict()))
    return trial


def deployed_folder(folder: Path) -> Path:
    """Return the folder to which `contest_deploy.py` writes its measurements of the networks of `folder`."""
    return folder.parent / "deployed" / folder.name


def deploy(folder: Path, trial: str, *, size: int, change: float = -0.01) -> None:
    deployed_folder(folder).mkdir(parents=True, exist_ok=True)
    found = {
        "bytes": {"model.onnx": 4 * size, "model.int8.onnx": size},
        "int8": {"mAP": {"difference": change}},
        "whole_clip_mAP": 0.5,
    }
    (deployed_folder(folder) / f"{trial}.json").write_text(json.dumps(found))


def test_each_stage_of_a_pruned_network_is_a_row_and_seeds_are_averaged(tmp_path):
    for seed, shift in ((0, 0.0), (1, 0.02)):
        write(tmp_path, seed, "LEAN", {"dense": 0.8 + shift}, trained=True)
        write(tmp_path, seed, "LEAN", {"dense": 0.4 + shift})
        write(tmp_path, seed, "Cnn14_16k", {"dense": 0.6 + shift}, n_params=20_000_000)
        stages = {"dense": 0.6 + shift, "pruned": 0.1 + shift, "recovered": 0.5 + shift, "finetuned": 0.55 + shift}
        write(tmp_path, seed, "Cnn14_16k", stages)
    rows = TABLE["rows_of"](tmp_path)
    assert [(row.name, row.pretraining, row.scores) for row in rows] == [
        ("LEAN", "AudioSet (YAMNet)", pytest.approx([0.8, 0.82])),
        ("LEAN", "none", pytest.approx([0.4, 0.42])),
        ("Cnn14_16k × 0.5, pruned, no recovery", "none", pytest.approx([0.1, 0.12])),
        ("Cnn14_16k × 0.5, pruned, `ls`", "none", pytest.approx([0.5, 0.52])),
        ("Cnn14_16k × 0.5, pruned, `ls`, fine-tuned at 0.0003", "none", pytest.approx([0.55, 0.57])),
        ("Cnn14_16k × 0.5", "none", pytest.approx([0.6, 0.62])),
    ]
    first, *_, last = TABLE["table_of"](rows).splitlines()[2:]
    assert "| 0.810 ± 0.014 (2) | - | 4.00 M | 100 M | 16.00 | - | - |" in first and first.endswith("| - |")
    assert last.endswith("| - |")  # without the size of its int8 file
    write(tmp_path, 2, "LEAN", {"dense": 0.4}, n_params=1)
    with pytest.raises(SystemExit, match="LEAN: two networks of different size in one row"):
        TABLE["rows_of"](tmp_path)


def test_each_learning_rate_has_a_row_after_the_stages_that_they_share(tmp_path):
    for seed, shift in ((1, 0.02), (0, 0.0)):
        stages = {"dense": 0.6, "pruned": 0.1 + shift, "recovered": 0.5 + shift}
        for rate, score in ((3e-4, 0.55), (3e-5, 0.57)):
            write(tmp_path, seed, "Cnn14_16k", stages | {"finetuned": score + shift}, rate=rate)
    assert {row.name.partition("pruned")[2]: row.scores for row in TABLE["rows_of"](tmp_path)} == {
        ", no recovery": pytest.approx([0.1, 0.12]),
        ", `ls`": pytest.approx([0.5, 0.52]),
        ", `ls`, fine-tuned at 0.0003": pytest.approx([0.55, 0.57]),
        ", `ls`, fine-tuned at 3e-05": pytest.approx([0.57, 0.59]),
    }
    write(tmp_path, 0, "Cnn14_16k", {"pruned": 0.1, "recovered": 0.51, "finetuned": 0.55}, rate=1e-3)
    with pytest.raises(SystemExit, match="`ls`, seed 0: two networks with different scores in one row"):
        TABLE["rows_of"](tmp_path)


def test_sizes_and_latencies_are_of_the_last_stage_and_the_largest_int8_file_counts(tmp_path):
    trials = [write(tmp_path, seed, "Cnn14_16k", {"pruned": 0.1, "recovered": 0.5}) for seed in (0, 1)]
    deploy(tmp_path, trials[0], size=4_499_999)
    (deployed_folder(tmp_path) / "latency.json").write_text(
        json.dumps({"milliseconds": {trials[0]: {"torch 1 s": [9.0, 7.0, 8.0]}}})
    )
    pruned, recovered = TABLE["rows_of"](tmp_path)
    assert (pruned.deployed, pruned.milliseconds) == ([], {})
    assert recovered.milliseconds == {"torch 1 s": 8.0}
    assert recovered.is_within
    assert "| 0.500 (1) | 4.00 M | 100 M | 16.00 | 4.50 | -0.010 (1) | 8 | - | - | - | yes |" in TABLE["table_of"](
        [recovered]
    )
    deploy(tmp_path, trials[1], size=4_500_001)
    assert not TABLE["rows_of"](tmp_path)[1].is_within


@pytest.mark.parametrize(
    ("n_params", "macs", "fits"), [(4_580_000, 107_700_000, True), (4_580_001, 1, False), (1, 107_700_001, False)]
)
def test_the_budget_is_that_of_lean(n_params, macs, fits):
    assert TABLE["Row"]("x", "none", cost(n_params, macs)).is_within == fits


def test_the_figure_has_a_line_for_each_row_and_a_mark_for_each_seed(tmp_path):
    for seed, score in ((0, 0.8), (1, 0.9)):
        write(tmp_path, seed, "LEAN", {"dense": score}, trained=True)
    write(tmp_path, 0, "Cnn14_16k", {"pruned": 0.1, "recovered": 0.5})
    figure = TABLE["contest_figure"]("title", "remark", list(map(TABLE["FigureRow"], TABLE["rows_of"](tmp_path))))
    (axes,) = figure.axes
    names = [text.get_text() for text in axes.texts]
    rows = ["LEAN", "pruned, no recovery", "pruned, ls"]
    assert [name for name in names if name in rows] == rows
    seeds = [list(map(float, line.get_xdata())) for line in axes.lines if line.get_marker() == "|"]
    means = [float(line.get_xdata()[0]) for line in axes.lines if line.get_marker() in ("o", "s")]
    assert seeds == [pytest.approx([0.8, 0.9]), pytest.approx([0.1]), pytest.approx([0.5])]
    assert means == pytest.approx([0.85, 0.1, 0.5])


@pytest.mark.parametrize("dataset", ["esc50", "esc10"])
def test_the_committed_figures_are_made_from_the_records(tmp_path, dataset):
    results = EXPERIMENTS.parent / "results" / "lean-contest"
    TABLE["write_figure"](tmp_path, dataset, TABLE["rows_of"](results / dataset))
    assert_drawn_again(results / f"{dataset}.svg", tmp_path / f"{dataset}.svg")


def test_the_tables_in_the_documents_are_made_from_the_records():
    results = EXPERIMENTS.parent / "results" / "lean-contest"
    for dataset in ("esc50", "esc10"):
        rows = TABLE["rows_of"](results / dataset)
        assert TABLE["table_of"](rows) in (results / "README.md").read_text(), "run python experiments/contest_table.py"
